import io

import jax
import numpy as np
import pytest

from lit_precompute.config import TowerConfig
from lit_precompute.towers import load_tower, vit
from lit_precompute.towers.vit_network import ViT, sincos2d
from schemas.weights import read_weights

# golden case: what the configuration must say, beyond what is read from the file
CASES = {
    "gap": {},
    "map": {},
    "tok": {},
    "0": {"pool": "0"},
    "gap_scan": {},
    "gap_rep48": {},
    "map_scan_rep48_mlpdefault": {},
}
TOLERANCE = 2e-5


def load(path, **options):
    return load_tower(TowerConfig(**{"tower": "vit", "checkpoint": str(path)} | options))


def apply(tower, images):
    """The network on images in [-1, 1], as the golden files have them."""
    (network,) = tower.forward.args
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(network.apply)({"params": tower.params}, images))


@pytest.mark.parametrize("case", CASES)
def test_golden(golden_dir, case):
    tower = load(golden_dir / f"vit/{case}.params.npz", **CASES[case])
    golden = np.load(golden_dir / f"vit/{case}.io.npz")
    np.testing.assert_allclose(apply(tower, golden["in/image"]), golden["out/x"], atol=TOLERANCE)
    assert tower.info.features == "head"
    assert tower.info.embedding_dim == 24
    assert tower.info.preprocessing["image_size"] == 32


@pytest.mark.parametrize("case", ["gap", "gap_rep48", "map_scan_rep48_mlpdefault"])
def test_what_enters_the_head(golden_dir, case):
    tower = load(golden_dir / f"vit/{case}.params.npz", features="pre-head")
    golden = np.load(golden_dir / f"vit/{case}.io.npz")
    np.testing.assert_allclose(apply(tower, golden["in/image"]), golden["out/pre_logits"], atol=TOLERANCE)
    assert tower.info.features == "pre-head"
    assert tower.info.embedding_dim == golden["out/pre_logits"].shape[1]
    assert tower.info.space_id != load(golden_dir / f"vit/{case}.params.npz").info.space_id


def test_bfloat16(golden_dir):
    """The outputs of map_bf16 are the reference's in bfloat16; half of them must move, and none by much."""
    tower = load(golden_dir / "vit/map.params.npz", compute_dtype="bfloat16")
    golden = np.load(golden_dir / "vit/map.io.npz")
    found = apply(tower, golden["in/image"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, golden["out/x"], atol=3e-2)
    assert np.mean(np.abs(found - golden["out/x"]) > 1e-4) > 0.5
    assert tower.info.architecture["compute_dtype"] == "bfloat16"
    assert tower.info.space_id != load(golden_dir / "vit/map.params.npz").info.space_id


def test_pooling_otherwise_than_trained(golden_dir):
    """What only the trained pooling needs is left out; the reference's gap tower has the same tensors but for that."""
    mean = load(golden_dir / "vit/map.params.npz", pool="gap", features="pre-head")
    golden = np.load(golden_dir / "vit/map.io.npz")
    encoded = golden["out/encoded"].mean(axis=1)
    np.testing.assert_allclose(apply(mean, golden["in/image"]), encoded, atol=TOLERANCE)
    assert not any(name.startswith("MAPHead") for name in mean.params)
    assert "cls" not in load(golden_dir / "vit/tok.params.npz", pool="gap").params
    with pytest.raises(ValueError, match="missing: MAPHead_0"):
        load(golden_dir / "vit/tok.params.npz", pool="map")


def test_fixed_positions_on_an_oblong_image(golden_dir):
    tower = load(golden_dir / "vit/gap_sincos2d_rect.params.npz", tower="vit-sincos2d", image_size=32)
    golden = np.load(golden_dir / "vit/gap_sincos2d_rect.io.npz")
    np.testing.assert_allclose(apply(tower, golden["in/image"]), golden["out/x"], atol=TOLERANCE)


def test_sincos2d(golden_dir):
    golden = np.load(golden_dir / "posemb/resample.npz")["sincos2d_h4_w6_d32"]
    np.testing.assert_allclose(sincos2d(4, 6, 32), golden, atol=1e-6)


@pytest.mark.shared
@pytest.mark.slow
def test_every_golden_case(shared_dir):
    folder = shared_dir / "reference/golden/vit"
    cases = {path.name.removesuffix(".params.npz") for path in folder.glob("*.params.npz")} - {"none_nohead"}
    assert len(cases) > 10
    for case in cases:
        options = {"pool": "0"} if case == "0" else {}
        if "sincos2d" in case:
            options = {"tower": "vit-sincos2d", "image_size": 32}
        golden = np.load(folder / f"{case}.io.npz")
        if case.endswith("bf16"):
            options["compute_dtype"] = "bfloat16"
        found = apply(load(folder / f"{case}.params.npz", **options), golden["in/image"])
        tolerance = 3e-2 if case.endswith("bf16") else TOLERANCE
        np.testing.assert_allclose(found, golden["out/x"], atol=tolerance, err_msg=case)


def test_pool_none_gives_every_token():
    network = ViT(vit.ViTShape(16, 1, 32, 2, 8, "none"))
    images = np.random.default_rng(0).normal(size=(2, 16, 24, 3)).astype(np.float32)
    tokens, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    assert tokens.shape == (2, 6, 16)


def test_forward_scales_pixels_itself(golden_dir):
    tower = load(golden_dir / "vit/gap.params.npz")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    expected = apply(tower, pixels / np.float32(255) * 2 - 1)
    np.testing.assert_allclose(jax.jit(tower.forward)(tower.params, pixels), expected, atol=TOLERANCE)


def test_pixels_left_over_at_the_right_and_below_are_not_seen():
    tower = load_tower(TowerConfig("vit-mu-32", "random:0", image_size=70))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 70, 70, 3), np.uint8)
    cut = pixels.copy()
    cut[:, 64:] = cut[:, :, 64:] = 0
    forward = jax.jit(tower.forward)
    np.testing.assert_array_equal(forward(tower.params, pixels), forward(tower.params, cut))


def test_another_image_size_resamples_positions(golden_dir):
    tower = load(golden_dir / "weights/old_map_inlined.npz", image_size=48)
    golden = np.load(golden_dir / "weights/old_map_inlined.io_48px.npz")
    np.testing.assert_allclose(apply(tower, golden["in/image"]), golden["out/x"], atol=TOLERANCE)
    assert tower.info.preprocessing["image_size"] == 48


def test_the_image_half_of_a_two_tower_file(golden_dir):
    tower = load(golden_dir / "weights/litjax_bert_none_32.params.npz")
    golden = np.load(golden_dir / "weights/litjax_bert_none_32.io.npz")
    embeddings = apply(tower, golden["in/image"])
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings / (lengths + 1e-8), golden["out/zimg"], atol=TOLERANCE)
    assert (tower.info.architecture["pool"], tower.info.features) == ("tok", "pre-head")


@pytest.mark.shared
@pytest.mark.parametrize(
    "case",
    [
        *("two_towers/siglip_none_32", "two_towers/siglip_scan_none_32", "two_towers/lit_bert_24_24"),
        *("two_towers/lit_tt_none_32", "lit_vit_jax/litjax_bert_24_24", "lit_vit_jax/litjax_tt_none_32"),
    ],
)
def test_the_image_half_of_every_dual_encoder(shared_dir, case):
    folder = shared_dir / "reference/golden"
    tower = load(folder / f"{case}.params.npz")
    golden = np.load(folder / f"{case}.io.npz")
    vectors = apply(tower, golden["in/image"])
    unit = vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-8)
    np.testing.assert_allclose(unit, golden["out/zimg"], atol=TOLERANCE)
    assert tower.info.architecture["pool"] == ("map" if "siglip" in case else "tok")
    assert tower.info.features == ("head" if case.endswith("24_24") else "pre-head")


def test_one_tower_for_images_and_drawn_captions(golden_dir):
    """CLIPPO: the same tower sees both; its head is part of what is normalised."""
    tower = load(golden_dir / "one_tower/clippo_map_24.params.npz")
    golden = np.load(golden_dir / "one_tower/clippo_map_24.io.npz")
    for side, name in (("in/image", "img"), ("in/text", "txt")):
        vectors = apply(tower, golden[side])
        np.testing.assert_allclose(vectors, golden[f"out/{name}/logits"], atol=TOLERANCE)
        unit = vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-8)
        np.testing.assert_allclose(unit, golden[f"out/z{name}"], atol=TOLERANCE)
    assert (tower.info.architecture["pool"], tower.info.features) == ("map", "head")


def test_nothing_beside_the_towers_of_a_dual_encoder_is_unused(golden_dir, tmp_path):
    whole = dict(read_weights(str(golden_dir / "weights/litjax_bert_none_32.params.npz")).tensors)
    path = save(
        tmp_path / "more.npz", whole | {"b": np.zeros(1, np.float32), "adapter/kernel": np.ones((2, 2))}
    )
    with pytest.raises(ValueError, match=r"surplus: ../adapter/kernel \[2, 2\]"):
        load(path)


@pytest.mark.parametrize("name", ["flax_optimizer_layout", "bf16_void"])
def test_training_checkpoints(golden_dir, name):
    tower = load(golden_dir / f"weights/{name}.npz")
    plain = load(golden_dir / "vit/map.params.npz")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2), tower.params, plain.params)


def save(path, tensors):
    stream = io.BytesIO()
    np.savez(stream, **tensors)
    path.write_bytes(stream.getvalue())
    return path


@pytest.mark.parametrize("pool", ["gap", "map", "tok"])
def test_no_tensor_can_go_missing_unnoticed(golden_dir, tmp_path, pool):
    """Each tensor in turn is left out, and the message names it."""
    whole = read_weights(str(golden_dir / f"vit/{pool}.params.npz")).tensors
    for name in set(whole) - {"cls"}:  # see the next test
        cut = {other: array for other, array in whole.items() if other != name}
        path = save(tmp_path / "cut.npz", cut)
        with pytest.raises(ValueError, match=r"cut\.npz") as caught:
            load(path, pool=pool)
        assert name in str(caught.value)


def test_a_missing_class_token_is_named_where_one_is_asked_for(golden_dir, tmp_path):
    whole = read_weights(str(golden_dir / "vit/tok.params.npz")).tensors
    path = save(tmp_path / "cut.npz", {name: array for name, array in whole.items() if name != "cls"})
    with pytest.raises(ValueError, match=r"missing: cls \[1, 1, 32\]"):
        load(path, pool="tok")


def test_a_preset_must_be_met(golden_dir):
    with pytest.raises(ValueError, match=r"vit-b-32 must have width 768 \(found 32\), depth 12 \(found 2\)"):
        load(golden_dir / "vit/gap.params.npz", tower="vit-b-32")


def test_a_checkpoint_of_another_family(golden_dir):
    with pytest.raises(ValueError, match="another kind of tower"):
        load(golden_dir / "posemb/resample.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "max"}, "must be one of gap, map, tok, 0, found 'max'"),
        ({"tower": "vit", "checkpoint": "random:0"}, "random weights need a size, such as vit-b-32"),
        ({"image_size": 31}, "at least the patch, 32 pixels, found 31"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        load_tower(TowerConfig(**{"tower": "vit-mu-32", "checkpoint": "random:0"} | options))


def test_presets_have_the_published_sizes():
    """Parameters of B/32 at 224 pixels without head: 87.5 million (AugReg, arXiv 2106.10270)."""
    shapes = vit.tensor_shapes(vit.preset(vit.PRESETS["vit-b-32"]), 224)
    assert (
        sum(int(np.prod(shape)) for shape in shapes.values()) == 87_455_232 - 2 * 768
    )  # no class token, no position for it
    assert vit.preset(vit.PRESETS["vit-giant-14"]).width == 1408
    assert vit.preset(vit.PRESETS["vit-gigantic-14"]).width == 1664
