import time

import numpy as np
import pytest
from PIL import Image

from lit_precompute.preprocess import Preprocess

RNG = np.random.default_rng(0)


def noise(width, height):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width, height):
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + y / 17), np.sin(x / 23), np.cos(y / 11)]
    return Image.fromarray(np.stack([128 + 120 * wave for wave in waves], axis=-1).astype(np.uint8))


def resize_then_crop(image, settings):
    short = min(image.size)
    scaled = [side * settings.short_side // short for side in image.size]
    whole = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = ((side - settings.image_size) // 2 for side in scaled)
    return np.asarray(whole.crop((left, top, left + settings.image_size, top + settings.image_size)))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (64, 64), (31, 200), (1, 1), (7, 2), (640, 427)])
@pytest.mark.parametrize("picture", [noise, smooth])
def test_one_boxed_resize_equals_resize_then_crop(size, picture):
    settings = Preprocess("pillow", 56, "crop", crop_fraction=0.875)
    image = picture(*size)
    expected, found = resize_then_crop(image, settings), settings(image)
    assert (found.shape, found.dtype) == ((56, 56, 3), np.uint8)
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.005


def test_short_side_becomes_256_for_224():
    assert Preprocess("pillow", 224, crop_fraction=0.875).short_side == 256


def test_an_extreme_aspect_is_cheap():
    started = time.perf_counter()
    pixels = Preprocess("pillow", 224, crop_fraction=0.875)(Image.new("RGB", (30_000, 2), (9, 8, 7)))
    assert time.perf_counter() - started < 1  # through a whole resize: 3,840,000 x 256 pixels, gigabytes
    assert (pixels == (9, 8, 7)).all()


def test_the_centre_is_kept():
    image = Image.new("RGB", (300, 100), "white")
    image.paste("red", (100, 0, 200, 100))
    assert (Preprocess("pillow", 50)(image) == (255, 0, 0)).mean() > 0.95


def test_full_squeezes_the_whole_image():
    image = noise(90, 40)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(Preprocess("pillow", 32, "full")(image), expected)


def reference(settings, pixels):
    return Preprocess("reference", interpolation="bilinear", **settings)(Image.fromarray(pixels))


GOLDEN = {
    "eval32": {"image_size": 32, "resize": "full"},
    "resize_small_bilinear32": {"image_size": 32, "resize": "crop", "crop_fraction": 32 / 36},
}


@pytest.mark.parametrize("name", GOLDEN)
def test_reference_family_is_bit_exact(golden_dir, name):
    sources = np.load(golden_dir / "preprocess/decode_only.npz")
    golden = np.load(golden_dir / f"preprocess/{name}.npz")
    for picture in golden.files:
        found = reference(GOLDEN[name], sources[picture])
        np.testing.assert_array_equal(found.astype(np.float32) / 255 * 2 - 1, golden[picture], picture)


@pytest.mark.shared
@pytest.mark.parametrize("crop", [0, 1])
def test_reference_family_at_224(shared_dir, crop):
    folder = shared_dir / "reference/golden/preprocess"
    sources, golden = np.load(folder / "decode_only.npz"), np.load(folder / "vit_jax_preprocess.npz")
    names = [name for name in golden.files if name.startswith(f"size224_crop{crop}/")]
    assert names
    for name in names:
        settings = {"image_size": 224, "resize": ("full", "crop")[crop]}
        np.testing.assert_array_equal(reference(settings, sources[name.split("/")[1]]), golden[name], name)


def test_reference_crop_of_an_extreme_aspect():
    assert reference({"image_size": 16}, np.full((2, 3000, 3), 7, np.uint8)).shape == (16, 16, 3)


def test_describe_tells_apart_whatever_changes_pixels():
    base = {"family": "pillow", "image_size": 224, "crop_fraction": 0.875}
    variants = [
        base,
        base | {"resize": "full"},
        base | {"image_size": 192},
        base | {"interpolation": "bilinear"},
        base | {"crop_fraction": 1.0},
        base | {"mean": 127.0},
        base | {"std": 128.0},
        base | {"family": "reference", "interpolation": "bilinear"},
    ]
    descriptions = [str(sorted(Preprocess(**variant).describe().items())) for variant in variants]
    assert len(set(descriptions)) == len(variants)
    assert Preprocess(**base).describe()["image_size"] == 224
    whole = [Preprocess("pillow", 224, "full", crop_fraction=share).describe() for share in (0.875, 1.0)]
    assert whole[0] == whole[1]  # nothing is cropped, so the share says nothing


@pytest.mark.parametrize(
    "settings",
    [{"image_size": 0}, {"image_size": 8, "crop_fraction": 0}, {"image_size": 8, "crop_fraction": 1.1}],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must be"):
        Preprocess("pillow", **settings)


def test_whole_equals_resize_then_crop_to_the_last_bit():
    settings = Preprocess("pillow", 56, crop_fraction=0.875, whole=True)
    for size in ((500, 375), (375, 500), (31, 200), (1, 1)):
        image = noise(*size)
        np.testing.assert_array_equal(settings(image), resize_then_crop(image, settings))
    started = time.perf_counter()
    assert (settings(Image.new("RGB", (30_000, 2), (9, 8, 7))) == (9, 8, 7)).all()
    assert time.perf_counter() - started < 1


def test_what_is_said_of_a_space_only_grows_where_it_must():
    """Spaces made before channels had means of their own keep their ids."""
    plain = {
        "family",
        "image_size",
        "resize",
        "interpolation",
        "crop_fraction",
        "mean",
        "std",
        "decode_rules",
    }
    assert set(Preprocess("pillow", 224).describe()) == plain
    assert set(Preprocess("pillow", 224, whole=True).describe()) == plain | {"whole"}
    assert set(Preprocess("pillow", 224, "full", whole=True).describe()) == plain - {"crop_fraction"}
    assert Preprocess("pillow", 224, mean=(1.0, 2.0, 3.0)).describe()["mean"] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("settings", [{"interpolation": "sinc"}, {"crop_fraction": 1.5}])
def test_unknown_ways_to_resize_are_refused(settings):
    with pytest.raises(ValueError, match="must be"):
        Preprocess("pillow", 8, **settings)


def test_the_reference_family_is_bilinear():
    with pytest.raises(ValueError, match="bilinear"):
        Preprocess("reference", 8, interpolation="bicubic")
