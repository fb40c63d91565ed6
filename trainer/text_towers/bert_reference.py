"""BERT in the layout of the reference's checkpoints (flaxformer), read and written."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from trainer.text_towers.bert import Bert, BertConfig
from trainer.text_towers.fitting import refuse_misfits
from trainer.text_towers.torch_layout import Path, parameter_shapes

MARK = "BertEncoder_0/"  # every tensor but the head's lies below it
HEAD_WIDTH = 64  # of every published size; the file does not say how the fused kernels are cut
# What the reference computes, whatever the sizes.
REFERENCE = BertConfig(activation="gelu_new", pool="cls", pads_inside=True, norm_eps=1e-12)

_PLACES = {
    "word": f"{MARK}embedder/embedders_token_ids",
    "position": f"{MARK}embedder/embedders_position_ids",
    "token_type": f"{MARK}embedder/embedders_segment_ids",
    "embeddings_norm": f"{MARK}layer_norm",
}
_LAYER_PLACES = {
    "query": "attention_block/attention_layer/query",
    "key": "attention_block/attention_layer/key",
    "value": "attention_block/attention_layer/value",
    "attention_output": "attention_block/dense_layer",
    "attention_norm": "attention_block/layer_norm",
    "intermediate": "mlp_block/mlp/dense_layer",
    "output": "mlp_block/dense_layer",
    "output_norm": "mlp_block/layer_norm",
}


def read_reference(
    tensors: Mapping[str, np.ndarray], base: BertConfig, heads: int | None, source: str
) -> tuple[BertConfig, dict[str, Any]]:
    """A BERT encoder from the tensors of a text tower of the reference, its head taken out.

    Args:
        tensors: by flat name, `BertEncoder_0/…`.
        base: `REFERENCE`, with pool, dropout and dtype as wanted.
        heads: attention heads; None for one to every 64 of width.
        source: what to call the checkpoint in an error.

    Returns:
        The configuration, all sizes from the tensors, and float32 parameters of `Bert`.

    Raises:
        ValueError: names all missing, surplus and mis-shaped tensors, and those that are not floating point.
    """
    sizes: dict[str, Any] = _sizes(tensors, heads, source)
    config = dataclasses.replace(base, **sizes)
    shapes = parameter_shapes(Bert(config))
    refuse_misfits(tensors, {reference_name(path): shape for path, shape in shapes.items()}, source)
    return config, unflatten_dict(
        {path: np.array(tensors[reference_name(path)], np.float32, order="C") for path in shapes}
    )


def reference_tensors(backbone: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`Bert`'s parameters under the reference's names: the inverse of `read_reference`."""
    return {reference_name(path): np.asarray(leaf) for path, leaf in flatten_dict(dict(backbone)).items()}


def reference_name(path: Path) -> str:
    """The reference's name of a parameter: ("layer_0", "query", "kernel") → BertEncoder_0/encoder_block/…"""
    *modules, leaf = path
    if modules[0].startswith("layer_"):
        number = modules[0].removeprefix("layer_")
        place = f"{MARK}encoder_block/layer_sequence/layers_{number}/{_LAYER_PLACES[modules[1]]}"
    else:
        place = _PLACES[modules[0]]
    return f"{place}/{leaf}"


def _sizes(tensors: Mapping[str, np.ndarray], heads: int | None, source: str) -> dict[str, int]:
    tables = {name: tensors.get(f"{_PLACES[name]}/embedding") for name in ("word", "position", "token_type")}
    mlp = tensors.get(reference_name(("layer_0", "intermediate", "kernel")))
    missing = [
        f"{_PLACES[name]}/embedding" for name, table in tables.items() if table is None or table.ndim != 2
    ]
    missing += [] if mlp is not None and mlp.ndim == 2 else ["layers_0's mlp_block/mlp/dense_layer/kernel"]
    if missing:
        raise ValueError(
            f"{source}: BERT in the reference's layout must hold {', '.join(missing)}, found none of two dimensions."
        )
    assert mlp is not None
    (vocab_size, width), (positions, _), (token_types, _) = (tables[name].shape for name in tables)  # type: ignore[union-attr]
    layers = [int(found[1]) for name in tensors if (found := re.search(r"/layers_(\d+)/", name))]
    return {
        "vocab_size": vocab_size,
        "width": width,
        "depth": 1 + max(layers),
        "heads": heads or max(1, width // HEAD_WIDTH),
        "mlp": mlp.shape[1],
        "positions": positions,
        "token_types": token_types,
    }
