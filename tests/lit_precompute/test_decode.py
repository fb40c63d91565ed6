import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile, features

from lit_precompute.decode import DecodeError, DecodeLimits, decode

LIMITS = DecodeLimits()
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def noise(width=40, height=30, mode="RGB"):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def reason_of(data, limits=LIMITS):
    with pytest.raises(DecodeError) as caught:
        decode(data, limits)
    return caught.value.reason


def test_lossless_pixels_come_back():
    image = decode(encoded(noise()), LIMITS)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(noise()))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format(form):
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    flat = Image.new("RGB", (40, 30), (200, 40, 90))
    image = decode(encoded(flat, form), LIMITS)
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(image, int) - (200, 40, 90)).max() <= 6


def test_alpha_is_composited_on_white():
    image = Image.new("RGBA", (3, 1))
    image.putpixel((0, 0), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 128))
    image.putpixel((2, 0), (255, 0, 0, 0))
    seen = decode(encoded(image), LIMITS)
    assert [seen.getpixel((x, 0)) for x in range(3)] == [RED, (255, 127, 127), WHITE]


def test_grey_with_alpha():
    image = Image.new("LA", (1, 1), (0, 0))
    assert decode(encoded(image), LIMITS).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_transparent_palette_entry_is_white(form):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    seen = decode(encoded(image, form, transparency=1), LIMITS)
    assert [seen.getpixel((x, 0)) for x in range(2)] == [RED, WHITE]


def test_palette_with_alpha_per_entry():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    seen = decode(encoded(image, transparency=b"\x80\xff"), LIMITS)
    assert [seen.getpixel((x, 0)) for x in range(2)] == [(255, 127, 127), GREEN]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_high_byte(form):
    values = np.array([[0, 255, 256, 0x1234, 0x8000, 65535]], np.uint16)
    seen = np.asarray(decode(encoded(Image.fromarray(values), form), LIMITS))
    np.testing.assert_array_equal(seen[0, :, 0], [0, 0, 1, 0x12, 0x80, 255])


def test_floating_point_grey_is_refused():
    assert reason_of(encoded(Image.new("F", (4, 4)), "TIFF")) == "corrupt"


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_is_repeated(mode):
    seen = np.asarray(decode(encoded(noise(mode=mode)), LIMITS))
    assert (seen == seen[..., :1]).all()


def test_cmyk():
    seen = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95), LIMITS)
    assert np.abs(np.asarray(seen, int) - RED).max() <= 6


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert decode(data, LIMITS).getpixel((4, 4)) == RED


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(form, orientation):
    """The top left quarter is red, the top right green, the bottom left blue; stored turned, seen upright."""
    upright = Image.new("RGB", (32, 16), WHITE)
    for corner, colour in (((0, 0), RED), ((16, 0), GREEN), ((0, 8), BLUE)):
        upright.paste(colour, (*corner, corner[0] + 16, corner[1] + 8))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    seen = np.asarray(decode(encoded(stored, form, exif=exif, **options), LIMITS), int)
    assert np.abs(seen[[2, 2, 13, 13], [4, 28, 4, 28]] - (RED, GREEN, BLUE, WHITE)).max() <= 30


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_counts_as_none():
    data = encoded(Image.new("RGB", (20, 10)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode(data, LIMITS).size == (20, 10)


def test_trailing_bytes_are_ignored():
    assert decode(encoded(noise(), "JPEG") + b"garbage" * 100, LIMITS).size == (40, 30)


def test_one_pixel_and_a_thin_line():
    assert decode(encoded(Image.new("RGB", (1, 1))), LIMITS).size == (1, 1)
    assert decode(encoded(Image.new("RGB", (3000, 2))), LIMITS).size == (3000, 2)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!doctype html><html>not found</html>", "not_an_image"),
        (np.random.default_rng(0).bytes(2000), "not_an_image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "not_an_image"),
        (b"P6 1 1 255 abc", "not_an_image"),  # an image, of a format that is not let in
        (b"%!PS-Adobe-3.0 EPSF", "not_an_image"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
    ],
)
def test_what_is_no_image(data, reason):
    assert reason_of(data) == reason


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_an_image_that_ends_early_is_refused(form, share):
    data = encoded(noise(160, 120), form)
    assert reason_of(data[: int(len(data) * share)]) in ("truncated", "corrupt")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_an_early_end_is_called_truncated(form):
    data = encoded(noise(160, 120), form)
    assert reason_of(data[: len(data) // 2]) == "truncated"
    assert reason_of(data[:20]) == "truncated"


def test_progressive_jpeg_cut_in_a_late_scan():
    data = encoded(noise(160, 120), "JPEG", progressive=True)
    assert reason_of(data[: int(len(data) * 0.9)]) == "truncated"


def test_a_damaged_checksum_is_corrupt():
    data = bytearray(encoded(noise()))
    data[20] ^= 1  # inside the header chunk
    assert reason_of(bytes(data)) == "corrupt"


def png_header(width, height):
    """A PNG that declares a size and holds next to nothing."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [7072, 12_000, 20_000, 2**31 - 1])
def test_declared_pixels_are_checked_before_decoding(side):
    """Above and below the sizes at which Pillow itself would warn or raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason_of(png_header(side, side)) == "too_many_pixels"


def test_limits_are_inclusive():
    data = encoded(noise(40, 30))
    assert decode(data, DecodeLimits(max_pixels=1200, max_bytes=len(data))).size == (40, 30)
    assert reason_of(data, DecodeLimits(max_pixels=1199)) == "too_many_pixels"
    assert reason_of(data, DecodeLimits(max_bytes=len(data) - 1)) == "too_many_bytes"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_bytes_give_an_image_or_a_decode_error(form):
    rng = np.random.default_rng(0)
    whole = encoded(noise(), form)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about broken metadata it can do without
        for _ in range(150):
            data = bytearray(whole)
            for place in rng.integers(0, min(len(data), 400), 3):
                data[place] = rng.integers(256)
            try:
                image = decode(bytes(data), DecodeLimits(max_pixels=1 << 20))
            except DecodeError:
                continue
            assert image.mode == "RGB"


def test_threads_share_nothing():
    data = [encoded(Image.new("RGB", (64, 64), (n, n, n))) for n in range(64)]
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda d: decode(d, LIMITS), data))
    assert [image.getpixel((0, 0))[0] for image in images] == list(range(64))


def test_no_global_of_pillow_is_touched():
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    decode(encoded(noise()), LIMITS)
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == before == (False, 89478485)


@pytest.mark.shared
def test_the_broken_sample(shared_dir):
    rows = pq.read_table(shared_dir / "data/imagenet_sample/broken-00000.parquet").to_pylist()
    expected = {
        "jpeg_truncated_half": "truncated",
        "jpeg_truncated_20_bytes": "truncated",
        "html_instead_of_image": "not_an_image",
        "zero_bytes": "empty",
        "random_bytes": "not_an_image",
        "png_bomb_20000x20000": "too_many_pixels",
        "png_bomb_12000x12000": "too_many_pixels",
    }
    found = {}
    for row in rows:
        if row["image"] is not None:
            try:
                decode(row["image"], LIMITS)
            except DecodeError as error:
                found[row["key"]] = error.reason
    assert found == expected


LOSSLESS = ("palette_png_233x119", "rgba_png_61x45", "gray16_png_40x50", "tiny_rgb_png_5x3")
LOSSY = ("rgb_jpeg_301x173", "gray_jpeg_97x131", "cmyk_jpeg_150x211")


@pytest.mark.parametrize("name", LOSSLESS + LOSSY)
def test_the_reference_family_decodes_as_the_reference(golden_dir, name):
    """Lossless formats exactly, alpha dropped; JPEG within what two decoders differ by (mean about 1, at most 6 levels,
    more only where colours were subsampled)."""
    source = np.load(golden_dir / "preprocess/sources.npz")[name].tobytes()
    golden = np.load(golden_dir / "preprocess/decode_only.npz")[name].astype(int)
    ours = np.asarray(decode(source, DecodeLimits(), "reference")).astype(int)
    assert ours.shape == golden.shape
    difference = np.abs(ours - golden)
    if name in LOSSLESS:
        assert difference.max() == 0
    else:
        assert difference.mean() < 1.5


def test_the_families_differ_in_orientation_and_alpha():
    turned, clear = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(turned, "JPEG", exif=exif)
    Image.new("RGBA", (3, 2), (10, 20, 30, 0)).save(clear, "PNG")
    assert decode(turned.getvalue(), DecodeLimits(), "pillow").size == (4, 6)
    assert decode(turned.getvalue(), DecodeLimits(), "reference").size == (6, 4)
    assert decode(clear.getvalue(), DecodeLimits(), "pillow").getpixel((0, 0)) == (255, 255, 255)
    assert decode(clear.getvalue(), DecodeLimits(), "reference").getpixel((0, 0)) == (10, 20, 30)
