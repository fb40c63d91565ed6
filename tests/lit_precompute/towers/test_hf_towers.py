"""Every Hugging Face family against the outputs of the reference, on micro models in the hub's layout."""

import json
import shutil
import sys
from dataclasses import asdict
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from lit_precompute.config import TowerConfig
from lit_precompute.towers import (
    TOWERS,
    describe_tower,
    hf_clip,
    hf_convnext,
    hf_dinov2,
    hf_dinov3,
    hf_naflex,
    hf_siglip,
    hf_vit,
    load_tower,
)
from lit_precompute.towers.hf_tensors import with_kernels
from lit_precompute.towers.timm_names import architecture_args
from schemas.model_folder import read_folder
from schemas.safetensors_file import read_safetensors

TOLERANCE, RESAMPLED = 2e-5, 5e-5


def load(folder, tower, **options):
    return load_tower(TowerConfig(**{"tower": tower, "checkpoint": str(folder)} | options))


def family_of(tower):
    """The family's module, and what its network wants beside parameters and images."""
    network = tower.forward.args[0]
    if isinstance(network, partial):
        return sys.modules[network.func.__module__], network.args
    return sys.modules[tower.forward.func.__module__], tower.forward.args[:-1]


def apply(tower, images, params=None):
    """The network on normalised images, as the golden files have them: [B, 3, H, W]."""
    family, facts = family_of(tower)
    with jax.default_matmul_precision("highest"):
        network = jax.jit(lambda params, images: family.embed(*facts, params, images))
        return np.asarray(network(params or tower.params, np.moveaxis(images, 1, -1)))


def mean_of_patches(first):
    return lambda io: io["out.last_hidden_state"][:, first:].mean(1)


def cls_and_mean(first):
    return lambda io: np.concatenate([io["out.last_hidden_state"][:, 0], mean_of_patches(first)(io)], axis=1)


# folder, tower, options, what the vector is, what `features` must say
CASES = [
    ("image_clip_quickgelu", "clip", {}, "image_embeds", "head"),
    ("image_siglip", "siglip", {}, "pooler_output", "map"),
    ("image_siglip", "siglip2", {"pool": "mean"}, mean_of_patches(0), "mean"),
    ("image_dinov2", "dinov2", {}, "pooler_output", "cls"),
    ("image_dinov2", "dinov2", {"pool": "mean"}, mean_of_patches(1), "mean"),
    ("image_dinov2", "dinov2", {"pool": "cls+mean"}, cls_and_mean(1), "cls+mean"),
    ("image_dinov2_swiglu", "dinov2", {}, "pooler_output", "cls"),
    ("image_dinov2_registers", "dinov2", {}, "pooler_output", "cls"),
    ("image_dinov2_registers", "dinov2", {"pool": "cls+mean"}, cls_and_mean(5), "cls+mean"),
    ("image_vit_classifier", "hf-vit", {}, "logits", "head"),
    ("image_vit_pooler", "hf-vit", {}, "pooler_output", "pooler"),
    (
        "image_vit_pooler",
        "hf-vit",
        {"features": "pre-head"},
        lambda io: io["out.last_hidden_state"][:, 0],
        "cls",
    ),
    ("image_dinov3_vit_gated", "dinov3", {}, "pooler_output", "cls"),
    ("image_convnextv2", "convnext", {}, "pooler_output", "mean"),
    ("image_timm_vit", "timm-vit", {}, "logits", "head"),
    ("image_timm_vit", "timm-vit", {"features": "pre-head"}, "pre_logits", "cls"),
    ("image_timm_vit_avg_reg", "timm-vit", {}, "pre_logits", "mean"),
    ("image_timm_vit_map", "timm-vit", {}, "pre_logits", "map"),
    ("image_timm_clip_quickgelu", "timm-vit", {}, "logits", "head"),
    ("image_timm_clip_quickgelu", "timm-vit", {"features": "pre-head"}, "pre_logits", "cls"),
    ("image_timm_siglip_gap", "timm-vit", {}, "pre_logits", "mean"),
]

SHARED_CASES = [
    ("image_dinov3_vit", "dinov3", {}, "pooler_output", "cls"),
    ("image_convnext", "convnext", {}, "pooler_output", "mean"),
    ("image_clip_gelu", "clip", {}, "image_embeds", "head"),
    ("dual_clip", "clip", {}, "vision_model_output.pooler_output", "head"),
    ("dual_siglip", "siglip", {}, "vision_model_output.pooler_output", "map"),
    ("dual_siglip2_fixed", "siglip2", {}, "vision_model_output.pooler_output", "map"),
    ("image_siglip_v4_names", "siglip", {}, "pooler_output", "map"),
    ("image_siglip_nohead", "siglip", {}, mean_of_patches(0), "mean"),
]


def check(folder, name, tower, options, output, features):
    built = load(folder / name, tower, **options)
    golden = np.load(folder / name / "io.npz")
    expected = golden[f"out.{output}"] if isinstance(output, str) else output(golden)
    np.testing.assert_allclose(apply(built, golden["in.pixel_values"]), expected, atol=TOLERANCE)
    assert built.info.features == features
    assert built.info.embedding_dim == expected.shape[1]


@pytest.mark.parametrize(("name", "tower", "options", "output", "features"), CASES)
def test_golden(golden_dir, name, tower, options, output, features):
    check(golden_dir / "hf", name, tower, options, output, features)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "tower", "options", "output", "features"), SHARED_CASES)
def test_golden_of_the_other_folders(shared_dir, name, tower, options, output, features):
    check(shared_dir / "reference/hf", name, tower, options, output, features)


@pytest.mark.parametrize(
    ("name", "tower"),
    [
        ("image_clip_quickgelu", "clip"),
        ("image_siglip", "siglip"),
        ("image_siglip2_naflex", "siglip2-naflex"),
        ("image_dinov2_swiglu", "dinov2"),
        ("image_dinov3_vit_gated", "dinov3"),
        ("image_vit_pooler", "hf-vit"),
        ("image_convnextv2", "convnext"),
        ("image_timm_vit_map", "timm-vit"),
    ],
)
def test_bfloat16_is_close_and_another_space(golden_dir, name, tower):
    plain, half = (
        load(golden_dir / "hf" / name, tower, compute_dtype=dtype) for dtype in ("float32", "bfloat16")
    )
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    pixels = np.stack([plain.preprocess(Image.fromarray(noise))] * 2)
    exact, found = (np.asarray(jax.jit(one.forward)(one.params, pixels)) for one in (plain, half))
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
    assert half.info.space_id != plain.info.space_id
    assert "compute_dtype" not in plain.info.architecture
    products = [
        line
        for line in str(jax.make_jaxpr(half.forward)(half.params, pixels)).split("\n")
        if "dot_general" in line
    ]
    assert sum(":bf16[" in line for line in products) > 4


@pytest.mark.parametrize(
    ("name", "tower", "case", "output"),
    [
        ("image_clip_quickgelu", "clip", "interp", "image_embeds"),
        ("image_siglip", "siglip", "interp", "pooler_output"),
        ("image_dinov2", "dinov2", "small", "pooler_output"),
        ("image_dinov2", "dinov2", "big_rect", "pooler_output"),
        ("image_dinov2_registers", "dinov2", "small", "pooler_output"),
        ("image_dinov2_registers", "dinov2", "big_rect", "pooler_output"),
        ("image_vit_pooler", "hf-vit", "interp", "pooler_output"),
        ("image_dinov3_vit_gated", "dinov3", "rect", "pooler_output"),
        ("image_convnextv2", "convnext", "rect", "pooler_output"),
    ],
)
def test_resampled_positions(golden_dir, name, tower, case, output):
    """Bigger, smaller and oblong grids than the one trained."""
    folder = golden_dir / "hf" / name
    golden = np.load(folder / "io.npz")
    images = golden[f"{case}.in.pixel_values"]
    built = load(folder, tower)
    family, facts = family_of(built)
    rows, columns = (side // facts[0].patch_size for side in images.shape[2:])
    params = with_kernels(family.load(facts[0], read_folder(str(folder)), (rows, columns)))
    np.testing.assert_allclose(apply(built, images, params), golden[f"{case}.out.{output}"], atol=RESAMPLED)


def test_another_image_size_reaches_the_positions(golden_dir):
    small = load(golden_dir / "hf/image_dinov2", "dinov2", image_size=24)
    golden = np.load(golden_dir / "hf/image_dinov2/io.npz")
    found = apply(small, golden["small.in.pixel_values"])
    np.testing.assert_allclose(found, golden["small.out.pooler_output"], atol=RESAMPLED)
    assert small.info.preprocessing["image_size"] == 24
    assert small.preprocess.short_side == round(24 * 46 / 40)


def test_forward_normalises_by_channel(golden_dir):
    tower = load(golden_dir / "hf/image_clip_quickgelu", "clip")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    images = ((pixels / 255 - mean) / std).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        found = jax.jit(tower.forward)(tower.params, pixels)
    np.testing.assert_allclose(found, apply(tower, np.moveaxis(images, -1, 1)), atol=TOLERANCE)


def test_what_enters_the_projection_of_clip(golden_dir):
    whole, before = (
        load(golden_dir / "hf/image_clip_quickgelu", "clip", features=features)
        for features in ("default", "pre-head")
    )
    images = np.load(golden_dir / "hf/image_clip_quickgelu/io.npz")["in.pixel_values"]
    kernel = whole.params["visual_projection.kernel"]
    np.testing.assert_allclose(apply(before, images) @ kernel, apply(whole, images), atol=TOLERANCE)
    assert (before.info.embedding_dim, before.info.features) == (32, "pre-head")
    assert before.info.space_id != whole.info.space_id


def rewrite(folder, into, tensors=None, **config):
    """A copy of a model folder with other tensors, or with facts of its configuration changed."""
    from safetensors.numpy import save_file

    shutil.copytree(folder, into)
    if tensors is not None:
        save_file(tensors, into / "model.safetensors")
    facts = json.loads((into / "config.json").read_text()) | config
    (into / "config.json").write_text(json.dumps({k: v for k, v in facts.items() if v is not None}))
    return into


def tensors_of(folder):
    data = (folder / "model.safetensors").read_bytes()
    return {name: array.copy() for name, array in read_safetensors(memoryview(data)).items()}


FAMILIES = [(name, tower) for name, tower, options, _, _ in CASES if not options]


@pytest.mark.parametrize(("name", "tower"), FAMILIES)
def test_no_tensor_goes_missing_or_unused_unnoticed(golden_dir, tmp_path, name, tower):
    folder = golden_dir / "hf" / name
    tensors = tensors_of(folder)
    needed = [name for name in tensors if not name.endswith("mask_token")]
    gone, bent = needed[1], [n for n in needed if "attention" in n or "attn" in n or "dwconv" in n][-1]
    wrong = {n: array for n, array in tensors.items() if n != gone} | {
        "something.else": np.zeros(2, np.float32)
    }
    wrong[bent] = np.concatenate([wrong[bent]] * 2)
    with pytest.raises(ValueError, match="exactly the tensors") as caught:
        load(rewrite(folder, tmp_path / "wrong", wrong), tower)
    message = str(caught.value)
    bare = [n.removeprefix("vision_model.").removeprefix("vit.") for n in (gone, bent)]
    assert bare[0] in message.split("missing:")[1].split("\n")[0]
    assert "something.else" in message.split("surplus:")[1].split("\n")[0]
    assert bare[1] in message.split("wrong shape:")[1]


@pytest.mark.parametrize("name", ["image_clip_quickgelu", "image_siglip"])
def test_the_text_half_and_old_buffers_are_left_alone(golden_dir, tmp_path, name):
    folder = golden_dir / "hf" / name
    more = {
        "text_model.head.weight": np.zeros((3, 3), np.float32),
        "vision_model.embeddings.position_ids": np.arange(9)[None],
        "logit_scale": np.zeros((), np.float32),
    }
    tower = name.split("_")[1]
    built = load(rewrite(folder, tmp_path / "dual", tensors_of(folder) | more), tower)
    plain = load(folder, tower)
    assert set(built.params) == set(plain.params)
    assert built.info.architecture == plain.info.architecture


def test_a_prefix_more_or_less(golden_dir, tmp_path):
    folder = golden_dir / "hf/image_siglip"
    named = {f"vision_model.{name}": array for name, array in tensors_of(folder).items()}
    other = load(rewrite(folder, tmp_path / "named", named), "siglip")
    jax.tree.map(np.testing.assert_array_equal, other.params, load(folder, "siglip").params)


def test_half_precision_becomes_float32(golden_dir, tmp_path):
    folder = golden_dir / "hf/image_siglip"
    halves = {name: array.astype(np.float16) for name, array in tensors_of(folder).items()}
    params = load(rewrite(folder, tmp_path / "half", halves), "siglip").params
    assert {array.dtype for array in params.values()} == {np.dtype(np.float32)}


def test_host_memory_is_that_of_the_mapped_file(golden_dir):
    """Tensors are views of the file; only positions, which may have to be resampled, are copied."""
    params = load(golden_dir / "hf/image_dinov2", "dinov2").params
    owned = [name for name, array in params.items() if array.flags.owndata]
    assert not owned or owned == ["embeddings.position_embeddings"]


def test_what_a_configuration_leaves_out_has_its_default(golden_dir, tmp_path):
    folder = golden_dir / "hf/image_siglip"
    bare = rewrite(folder, tmp_path / "bare", hidden_act=None, layer_norm_eps=None, vision_use_head=None)
    assert load(bare, "siglip").info == load(folder, "siglip").info


def test_a_clip_without_projection(golden_dir, tmp_path):
    folder = golden_dir / "hf/image_clip_quickgelu"
    tensors = tensors_of(folder)
    del tensors["visual_projection.weight"]
    bare = load(rewrite(folder, tmp_path / "bare", tensors, architectures=["CLIPVisionModel"]), "clip")
    assert (bare.info.embedding_dim, bare.info.features) == (32, "pre-head")
    with pytest.raises(ValueError, match=r"missing: visual_projection\.weight"):
        load(rewrite(folder, tmp_path / "broken", tensors), "clip")


@pytest.mark.parametrize(
    ("tower", "config", "message"),
    [
        ("siglip", {}, "model_type of siglip, siglip_vision_model for this tower, found 'clip_vision_model'"),
        ("clip", {"hidden_act": "mish"}, "hidden_act 'mish'"),
        ("clip", {"hidden_size": "32"}, "hidden_size '32'"),
        ("clip", {"hidden_size": 0}, "hidden_size 0"),
        ("clip", {"patch_size": True}, "patch_size True"),
        ("clip", {"num_attention_heads": 5}, "hidden_size 32, which 5 num_attention_heads do not divide"),
        ("clip", {"num_channels": 4}, "num_channels must be 3, found 4"),
        ("clip", {"image_size": 64}, "the size of config.json, 64 pixels, found 32"),
        ("clip-vit-b-32", {}, r"hidden_size 768 \(found 32\), num_hidden_layers 12 \(found 3\)"),
    ],
)
def test_configurations_that_cannot_be(golden_dir, tmp_path, tower, config, message):
    with pytest.raises(ValueError, match=message):
        load(rewrite(golden_dir / "hf/image_clip_quickgelu", tmp_path / "odd", **config), tower)


@pytest.mark.parametrize(
    ("tower", "options", "message"),
    [
        (
            "clip",
            {"checkpoint": "random:0"},
            "random weights need a size, found 'clip'. Known: clip-vit-b-32",
        ),
        ("clip", {"pool": "mean"}, "--pool: clip must be given one of cls"),
        ("dinov2", {"pool": "map"}, "--pool: dinov2 must be given one of cls, mean, cls\\+mean"),
        ("siglip-base-16-224", {"checkpoint": "random:0", "image_size": 8}, "at least the patch, 16 pixels"),
    ],
)
def test_refusals(golden_dir, tower, options, message):
    with pytest.raises(ValueError, match=message):
        load(golden_dir / "hf/image_clip_quickgelu", tower, **options)


def test_a_weight_file_is_no_folder(golden_dir):
    with pytest.raises(ValueError, match=r"folder with config\.json .* found the file model\.safetensors"):
        load(golden_dir / "hf/image_siglip/model.safetensors", "siglip")


# D, and parameters in millions where their authors give them
PRESETS = {
    "clip-vit-b-32": (512, 87.8),
    "clip-vit-l-14": (768, 304.0),
    "siglip-base-16-224": (768, 92.9),
    "siglip-so400m-14-384": (1152, 428.2),
    "dinov2-small": (384, 22.1),
    "dinov2-base": (768, 86.6),
    "dinov2-large": (1024, 304.4),
    "dinov2-giant": (1536, 1136.5),
    "dinov2-base-registers": (768, 86.6),
    "hf-vit-b-16": (768, 85.8),
    "dinov3-base": (768, 85.7),
    "dinov3-large": (1024, 303.1),
    "dinov3-huge-plus": (1280, 840.5),
    "dinov3-7b": (4096, 6716.0),
    "convnext-tiny": (768, 27.8),
    "convnext-base": (1024, 87.6),
    "convnextv2-atto": (320, 3.4),
    "convnextv2-huge": (2816, 657.5),
    "siglip2-base-16-naflex": (768, 92.9),
}


@pytest.mark.parametrize("tower", PRESETS)
def test_presets_have_the_published_sizes(tower):
    family = sys.modules[TOWERS[tower].__module__]
    known = [f for f in vars(family).values() if hasattr(f, "presets") and tower in f.presets]
    shapes = family.tensor_shapes(known[0].presets[tower])
    parameters = sum(int(np.prod(shape)) for shape in shapes.values()) / 1e6
    assert parameters == pytest.approx(PRESETS[tower][1], abs=0.1)


ALL_PRESETS = [
    (family, facts, name)
    for family in (hf_clip.FAMILY, hf_siglip.FAMILY, hf_siglip.FAMILY2, hf_dinov2.FAMILY, hf_dinov3.FAMILY)
    + (hf_vit.FAMILY, hf_convnext.FAMILY, hf_naflex.FAMILY)
    for name, facts in family.presets.items()
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "facts", "name"), [pytest.param(*case, id=case[2]) for case in ALL_PRESETS]
)
def test_every_size_builds_abstractly(family, facts, name):
    """The whole network of every preset on the trained image size, traced without weights."""
    module = sys.modules[TOWERS[name].__module__]
    tensors = {n: np.broadcast_to(np.float32(0), s) for n, s in module.tensor_shapes(facts).items()}
    shapes = {n: jax.ShapeDtypeStruct(a.shape, np.float32) for n, a in with_kernels(tensors).items()}
    side = getattr(facts, "image_size", 224)
    images = [jax.ShapeDtypeStruct((1, side, side, 3), np.float32)]
    if module is hf_naflex:
        count = 256
        images = [
            jax.ShapeDtypeStruct((1, count, facts.patch_size**2 * 3), np.float32),
            jax.ShapeDtypeStruct((1, 2), np.int32),
        ]
    pool = ["cls"] if module in (hf_dinov2, hf_dinov3, hf_vit) else []
    vectors = jax.eval_shape(partial(module.embed, facts, *pool), shapes, *images)
    dim = getattr(facts, "projection_dim", 0) or getattr(facts, "hidden_size", 0) or facts.hidden_sizes[-1]
    assert vectors.shape == (1, dim)


def test_a_preset_draws_random_weights_at_its_own_preprocessing():
    tower = load("random:1", "dinov2-small", image_size=28, pool="cls+mean")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), np.uint8)
    vectors = np.asarray(jax.jit(tower.forward)(tower.params, pixels))
    assert vectors.shape == (2, 768)
    assert 0.01 < np.abs(vectors).max() < 1000
    assert describe_tower(TowerConfig("dinov2-small", "random:1")).preprocessing["crop_fraction"] == 0.875


def test_naflex(golden_dir):
    """Patches and grids as the reference's processor makes them; what follows the last patch is not seen."""
    folder = golden_dir / "hf/image_siglip2_naflex"
    golden, tower = np.load(folder / "io.npz"), load(folder, "siglip2-naflex")
    patches, shapes = golden["in.pixel_values"].copy(), golden["in.spatial_shapes"].astype(np.int32)
    family, facts = family_of(tower)
    network = jax.jit(partial(family.embed, *facts))
    with jax.default_matmul_precision("highest"):
        found = network(tower.params, patches, shapes)
        patches[1, 18:] = 7
        again = network(tower.params, patches, shapes)
    np.testing.assert_allclose(found, golden["out.pooler_output"], atol=TOLERANCE)
    assert shapes.prod(1).tolist() == [20, 18]
    np.testing.assert_allclose(again, found, atol=TOLERANCE)


def test_naflex_from_pixels(golden_dir):
    """A pixel array carries its own grid; a row of padding harms nobody."""
    folder = golden_dir / "hf/image_siglip2_naflex"
    tower = load(folder, "siglip2-naflex")
    family, (facts,) = family_of(tower)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 70, 3), np.uint8))
    packed = np.stack([tower.preprocess(image), np.zeros((21, 192), np.uint8)])
    rows, columns = packed[0, -1, [0, 2]]
    assert (rows, columns) == (3, 6)  # with one column more it would be 21 patches, one too many
    with jax.default_matmul_precision("highest"):
        found = jax.jit(tower.forward)(tower.params, packed)[0]
        patches = packed[:1, :-1] / np.float32(127.5) - 1
        expected = family.embed(facts, tower.params, patches, np.array([[rows, columns]], np.int32))[0]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    with pytest.raises(ValueError, match="keeps every image's aspect"):
        load(folder, "siglip2-naflex", image_size=224)


def test_naflex_grid_of_extreme_images():
    from lit_precompute.towers.hf_naflex import grid

    for height, width in ((1, 1), (2, 30_000), (4000, 3000), (1, 300)):
        rows, columns = grid(height, width, 16, 256)
        assert 1 <= rows * columns <= 256


def test_a_grouped_convolution_by_shifts(golden_dir):
    from lit_precompute.towers.hf_convnext import depthwise_grouped, depthwise_shifted

    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 12, 5)).astype(np.float32)
    kernel = rng.normal(size=(5, 1, 7, 7)).astype(np.float32)
    np.testing.assert_allclose(depthwise_shifted(x, kernel), depthwise_grouped(x, kernel), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_args": {"embed_dim": 8, "depth": 1, "num_heads": 1, "qk_norm": True}}, "qk_norm True"),
        ({"model_args": None}, r"patch_embed\.proj\.weight must be \[192, 3, 16, 16\]"),
        (
            {"model_args": None, "architecture": "vit_giant_patch14_dinov2"},
            "or have an architecture such as",
        ),
        (
            {"model_args": None, "architecture": "vit_base_patch16_siglip_gap_224"},
            r"surplus: cls_token \[1, 1, 32\]",
        ),
        (
            {"pretrained_cfg": {"input_size": [3, 32, 32], "crop_mode": "squash"}},
            "crop_mode center \\(or squash",
        ),
        ({"pretrained_cfg": {"input_size": [3, 32, 48]}}, "square input_size"),
        ({"pretrained_cfg": {"input_size": [3, 48, 48]}}, "the size of config.json, 32 pixels, found 48"),
    ],
)
def test_timm_models_that_cannot_be_followed(golden_dir, tmp_path, change, message):
    change = change | ({"pretrained_cfg": {"input_size": [3, 224, 224]}} if "model_args" in change else {})
    with pytest.raises(ValueError, match=message):
        load(rewrite(golden_dir / "hf/image_timm_vit", tmp_path / "odd", **change), "timm-vit")


def test_preprocessing_of_timm(golden_dir):
    preprocess = load(golden_dir / "hf/image_timm_vit", "timm-vit").preprocess
    assert (preprocess.image_size, preprocess.short_side, preprocess.mean) == (32, 35, (127.5,) * 3)
    squashed = load(golden_dir / "hf/image_timm_clip_quickgelu", "timm-vit").preprocess
    assert (squashed.resize, squashed.image_size) == ("full", 32)
    assert squashed.mean[0] == pytest.approx(0.48145466 * 255)


def test_timm_architectures_by_name():
    assert architecture_args("vit_so400m_patch14_siglip_gap_378.webli") == {
        **{"embed_dim": 1152, "depth": 27, "num_heads": 16, "mlp_ratio": 3.7362, "patch_size": 14},
        **{"img_size": 378, "class_token": False, "global_pool": "avg", "fc_norm": False},
    }
    assert architecture_args("vit_small_patch14_reg4_dinov2") == {
        **{
            "embed_dim": 384,
            "depth": 12,
            "num_heads": 6,
            "mlp_ratio": 4.0,
            "patch_size": 14,
            "img_size": 518,
        },
        **{"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True},
    }
    assert architecture_args("vit_base_patch16_plus_clip_240")["embed_dim"] == 896
    acts = {name: (architecture_args(name) or {}).get("act_layer") for name in (
        "vit_large_patch16_siglip_512", "vit_large_patch16_siglip_384", "vit_huge_patch14_clip_quickgelu_378",
    )}  # fmt: skip
    assert list(acts.values()) == ["gelu_tanh", None, "quick_gelu"]
    for unknown in (
        "vit_giant_patch14_dinov3",
        "vit_base_patch16_rpn_224",
        "vit_base_patch16_224_miil",
        "resnet50",
    ):
        assert architecture_args(unknown) is None


def test_a_timm_preset_must_be_met(golden_dir):
    with pytest.raises(ValueError, match=r"--tower timm-vit-b-16 must have width 768 \(found 32\), depth 12"):
        load(golden_dir / "hf/image_timm_vit", "timm-vit-b-16")
    tower = load("random:0", "timm-vit-ti-16", features="pre-head")
    assert (tower.info.embedding_dim, tower.info.features) == (192, "cls")


@pytest.mark.shared
def test_defaults_are_those_of_the_reference(shared_dir):

    table = json.loads((shared_dir / "reference/hf/config_defaults.json").read_text())
    known = table["transformers_4.57.6"]
    for kind, family in {
        "clip_vision_model": hf_clip,
        "siglip_vision_model": hf_siglip,
        "dinov2": hf_dinov2,
        "dinov2_with_registers": hf_dinov2,
        "dinov3_vit": hf_dinov3,
        "siglip2_vision_model": hf_naflex,
        "vit": hf_vit,
    }.items():
        ours = asdict(family.Facts()) | dict(family.FAMILY.defaults.get(kind, {}))
        compared = {name: known[kind][name] for name in ours if name in known[kind]}
        assert len(compared) >= 6
        assert {name: ours[name] for name in compared} == compared
