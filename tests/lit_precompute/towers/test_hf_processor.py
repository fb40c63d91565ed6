import json

import numpy as np
import pytest
from PIL import Image

from lit_precompute.config import TowerConfig
from lit_precompute.preprocess import centre
from lit_precompute.towers.hf_processor import read_processor

# Pillow 13, with which the golden files were made, squeezes tall images columns first; see preprocess.py.
SQUEEZED_TALL = 2.001 / 255


def processor(folder, **options):
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    return read_processor(folder.name, settings, "", TowerConfig("clip", "folder", **options))


def seen(preprocess, pixels):
    """What the network sees, [3, S, S]."""
    found = preprocess(Image.fromarray(pixels)).astype(np.float32)
    mean, std = np.float32(preprocess.mean), np.float32(preprocess.std)
    return ((found - mean) / std).transpose(2, 0, 1)


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2_fixed", "dinov2_bit", "vit", "convnext"])
def test_golden(golden_dir, name):
    folder = golden_dir / "hf/preprocess"
    sources, golden = np.load(folder / "decoded_rgb.npz"), np.load(folder / name / "io.npz")
    preprocess = processor(folder / name)
    assert sources.files
    for picture in sources.files:
        height, width = sources[picture].shape[:2]
        squeezed = preprocess.resize == "full" and height > width
        tolerance = SQUEEZED_TALL / 0.5 if squeezed else 1e-6
        expected = golden[f"pil.{picture}.pixel_values"].reshape(3, 48, 48)
        np.testing.assert_allclose(
            seen(preprocess, sources[picture]), expected, atol=tolerance, err_msg=picture
        )


def test_a_crop_larger_than_the_image_is_black_around_it(golden_dir):
    """The golden crop is 48 x 49, which no tower takes; the rule is the same."""
    folder = golden_dir / "hf/preprocess"
    sources, golden = np.load(folder / "decoded_rgb.npz"), np.load(folder / "clip_small_crop_pad/io.npz")
    mean, std = (
        np.array(v) for v in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    )
    for picture in sources.files:
        image = Image.fromarray(sources[picture])
        short = min(image.size)
        scaled = image.resize([33 * side // short for side in image.size], Image.Resampling.BICUBIC)
        found = (centre(np.asarray(scaled), 48, 49) / 255 - mean) / std
        expected = golden[f"pil.{picture}.pixel_values"].reshape(3, 48, 49)
        np.testing.assert_allclose(found.transpose(2, 0, 1), expected, atol=1e-6)
    settings = {"image_processor_type": "CLIPImageProcessor", "size": 33, "crop_size": 48}
    preprocess = read_processor("x", settings, "", TowerConfig("clip", "folder"))
    corner = preprocess(Image.new("RGB", (40, 40), "white"))[[0, 7, 8, 40, 41], [0, 7, 8, 40, 41], 0]
    assert corner.tolist() == [0, 0, 255, 255, 0]


def test_dinov3_differs_by_rounding_to_whole_levels_alone(golden_dir):
    folder = golden_dir / "hf/preprocess"
    sources, golden = np.load(folder / "decoded_rgb.npz"), np.load(folder / "dinov3/io.npz")
    for picture in sources.files:
        expected = golden[f"torchvision.{picture}.pixel_values"].reshape(3, 48, 48)
        found = seen(processor(folder / "dinov3"), sources[picture])
        assert np.abs(found - expected).max() <= 1.01 / 255 / 0.224
        assert np.abs(found - expected).mean() <= 0.3 / 255 / 0.224


def old(**settings):
    return read_processor("x", settings, "CLIPImageProcessor", TowerConfig("clip", "folder"))


def test_files_of_older_versions():
    """Sizes as numbers, the class under its former name, defaults left out."""
    clip = old(feature_extractor_type="CLIPFeatureExtractor", size=224, crop_size=224)
    assert (clip.image_size, clip.resize, clip.interpolation, clip.short_side) == (
        224,
        "crop",
        "bicubic",
        224,
    )
    assert clip.mean == pytest.approx((122.7709383, 116.7460125, 104.09373615))
    vit = old(feature_extractor_type="ViTFeatureExtractor", size=224, image_mean=0.5, image_std=[0.5] * 3)
    assert (vit.image_size, vit.resize, vit.interpolation) == (224, "full", "bilinear")
    assert vit.mean == vit.std == (127.5,) * 3
    assert old(image_processor_type="ViTImageProcessorFast", size=224) == old(
        image_processor_type="ViTImageProcessor",
        size={"height": 224, "width": 224},
        do_pad=False,
        pad_size=None,
    )


def test_convnext_squeezes_from_384_on():
    small, large = (
        old(image_processor_type="ConvNextImageProcessor", size={"shortest_edge": s}, crop_pct=0.875)
        for s in (224, 384)
    )
    assert (small.resize, small.short_side, large.resize, large.image_size) == ("crop", 256, "full", 384)


def test_scales_of_pixels():
    raw = old(do_rescale=False, image_mean=[1, 2, 3], image_std=[4, 5, 6])
    assert (raw.mean, raw.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert old(do_normalize=False).std == pytest.approx((255.0,) * 3)
    assert old(rescale_factor=1 / 127.5, image_mean=[1] * 3, image_std=[1] * 3).mean == pytest.approx(
        (127.5,) * 3
    )


def test_flags_go_before_the_file(golden_dir):
    folder = golden_dir / "hf/preprocess"
    assert processor(folder / "siglip", resize="crop", image_size=32).describe()["crop_fraction"] == 1.0
    bit = processor(folder / "dinov2_bit", image_size=96)
    assert (bit.image_size, bit.short_side) == (96, 110)
    assert "crop_fraction" not in processor(folder / "dinov2_bit", resize="full").describe()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"do_pad": True, "do_reduce_labels": True, "crop_margin": 3},
            "do_pad True; do_reduce_labels True; crop_m",
        ),
        ({"do_resize": False}, "do_resize False"),
        ({"resample": 9}, "resample 9"),
        ({"rescale_factor": 0}, "rescale_factor 0"),
        ({"crop_size": {"height": 48, "width": 49}}, "crop_size must be a square"),
        ({"size": {"shortest_edge": 48, "longest_edge": 99}}, "size must be a square"),
        ({"size": {"height": 96, "width": 96}, "crop_size": 48}, "resize the short side before it crops"),
        ({"do_center_crop": False}, "size must be a square"),
        ({"image_mean": [0.5]}, "image_mean must be three numbers"),
        ({"image_processor_type": "DonutImageProcessor"}, "must name one of CLIPImageProcessor.* 'Donut"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        old(**settings)
