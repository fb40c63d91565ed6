"""Every released .npz is taken by its name: files of the documented names and shapes, full size, without numbers.

Names and shapes are written out here from the documentation of the formats, not taken from the networks.
"""

import numpy as np
import pytest

from lit_precompute.config import TowerConfig
from lit_precompute.towers import TOWERS
from lit_precompute.towers.published import PUBLISHED, settled
from schemas.weights import WeightsFile

# width, depth, mlp, heads
WIDTHS = {
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "So400m": (1152, 27, 4304, 16),
    "g-opt": (1536, 40, 6144, 16),
}


def attention(at, d, h):
    for name in ("query", "key", "value"):
        yield f"{at}/{name}/kernel", (d, h, d // h)
        yield f"{at}/{name}/bias", (h, d // h)
    yield f"{at}/out/kernel", (h, d // h, d)
    yield f"{at}/out/bias", (d,)


def dense(at, inputs, outputs):
    yield f"{at}/kernel", (inputs, outputs)
    yield f"{at}/bias", (outputs,)


def norm(at, d):
    yield f"{at}/scale", (d,)
    yield f"{at}/bias", (d,)


def block(d, m, h, modules=("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")):
    first, mixing, second, mlp = modules
    yield from norm(first, d)
    yield from attention(mixing, d, h)
    yield from norm(second, d)
    yield from dense(f"{mlp}/Dense_0", d, m)
    yield from dense(f"{mlp}/Dense_1", m, d)


def vit(variant, patch, grid, *, pool, head=None, layout="loop"):
    """`vit_jax` puts positions elsewhere, one of them the class token's; `scan` has all blocks in one array each.

    `pre_linen`, of AugReg, is vit_jax with the modules of a block counted together.
    """
    d, depth, m, h = WIDTHS[variant]
    yield from ((f"embedding/{name}", s) for name, s in (("kernel", (patch, patch, 3, d)), ("bias", (d,))))
    if layout in ("vit_jax", "pre_linen"):
        yield "Transformer/posembed_input/pos_embedding", (1, grid * grid + 1, d)
    else:
        yield "pos_embedding", (1, grid * grid, d)
    modules = ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
    inner = list(block(d, m, h, modules) if layout == "pre_linen" else block(d, m, h))
    for name, shape in inner:
        if layout == "scan":
            yield f"Transformer/encoderblock/{name}", (depth, *shape)
        else:
            yield from ((f"Transformer/encoderblock_{number}/{name}", shape) for number in range(depth))
    yield from norm("Transformer/encoder_norm", d)
    if pool == "tok":
        yield "cls", (1, 1, d)
    else:
        yield "MAPHead_0/probe", (1, 1, d)
        yield from attention("MAPHead_0/MultiHeadDotProductAttention_0", d, h)
        yield from norm("MAPHead_0/LayerNorm_0", d)
        yield from dense("MAPHead_0/MlpBlock_0/Dense_0", d, m)
        yield from dense("MAPHead_0/MlpBlock_0/Dense_1", m, d)
    if head:
        yield from dense("head", d, head)


def dual(image, prefix="", bias=False):
    """With a text tower that is somebody else's business."""
    yield from ((f"{prefix}img/{name}", shape) for name, shape in image)
    yield f"{prefix}txt/head/bias", (768,)
    yield f"{prefix}t", (1,)
    if bias:
        yield f"{prefix}b", (1,)


def one_tower(image):
    yield from ((f"params/img/{name}", shape) for name, shape in image)
    yield "params/t", (1,)


def mixer(variant, head):
    d, depth, channels, tokens = {"B": (768, 12, 3072, 384), "L": (1024, 24, 4096, 512)}[variant]
    yield from ((f"stem/{name}", shape) for name, shape in (("kernel", (16, 16, 3, d)), ("bias", (d,))))
    for number in range(depth):
        at = f"MixerBlock_{number}"
        yield from norm(f"{at}/LayerNorm_0", d)
        yield from dense(f"{at}/token_mixing/Dense_0", 196, tokens)
        yield from dense(f"{at}/token_mixing/Dense_1", tokens, 196)
        yield from norm(f"{at}/LayerNorm_1", d)
        yield from dense(f"{at}/channel_mixing/Dense_0", d, channels)
        yield from dense(f"{at}/channel_mixing/Dense_1", channels, d)
    yield from norm("pre_head_layer_norm", d)
    yield from dense("head", d, head)


def bit(depths, factor, head):
    """Under the names of the paper's own code."""
    width = inputs = 64 * factor
    yield "resnet/root_block/standardized_conv2d/kernel", (7, 7, 3, width)
    for stage, depth in enumerate(depths):
        narrow = width << stage
        for unit in range(1, depth + 1):
            at = f"resnet/block{stage + 1}/unit{unit:02}"
            if unit == 1:
                yield f"{at}/a/proj/standardized_conv2d/kernel", (1, 1, inputs, 4 * narrow)
            shapes = {"a": (1, inputs, narrow), "b": (3, narrow, narrow), "c": (1, narrow, 4 * narrow)}
            for part, (side, before, after) in shapes.items():
                yield f"{at}/{part}/standardized_conv2d/kernel", (side, side, before, after)
                yield f"{at}/{part}/group_norm/gamma", (before,)
                yield f"{at}/{part}/group_norm/beta", (before,)
            inputs = 4 * narrow
    yield "resnet/group_norm/gamma", (inputs,)
    yield "resnet/group_norm/beta", (inputs,)
    yield "resnet/head/conv2d/kernel", (1, 1, inputs, head)
    yield "resnet/head/conv2d/bias", (head,)


def lit(variant, head=None):
    return dual(vit(variant, 16, 14, pool="tok", head=head, layout="vit_jax"))


def augreg(variant, patch):
    return vit(variant, patch, 224 // patch, pool="tok", head=21_843, layout="pre_linen")


def siglip(variant, patch, size, layout="loop"):
    return dual(vit(variant, patch, size // patch, pool="map", layout=layout), bias=True)


R50, R101, R152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
LETTERS = {"base": "B", "large": "L", "so400m": "So400m", "giant-opt": "g-opt"}
RELEASED = {
    "lit-b16b": (lambda: lit("B", 768), 768, 224),
    "lit-b16b_2": (lambda: lit("B"), 768, 224),
    "lit-coco-b16b": (lambda: dual(vit("B", 16, 14, pool="tok"), "params/", True), 768, 224),
    **dict.fromkeys(("lit-l16l", "lit-l16s", "lit-l16ti"), (lambda: lit("L"), 1024, 224)),
    **{
        f"augreg-{v.lower()}-{p}": (lambda v=v, p=p: augreg(v, p), WIDTHS[v][0], 224)
        for v, p in (("Ti", 16), ("S", 32), ("S", 16), ("B", 32), ("B", 16), ("B", 8), ("L", 16))
    },
    **{
        f"bit-{data}-{name}x{w}": (lambda d=d, w=w, c=c: bit(d, w, c), 2048 * w, 224)
        for data, c in (("m", 21_843), ("s", 1000))
        for name, d, w in (
            ("r50", R50, 1),
            ("r50", R50, 3),
            ("r101", R101, 1),
            ("r101", R101, 3),
            ("r152", R152, 4),
        )
    },
    **{
        f"mixer-{v.lower()}-16-{data}": (lambda v=v, c=c: mixer(v, c), WIDTHS[v][0], 224)
        for v in "BL"
        for data, c in (("i21k", 21_843), ("i1k", 1000))
    },
}
for name in PUBLISHED:
    if name.startswith("clippo-"):
        RELEASED[name] = (lambda: one_tower(vit("B", 16, 14, pool="map", head=768)), 768, 224)
    elif "-npz-" in name:
        size_name, patch, size = name.split("-npz-")[1].removeprefix("i18n-").rsplit("-", 2)
        layout, variant = "scan" if name.startswith("siglip2") else "loop", LETTERS[size_name]
        RELEASED[name] = (
            lambda v=variant, p=int(patch), s=int(size), y=layout: siglip(v, p, s, y),
            WIDTHS[variant][0],
            int(size),
        )

# One of each kind of file; the others, which differ in size alone, take another minute.
QUICK = {
    *("lit-b16b", "lit-coco-b16b", "augreg-ti-16", "siglip-npz-so400m-14-384", "siglip2-npz-base-32-256"),
    *("clippo-b16-100c4", "bit-m-r50x1", "mixer-b-16-i1k"),
}


def test_every_released_file_is_here():
    assert set(RELEASED) == {
        name for name, known in PUBLISHED.items() if known.checkpoint.startswith("gs://")
    }


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in sorted(RELEASED)]
)
def test_a_released_file_is_taken_by_its_name(name):
    shapes, dim, size = RELEASED[name]
    tensors = {tensor: np.broadcast_to(np.float32(0), shape) for tensor, shape in shapes()}
    tower = TOWERS[name](settled(TowerConfig(name)), WeightsFile(tensors, "0" * 64, "npz", f"{name}.npz"))
    assert (tower.info.embedding_dim, tower.info.preprocessing["image_size"]) == (dim, size)
    assert tower.info.preprocessing["family"] == "reference"
    classifier = PUBLISHED[name].features == "pre-head"
    assert tower.info.preprocessing["resize"] == ("crop" if classifier else "full")


def test_another_size_is_refused_by_name():
    tensors = {n: np.broadcast_to(np.float32(0), s) for n, s in siglip("B", 16, 256)}
    file = WeightsFile(tensors, "0" * 64, "npz", "w.npz")
    with pytest.raises(
        ValueError, match=r"--tower siglip-npz-base-16-224 must have a grid of 14 .* \(found 16\)"
    ):
        TOWERS["siglip-npz-base-16-224"](TowerConfig("siglip-npz-base-16-224", "w.npz"), file)
    with pytest.raises(ValueError, match=r"must have width 1024 \(found 768\), depth 24 \(found 12\)"):
        TOWERS["siglip-npz-large-16-256"](TowerConfig("siglip-npz-large-16-256", "w.npz"), file)
