"""The text transformer against the reference's outputs, and what masking the padding changes."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from trainer.text_towers.transformer import Transformer, TransformerConfig, init_transformer, to_params

REFERENCE = TransformerConfig(
    vocab_size=64, positions=16, width=32, depth=2, heads=2, mlp=64, mask_pads=False, pad_id=1
)
TINY = TransformerConfig(vocab_size=11, positions=6, width=8, depth=1, heads=2, mlp=12)


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize("case", ["last", "first", "gap", "max", "map", "last_scan", "map_scan"])
def test_outputs_are_the_references(golden_dir: Path, case: str) -> None:
    golden = _load(golden_dir / "text_transformer" / f"{case}.io.npz")
    tensors = _load(golden_dir / "text_transformer" / f"{case}.params.npz")
    kernel, bias = tensors.pop("head/kernel"), tensors.pop("head/bias")
    config = dataclasses.replace(REFERENCE, pool=case.removesuffix("_scan"))
    params = to_params(tensors, config, case)
    features = jax.jit(Transformer(config).apply)({"params": params}, golden["in/text"])
    np.testing.assert_allclose(features @ kernel + bias, golden["out/x"], atol=2e-5)


def test_an_old_second_position_table_is_added(golden_dir: Path) -> None:
    old = _load(golden_dir / "text_transformer" / "text_old_double_posemb.npz")
    expected = _load(golden_dir / "text_transformer" / "text_old_double_posemb.expected.npz")
    body = {name: value for name, value in old.items() if not name.startswith("head/")}
    params = flatten_dict(to_params(body, REFERENCE, "old"), sep="/")
    assert set(params) == {name for name in expected if not name.startswith("head/")}
    for name, value in params.items():
        np.testing.assert_array_equal(value, expected[name])


def test_tensors_that_do_not_fit_are_named_at_once(golden_dir: Path) -> None:
    tensors = _load(golden_dir / "text_transformer" / "last_scan.params.npz")
    with pytest.raises(ValueError) as error:
        to_params(tensors, dataclasses.replace(REFERENCE, depth=3, positions=8), "file.npz")
    message = str(error.value)
    assert "file.npz" in message
    assert "missing: Encoder_0/encoderblock_2/LayerNorm_0/scale [32]" in message
    assert "surplus: head/bias [24]" in message
    assert "shape: pos_embedding must be [1, 8, 32], found [1, 16, 32]" in message


@pytest.mark.parametrize("pool", ["mean", "max", "first", "last", "map"])
def test_masked_padding_changes_nothing(pool: str) -> None:
    config = dataclasses.replace(TINY, pool=pool)
    params = init_transformer(config, np.random.default_rng(0))
    apply = jax.jit(Transformer(config).apply)
    tokens = np.array([[2, 5, 3, 0, 0, 0]], np.int32)
    short = apply({"params": params}, tokens[:, :3])
    np.testing.assert_allclose(apply({"params": params}, tokens), short, atol=1e-6)
    longer = apply({"params": params}, np.array([[2, 5, 3, 0, 4, 0]], np.int32))
    assert pool == "first" or np.abs(np.asarray(longer) - np.asarray(short)).max() > 1e-3


def test_the_reference_looks_at_padding() -> None:
    config = dataclasses.replace(TINY, mask_pads=False)
    params = init_transformer(TINY, np.random.default_rng(0))
    tokens = np.array([[2, 5, 3, 0, 0, 0]], np.int32)
    masked = jax.jit(Transformer(TINY).apply)({"params": params}, tokens)
    plain = jax.jit(Transformer(config).apply)({"params": params}, tokens)
    assert np.abs(np.asarray(masked) - np.asarray(plain)).max() > 1e-3
    with pytest.raises(ValueError, match="exactly 6, found 3"):
        Transformer(config).apply({"params": params}, tokens[:, :3])


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pools by one of .*, found 'sum'"):
        dataclasses.replace(TINY, pool="sum")
    with pytest.raises(ValueError, match="text_width: must divide by text_heads=3, found 8"):
        dataclasses.replace(TINY, heads=3)
    with pytest.raises(ValueError, match="at most 6, found 7"):
        Transformer(TINY).apply(
            {"params": init_transformer(TINY, np.random.default_rng(0))}, np.zeros((1, 7), np.int32)
        )
    assert dataclasses.replace(TINY, pool="gap").pool == "mean"
