"""`lit-convert-bert`: an original TensorFlow BERT checkpoint as one safetensors file that text towers start from."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import tyro
from safetensors.numpy import save_file

from schemas.exit_status import exit_status

DESCRIPTION = """Converts an original BERT checkpoint (bert_model.ckpt, as Google published it for TensorFlow), once.

  lit-convert-bert uncased_L-12_H-768_A-12 --output bert-base

writes bert-base/model.safetensors in the layout of the LiT checkpoints, and bert-base/vocab.txt, for

  lit-train --text-tower bert --text-checkpoint bert-base/model.safetensors ...

Needs TensorFlow (pip install 'lit-precompute[tensorflow]'); nothing else in this package does.
"""
WEIGHTS, VOCABULARY = "model.safetensors", "vocab.txt"

_TABLES = {
    "bert/embeddings/word_embeddings": "embedder/embedders_token_ids/embedding",
    "bert/embeddings/position_embeddings": "embedder/embedders_position_ids/embedding",
    "bert/embeddings/token_type_embeddings": "embedder/embedders_segment_ids/embedding",
}
_MODULES = {
    "attention/self/query": "attention_block/attention_layer/query",
    "attention/self/key": "attention_block/attention_layer/key",
    "attention/self/value": "attention_block/attention_layer/value",
    "attention/output/dense": "attention_block/dense_layer",
    "attention/output/LayerNorm": "attention_block/layer_norm",
    "intermediate/dense": "mlp_block/mlp/dense_layer",
    "output/dense": "mlp_block/dense_layer",
    "output/LayerNorm": "mlp_block/layer_norm",
}
_LEAVES = {"kernel": "kernel", "bias": "bias", "gamma": "scale", "beta": "bias"}
_LAYER = re.compile(r"bert/encoder/layer_(\d+)/(.+)/(kernel|bias|gamma|beta)")
# The heads of its training and the optimizer's state: of no use to an encoder.
_UNUSED = re.compile(r"bert/pooler/.+|cls/.+|global_step|.+/(adam_m|adam_v|AdamWeightDecayOptimizer.*)")


class CheckpointReader(Protocol):
    """What is used of TensorFlow's reader."""

    def get_variable_to_shape_map(self) -> Mapping[str, Sequence[int]]: ...

    def get_tensor(self, name: str) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What is converted, and where to."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """The unpacked folder (bert_model.ckpt.*, vocab.txt), or the checkpoint's prefix in it."""
    output: str
    """Folder to write; an earlier conversion in it is replaced."""


def main(argv: Sequence[str] | None = None) -> int:
    """Converts one checkpoint. Returns 0, or 2 when the command or its inputs are wrong."""

    def work() -> int:
        flags = list(sys.argv[1:] if argv is None else argv)
        config = tyro.cli(ConvertConfig, args=flags, prog="lit-convert-bert", description=DESCRIPTION)
        count = convert(config)
        print(f"written to {config.output}: {count} tensors in {WEIGHTS}, {VOCABULARY}")
        return 0

    return exit_status("lit-convert-bert", work)


def convert(config: ConvertConfig) -> int:
    """Writes the folder.

    Returns:
        How many tensors it holds.

    Raises:
        FileNotFoundError: there is no such checkpoint, or no vocab.txt beside it.
        ValueError: it holds something that is no part of a BERT, or TensorFlow is not installed.
    """
    prefix = _prefix(Path(config.checkpoint))
    vocabulary = (prefix.parent / VOCABULARY).read_bytes()
    tensors = encoder_tensors(_open(prefix), prefix.name)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / VOCABULARY).write_bytes(vocabulary)
    aside = output / f".{WEIGHTS}.tmp"
    save_file(tensors, aside)
    aside.replace(output / WEIGHTS)
    return len(tensors)


def encoder_tensors(reader: CheckpointReader, source: str) -> dict[str, np.ndarray]:
    """The encoder under the reference's names, kernels as they are: both have them [in, out].

    Raises:
        ValueError: naming all variables that are no part of a BERT, and all its parts that are missing.
    """
    names = sorted(reader.get_variable_to_shape_map())
    places = {name: reference_name(name) for name in names if not _UNUSED.fullmatch(name)}
    surplus = [name for name, place in places.items() if place is None]
    missing = sorted(set(_wanted(names)) - set(names))
    if surplus or missing:
        raise ValueError(
            f"{source}: must hold the variables of an original BERT, found missing: {missing or 'none'}; "
            f"unknown: {surplus or 'none'}."
        )
    return {
        place: np.ascontiguousarray(reader.get_tensor(name), np.float32)
        for name, place in places.items()
        if place is not None
    }


def reference_name(name: str) -> str | None:
    """bert/encoder/layer_0/output/dense/kernel → BertEncoder_0/encoder_block/…; None for what is not known."""
    root = "BertEncoder_0"
    if name in _TABLES:
        return f"{root}/{_TABLES[name]}"
    if name in ("bert/embeddings/LayerNorm/gamma", "bert/embeddings/LayerNorm/beta"):
        return f"{root}/layer_norm/{_LEAVES[name.rpartition('/')[2]]}"
    layer = _LAYER.fullmatch(name)
    if layer is None or layer[2] not in _MODULES:
        return None
    return f"{root}/encoder_block/layer_sequence/layers_{layer[1]}/{_MODULES[layer[2]]}/{_LEAVES[layer[3]]}"


def _wanted(names: Iterable[str]) -> Iterable[str]:
    """Every variable of a BERT of as many layers as are named."""
    yield from _TABLES
    yield from (f"bert/embeddings/LayerNorm/{leaf}" for leaf in ("gamma", "beta"))
    layers = [int(found[1]) for name in names if (found := _LAYER.fullmatch(name))]
    for number in range(1 + max(layers, default=0)):
        for module in _MODULES:
            leaves = ("gamma", "beta") if module.endswith("LayerNorm") else ("kernel", "bias")
            yield from (f"bert/encoder/layer_{number}/{module}/{leaf}" for leaf in leaves)


def _prefix(given: Path) -> Path:
    """The checkpoint's prefix, from itself or from its folder."""
    if given.is_dir():
        found = sorted(path.with_suffix("") for path in given.glob("*.ckpt*.index"))
        if len(found) != 1:
            raise FileNotFoundError(
                f"{given}: must hold one checkpoint (bert_model.ckpt.index), found {len(found)}."
            )
        return found[0]
    if not given.with_name(given.name + ".index").is_file():
        raise FileNotFoundError(
            f"{given}: must be a checkpoint's folder or prefix, found no {given.name}.index."
        )
    return given


def _open(prefix: Path) -> Any:
    try:
        import tensorflow as tf
    except ImportError:
        raise ValueError(
            "reading a TensorFlow checkpoint needs TensorFlow, which is not installed: "
            "pip install 'lit-precompute[tensorflow]'. The converted file needs it no more."
        ) from None
    return tf.train.load_checkpoint(str(prefix))


if __name__ == "__main__":
    sys.exit(main())
