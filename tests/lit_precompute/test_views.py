"""The views of an image: the tower's own first, then crops that follow from id and number alone."""

from fractions import Fraction
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from lit_precompute.decode import DecodeLimits, decode
from lit_precompute.decode_pool import DecodePool
from lit_precompute.decode_process import DecodeProcess
from lit_precompute.preprocess import Preprocess
from lit_precompute.records import Record
from lit_precompute.towers.hf_naflex import NaFlexPreprocess
from lit_precompute.views import Views, crop_box, random_crop
from tests.conftest import square

LIMITS = DecodeLimits()
FAMILIES = [
    Preprocess("pillow", 8),
    Preprocess("pillow", 8, crop_fraction=0.5, whole=True),
    Preprocess("reference", 8, interpolation="bilinear"),
]


def coordinates(width: int, height: int) -> Image.Image:
    """A picture whose red says the column and whose green says the row."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


def slow_draws(id: str, view: int, number: int) -> list[Fraction]:
    """Four shares of 2⁵³, read from the digest byte by byte."""
    digest = sha256(f"view {view} draw {number} of {id}".encode()).digest()
    words = [sum(digest[8 * n + place] << (8 * place) for place in range(8)) for n in range(4)]
    return [Fraction(word // 2**11, 2**53) for word in words]


def test_boxes_are_the_same_for_ever() -> None:
    """Golden boxes: a store begun on one machine goes on on another."""
    assert crop_box(640, 480, "photo-1", 1) == (169, 48, 579, 480)
    assert crop_box(640, 480, "photo-1", 2) == (179, 34, 608, 454)
    assert crop_box(30, 200, "füße", 1) == (0, 105, 30, 134)


def test_a_box_follows_from_the_first_draw_that_fits() -> None:
    for place in range(40):
        id, (width, height) = f"id-{place}", (300, 200)
        for number in range(100):
            area, aspect, across, down = slow_draws(id, 3, number)
            pixels = float((Fraction("0.05") + Fraction("0.95") * area) * width * height)
            ratio = float(Fraction(3, 4) + (Fraction(4, 3) - Fraction(3, 4)) * aspect)
            w, h = round((pixels * ratio) ** 0.5), round((pixels / ratio) ** 0.5)
            if w <= width and h <= height:
                break
        left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
        assert crop_box(width, height, id, 3) == (left, top, left + w, top + h)


def test_crops_are_as_the_paper_draws_them() -> None:
    boxes = np.array([crop_box(1000, 1000, f"id-{n}", 1) for n in range(3000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes >= 0).all()
    assert (boxes <= 1000).all()
    share, aspect = width * height / 1e6, width / height
    assert 0.049 < share.min() < 0.06
    assert share.max() > 0.9
    small = share[share < 0.5]  # these all fit, so they are evenly spread
    np.testing.assert_allclose(np.histogram(small, 3, (0.05, 0.5))[0] / len(small), 1 / 3, atol=0.04)
    small_aspect = aspect[share < 0.5]
    assert 0.745 < aspect.min() < aspect.max() < 1.34
    counts = np.histogram(small_aspect, 2, (3 / 4, 4 / 3))[0] / len(small_aspect)
    np.testing.assert_allclose(counts, 0.5, atol=0.05)
    slack = boxes[:, 0] / np.maximum(1000 - width, 1)
    np.testing.assert_allclose(
        np.histogram(slack[width < 900], 2, (0, 1))[0] / (width < 900).sum(), 0.5, atol=0.05
    )


def test_half_of_the_crops_are_mirrored() -> None:
    image, mirrored = coordinates(60, 40), 0
    for number in range(400):
        left, top, right, bottom = crop_box(60, 40, f"id-{number}", 2)
        crop = np.asarray(random_crop(image, f"id-{number}", 2))
        columns = np.arange(left, right)
        turned = crop[0, 0, 0] != left
        mirrored += turned
        np.testing.assert_array_equal(
            crop[..., 0], np.tile(columns[::-1] if turned else columns, (bottom - top, 1))
        )
        np.testing.assert_array_equal(crop[:, 0, 1], np.arange(top, bottom))
    assert 160 < mirrored < 240


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (1, 500)])
def test_an_image_in_which_nothing_fits_is_taken_whole(size: tuple[int, int]) -> None:
    assert crop_box(*size, "thin", 1) == (0, 0, *size)


@pytest.mark.parametrize("preprocess", FAMILIES)
def test_views_are_the_towers_own_and_squeezed_crops(preprocess: Preprocess) -> None:
    image = coordinates(120, 90)
    found = Views(preprocess, 4)(image, "a")
    assert (found.shape, found.dtype) == ((4, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(found[0], preprocess(image))
    np.testing.assert_array_equal(found[:1], Views(preprocess)(image, "a"))
    np.testing.assert_array_equal(found[:3], Views(preprocess, 3)(image, "a"))  # whatever the number of views
    for view in range(1, 4):
        left, top, right, bottom = crop_box(120, 90, "a", view)
        shown = found[view].astype(float)
        step = (right - left) / 8
        across = np.sort(shown[0, :, 0])
        np.testing.assert_allclose(across, left + (np.arange(8) + 0.5) * step - 0.5, atol=step / 2 + 2)
        np.testing.assert_allclose(shown[:, 0, 1].mean(), (top + bottom - 1) / 2, atol=2)
        assert not np.array_equal(found[view], Views(preprocess, 4)(image, "b")[view])


def test_a_tower_of_any_aspect_keeps_that_of_the_crop() -> None:
    preprocess = NaFlexPreprocess("pillow", 4, "full", "bilinear", patch_size=4, max_num_patches=16)
    found = Views(preprocess, 3)(coordinates(90, 60), "a")
    assert found.shape == (3, 17, 48)
    np.testing.assert_array_equal(found[2], preprocess(random_crop(coordinates(90, 60), "a", 2)))


@pytest.mark.parametrize("isolated", [False, True])
def test_views_are_equal_whatever_decodes(isolated: bool) -> None:
    images = [square(n / 7, 16 + n) for n in range(4)]
    records = [Record(n, f"x#{n}", f"ïd-{n}", image) for n, image in enumerate(images)]
    with DecodePool(2, FAMILIES[0], LIMITS, 60, isolated, views=3) as pool:
        found = list(pool.stream(records))
    for item, image in zip(found, images, strict=True):
        assert item.pixels is not None
        np.testing.assert_array_equal(
            item.pixels, Views(FAMILIES[0], 3)(decode(image, LIMITS), str(item.record.id))
        )


def test_preprocessing_that_cannot_travel_makes_the_same_views() -> None:
    class Local(Preprocess):
        pass

    with DecodeProcess(Local("pillow", 8), LIMITS, 60, 3) as process:
        here = process.decode(square(0.3, 20), "a").values
    with DecodeProcess(FAMILIES[0], LIMITS, 60, 3) as process:
        np.testing.assert_array_equal(here, process.decode(square(0.3, 20), "a").values)
