"""What each named tower costs, worked out from its network: D, parameters, and operations an image.

Nothing is drawn and nothing computed: weights are shapes, the forward pass is traced. Blocks of one kind cost the same,
so a network is traced with one and with two blocks of each stage and the rest is multiplied. That takes half a second a
tower, so `costs.py` holds what came out for the towers of this package.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import jax
import jax.extend.core
import numpy as np
from PIL import Image

from lit_precompute.config import TowerConfig
from lit_precompute.towers.costs import COSTS
from lit_precompute.towers.published import settled
from lit_precompute.towers.tower import RandomWeights, Tower, Weights

F = TypeVar("F")
Build = Callable[[TowerConfig, Weights], Tower]
BATCH = 8  # some towers take images by eights
DEPTHS = ("depth", "num_hidden_layers", "depths")  # what families call it; the last one has a number a stage


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    Attributes:
        dim: D.
        image_size: side in pixels, or None where images keep their aspect.
        parameters: numbers in the tower.
        flops: operations of its matrix products and convolutions; a multiply-add counts as two.
    """

    dim: int
    image_size: int | None
    parameters: int
    flops: int


@dataclass(frozen=True)
class Sketch(RandomWeights):
    """Weights without numbers, of a network with one block a stage, and two in the stage `twice`.

    Attributes:
        stages: filled with the blocks of each stage that the whole network has.
    """

    twice: int | None = None
    stages: list[int] = field(default_factory=list)

    def of_size(self, facts: F) -> F:
        name = next(name for name in DEPTHS if hasattr(facts, name))
        depth = getattr(facts, name)
        self.stages[:] = depth if isinstance(depth, tuple) else (depth,)
        few = tuple(2 if stage == self.twice else 1 for stage in range(len(self.stages)))
        return replace(facts, **{name: few if isinstance(depth, tuple) else few[0]})  # type: ignore[type-var]

    def draw(
        self, shapes: Mapping[str, tuple[int, ...]], fan_in: Callable[[str], int]
    ) -> dict[str, np.ndarray]:
        """Zeros that share one number."""
        return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def cost(config: TowerConfig, build: Build) -> Cost:
    """What a named tower costs.

    Raises:
        ValueError: the name has no size.
    """
    sketch = Sketch(seed=0)
    tower = build(config, sketch)
    one = np.array(_counted(tower))
    total = one.copy()
    for stage, depth in enumerate(sketch.stages):
        if depth > 1:
            total += (depth - 1) * (np.array(_counted(build(config, Sketch(0, stage)))) - one)
    size = tower.info.preprocessing.get("image_size")
    return Cost(tower.info.embedding_dim, size, int(total[0]), int(total[1]))


def _counted(tower: Tower) -> tuple[int, int]:
    """(parameters, operations) of a tower as it is."""
    leaves = jax.tree.leaves(tower.params)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tower.params)
    pixels = tower.preprocess(Image.new("RGB", (8, 8)))
    batch = jax.ShapeDtypeStruct((BATCH, *pixels.shape), pixels.dtype)
    traced = jax.make_jaxpr(tower.forward)(params, batch)
    return sum(leaf.size for leaf in leaves), flops(traced.jaxpr) // BATCH


def flops(jaxpr: Any) -> int:
    """Operations of the matrix products and convolutions of a traced function; of branches the dearest counts."""
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * inner * equation.outvars[0].aval.size
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * equation.outvars[0].aval.size * math.prod(kernel) // outputs
        elif name == "cond":
            total += max(flops(branch.jaxpr) for branch in equation.params["branches"])
        else:
            total += equation.params.get("length", 1) * sum(map(flops, _inside(equation.params)))
    return total


def _inside(params: Mapping[str, Any]) -> Iterator[Any]:
    """The functions an operation calls."""
    for value in params.values():
        if isinstance(value, jax.extend.core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, jax.extend.core.Jaxpr):
            yield value


def table(towers: Mapping[str, Build], places: Mapping[str, str]) -> Iterator[str]:
    """The lines of `lit-embed --list-towers`.

    Args:
        towers: every name and what builds it.
        places: where the weights of a name are published.
    """
    width = max(map(len, towers))
    yield f"{'tower':{width}} {'D':>6} {'pixels':>6} {'M params':>9} {'GFLOPs':>8}  --checkpoint"
    for name, found in costs(towers, COSTS):
        if found is None:
            yield f"{name:{width}} {'as the checkpoint says':>32}  give it"
            continue
        figures = f"{found.dim:6} {found.image_size or 'aspect':>6} {found.parameters / 1e6:9,.1f}"
        yield f"{name:{width}} {figures} {found.flops / 1e9:8,.1f}  {places.get(name, 'give it')}"


def costs(
    towers: Mapping[str, Build], known: Mapping[str, tuple[int, int | None, int, int]]
) -> Iterator[tuple[str, Cost | None]]:
    """Each name with what it costs, worked out where that is not known; None for a family, which has no size."""
    for name, build in towers.items():
        if name in known:
            yield name, Cost(*known[name])
            continue
        try:
            yield name, cost(settled(TowerConfig(name, "random:0")), build)
        except ValueError:
            yield name, None


def module(towers: Mapping[str, Build]) -> Iterator[str]:
    """The lines of `costs.py`."""
    yield '"""What each named tower costs, as `python -m benchmarks.tower_costs` works it out; rewritten by it."""\n'
    yield "# name: (D, pixels or None, parameters, operations an image)"
    yield "COSTS: dict[str, tuple[int, int | None, int, int]] = {"
    for name, found in costs(towers, {}):
        if found is not None:
            yield f'    "{name}": ({found.dim}, {found.image_size}, {found.parameters}, {found.flops}),'
    yield "}"
