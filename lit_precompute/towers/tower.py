"""What every family of image towers gives: weights, a pure forward function, and the preprocessing they expect."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np

from lit_precompute.config import TowerConfig
from lit_precompute.preprocess import Preprocess
from schemas.manifest import TowerInfo
from schemas.weights import WeightsFile

F = TypeVar("F")


@dataclass(frozen=True)
class Tower:
    """A locked image tower.

    Attributes:
        info: what decides its embeddings; goes into the manifest.
        preprocess: RGB image -> uint8 [S, S, 3].
        params: pytree of float32 numpy arrays, not yet on any device.
        forward: (params, pixels uint8 [B, S, S, 3]) -> float32 [B, D], not normalised. Pure, to be jitted by the
            caller; scales the pixels itself, so that one byte a value crosses to the device.
    """

    info: TowerInfo
    preprocess: Preprocess
    params: Any
    forward: Callable[[Any, jax.Array], jax.Array]


@dataclass(frozen=True)
class RandomWeights:
    """Weights drawn from a seed, for benchmarks and tests: they cost as much and say nothing."""

    seed: int

    def of_size(self, facts: F) -> F:
        """The network that weights are drawn for, given that of a preset: the same."""
        return facts

    def draw(
        self, shapes: Mapping[str, tuple[int, ...]], fan_in: Callable[[str], int]
    ) -> dict[str, np.ndarray]:
        """Normal float32 tensors of variance 2 / fan_in, in the order of the names; the same for a seed everywhere."""
        rng = np.random.default_rng(self.seed)
        return {
            name: rng.standard_normal(shape, np.float32) * np.float32((2 / fan_in(name)) ** 0.5)
            for name, shape in shapes.items()
        }


Weights = WeightsFile | RandomWeights


def weights_name(weights: Weights) -> str:
    """How the manifest names weights: the digest of a file's bytes, or `random:SEED`."""
    return f"random:{weights.seed}" if isinstance(weights, RandomWeights) else weights.sha256


def as_asked(config: TowerConfig, tower: Tower) -> Tower:
    """The tower, if it is what the configuration asks for beyond what its family looked at.

    Raises:
        ValueError: it has no head though one was asked for, or cannot compute as asked.
    """
    if config.features == "head" and tower.info.features != "head":
        raise ValueError(
            f"--features head: the checkpoint of {config.tower} must have a head, found none. Leave --features out."
        )
    if tower.info.architecture.get("compute_dtype", "float32") != config.compute_dtype:
        raise ValueError(
            f"--compute-dtype: {config.tower} must be computed in float32, found {config.compute_dtype}."
        )
    return tower


def check_fit(source: str, found: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compares the tensors of a checkpoint with what a tower needs.

    Raises:
        ValueError: names every missing, surplus and mis-shaped tensor at once.
    """
    missing = [f"{name} {list(expected[name])}" for name in expected if name not in found]
    surplus = [f"{name} {list(found[name].shape)}" for name in found if name not in expected]
    shaped = [
        f"{name} must be {list(shape)}, found {list(found[name].shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    kind = [f"{name} {array.dtype}" for name, array in found.items() if not _is_float(array.dtype)]
    problems = {"missing": missing, "surplus": surplus, "wrong shape": shaped, "not floating point": kind}
    if any(problems.values()):
        listed = "\n".join(f"  {what}: {'; '.join(names)}" for what, names in problems.items() if names)
        raise ValueError(
            f"{source}: the checkpoint must have exactly the tensors of this tower, found differences. Choose the "
            f"tower the checkpoint was made for.\n{listed}"
        )


def _is_float(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"
