"""What every Hugging Face family does alike: facts from `config.json`, presets, preprocessing, checked tensors."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import jax
import ml_dtypes
import numpy as np

from lit_precompute.config import TowerConfig
from lit_precompute.preprocess import Preprocess
from lit_precompute.towers.chunks import by_tokens
from lit_precompute.towers.hf_layers import ACTIVATIONS, Params, normalise
from lit_precompute.towers.hf_processor import read_processor
from lit_precompute.towers.hf_tensors import cuts_patches, is_linear, with_kernels
from lit_precompute.towers.tower import RandomWeights, Tower, Weights, weights_name
from schemas.manifest import TowerInfo
from schemas.model_folder import PROCESSOR, ModelFolder

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Layers after the pooling: a rounding there would not average out.
FULL_PRECISION = ("visual_projection.", "classifier.", "pooler.", "vision_model.head.", "head.", "attn_pool.")
MAX_SIZE = 1 << 20  # no published network has a width or depth near it; a file that claims more is broken


F = TypeVar("F", bound="DataclassInstance")
Embed = Callable[[Params, jax.Array], jax.Array]
ReadProcessor = Callable[[str, Mapping[str, Any], str, TowerConfig], Preprocess]


@dataclass(frozen=True)
class Family(Generic[F]):
    """One family of Hugging Face towers.

    Attributes:
        name: stands first in the architecture, and is the name of the tower that takes whatever the folder says.
        facts: dataclass of what decides the network. Fields are named as in config.json, and their defaults are those
            of the reference's configuration class, which published files leave out.
        sections: for each model_type it takes, the section of config.json that describes the image tower, "" for all.
        presets: name -> facts that must be met; random weights are drawn for them.
        processor: the preprocessing of a preset without folder, and the class where the file names none.
        defaults: by model_type, defaults that differ from those of `facts`.
    """

    name: str
    facts: type[F]
    sections: Mapping[str, str]
    presets: Mapping[str, F]
    processor: Callable[[F], dict[str, Any]]
    defaults: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Opened(Generic[F]):
    """A model whose configuration was read and whose tensors were not yet checked."""

    facts: F
    preprocess: Preprocess
    weights: Weights


def open_model(
    family: Family[F], config: TowerConfig, weights: Weights, read: ReadProcessor = read_processor
) -> Opened[F]:
    """Reads configuration and preprocessing of a folder, or of the preset for random weights.

    Args:
        read: makes a `Preprocess` of the processor's settings.

    Raises:
        ValueError: the folder is of another family or size, or its preprocessing cannot be followed.
    """
    if isinstance(weights, RandomWeights):
        if config.tower not in family.presets:
            raise ValueError(
                f"--tower: random weights need a size, found {config.tower!r}. Known: {', '.join(family.presets)}."
            )
        facts, source = weights.of_size(family.presets[config.tower]), config.tower
        processor: Mapping[str, Any] | None = None
    elif isinstance(weights, ModelFolder):
        source, processor = weights.source, weights.processor
        facts = _facts_of(family, source, weights.config)
        if config.tower in family.presets:
            _check_preset(family, config.tower, facts)
    else:
        raise ValueError(
            f"--checkpoint: {config.tower} must be a folder with config.json and model.safetensors, or "
            f"hf://org/model@revision, found the file {weights.source}."
        )
    if processor is None:
        if config.tower not in family.presets:
            raise ValueError(
                f"{source}: must hold {PROCESSOR}, found none. Fetch it, or name the size: "
                f"{', '.join(family.presets)}."
            )
        processor = family.processor(facts)
    kind = family.processor(facts)["image_processor_type"]
    return Opened(facts, read(source, processor, kind, config), weights)


def _facts_of(family: Family[F], source: str, config: Mapping[str, Any]) -> F:
    kind = str(config.get("model_type"))
    if kind not in family.sections:
        raise ValueError(
            f"{source}: config.json must have a model_type of {', '.join(family.sections)} for this tower, found "
            f"{kind!r}. Choose the tower the checkpoint was made for."
        )
    section = (config.get(family.sections[kind]) or {}) if family.sections[kind] else config
    if not isinstance(section, Mapping):
        raise ValueError(
            f"{source}: config.json: {family.sections[kind]} must be an object, found {section!r}."
        )
    found = dict(family.defaults.get(kind, {})) | dict(section)
    if (
        kind == "clip" and "projection_dim" in config
    ):  # the one fact a dual model keeps outside its image section
        found["projection_dim"] = config["projection_dim"]
    channels = found.get("num_channels", 3)
    if channels != 3:
        raise ValueError(f"{source}: config.json: num_channels must be 3, found {channels!r}.")
    facts = {one.name: _frozen(found[one.name]) for one in fields(family.facts) if one.name in found}
    _check_facts(source, family.facts(), facts)
    return family.facts(**facts)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_facts(source: str, defaults: Any, found: Mapping[str, Any]) -> None:
    """Each fact has the type of its default, sizes are possible, the activation is known."""
    wrong = [
        f"{name} {value!r}"
        for name, value in found.items()
        if not _like(getattr(defaults, name), value) or (name.endswith("_act") and value not in ACTIVATIONS)
    ]
    width, heads = (found.get(n, getattr(defaults, n, 0)) for n in ("hidden_size", "num_attention_heads"))
    if not wrong and heads and width % heads:
        wrong.append(f"hidden_size {width}, which {heads} num_attention_heads do not divide")
    if wrong:
        raise ValueError(
            f"{source}: config.json must have usable sizes and an activation of {', '.join(ACTIVATIONS)}, found "
            f"{'; '.join(wrong)}."
        )


def _like(usual: Any, value: Any) -> bool:
    """Whether a value is of the kind of the default, and a number one that a network can have."""
    if isinstance(usual, bool) or isinstance(value, bool):
        return isinstance(usual, bool) and isinstance(value, bool)
    if isinstance(usual, int):
        return isinstance(value, int) and min(usual, 1) <= value <= MAX_SIZE
    if isinstance(usual, tuple):
        return isinstance(value, tuple) and all(_like(1, one) for one in value)
    if isinstance(usual, float):
        return isinstance(value, int | float) and value >= 0
    return isinstance(value, type(usual))


def _check_preset(family: Family[F], tower: str, found: F) -> None:
    """Sizes and structure must be met; activation and epsilon are the file's own business."""
    differing = [
        f"{name} {wanted} (found {getattr(found, name)})"
        for name, wanted in asdict(family.presets[tower]).items()
        if isinstance(wanted, int | tuple) and getattr(found, name) != wanted
    ]
    if differing:
        raise ValueError(
            f"--tower {tower} must have {', '.join(differing)}. Use --tower {family.name} to take the folder as it is."
        )


def finished(
    config: TowerConfig,
    model: Opened[Any],
    params: Mapping[str, np.ndarray],
    embed: Embed | None,
    *,
    family: str,
    facts: "DataclassInstance",
    features: str,
    dim: int,
    forward: Embed | None = None,
) -> Tower:
    """The tower of checked tensors.

    Args:
        embed: (params, normalised images float32 [B, S, S, 3]) -> float32 [B, dim].
        forward: (params, what `model.preprocess` gives, in a batch) -> float32 [B, dim], where that is no image.
        family: stands first in the architecture.
        facts: what decides the network.
        features: which vectors these are.
    """
    architecture = {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(facts).items()}
    if config.compute_dtype == "bfloat16":
        params = {name: _in_bfloat16(name, array) for name, array in params.items()}
        architecture["compute_dtype"] = "bfloat16"
    info = TowerInfo(
        tower=config.tower,
        architecture={"family": family} | architecture,
        weights=weights_name(model.weights),
        features=features,
        preprocessing=model.preprocess.describe(),
        embedding_dim=dim,
    )
    if embed is not None:
        half, tokens = config.compute_dtype == "bfloat16", None
        if half and hasattr(facts, "patch_size") and not hasattr(facts, "depths"):
            tokens = (model.preprocess.image_size // facts.patch_size) ** 2
        forward = partial(_forward, embed, model.preprocess, tokens)
    assert forward is not None
    return Tower(info, model.preprocess, with_kernels(params), forward)


def _in_bfloat16(name: str, array: np.ndarray) -> np.ndarray:
    """Weights that multiply tokens; not tables of positions, depthwise filters and what follows the pooling."""
    multiplies = is_linear(name, array.ndim) or cuts_patches(name, array.ndim)
    if multiplies and not name.startswith(FULL_PRECISION):
        return array.astype(ml_dtypes.bfloat16)
    return array


def _forward(
    embed: Embed, preprocess: Preprocess, tokens: int | None, params: Params, pixels: jax.Array
) -> jax.Array:
    """In chunks where `tokens` says how many a whole image has."""

    def whole(pixels: jax.Array) -> jax.Array:
        return embed(params, normalise(pixels, preprocess))

    return by_tokens(whole, tokens, pixels) if tokens else whole(pixels)


def check_pool(config: TowerConfig, pools: Iterable[str]) -> None:
    if config.pool is not None and config.pool not in tuple(pools):
        raise ValueError(
            f"--pool: {config.tower} must be given one of {', '.join(pools)}, found {config.pool!r}."
        )


def grid_of(preprocess: Preprocess, patch: int) -> tuple[int, int]:
    """Rows and columns of patches of the square the tower sees."""
    if preprocess.image_size < patch:
        raise ValueError(
            f"--image-size: must be at least the patch, {patch} pixels, found {preprocess.image_size}."
        )
    return (preprocess.image_size // patch,) * 2


def check_trained_size(config: TowerConfig, preprocess: Preprocess, trained: int, source: str) -> None:
    """A processor of another size than the positions is a mistake in the folder, unless the size was asked for.

    Raises:
        ValueError: as said.
    """
    if config.image_size is None and preprocess.image_size != trained:
        raise ValueError(
            f"{source}: preprocessor_config.json must give the size of config.json, {trained} pixels, found "
            f"{preprocess.image_size}. Give --image-size to choose; positions are resampled."
        )
