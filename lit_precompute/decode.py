"""Encoded bytes -> an RGB image, under limits; every way to fail has a name.

The rules of the two families of preprocessing (`DECODE_RULES` is their version and part of the space). They differ in
two lines: `pillow` shows pictures as people see them, `reference` does as TensorFlow's decoder, with which the LiT and
SigLIP checkpoints were trained and measured.

| found | becomes |
|---|---|
| EXIF orientation | `pillow`: applied; unreadable EXIF counts as none. `reference`: ignored |
| alpha, palette with transparency, transparent colour | `pillow`: composited on white. `reference`: dropped |
| 16-bit or 32-bit grey | its high byte: value >> 8, with 32-bit values first clipped to 0..65535 |
| CMYK, YCbCr, palette, grey, 1-bit | converted to RGB, without colour management |
| animation, several pages | the first frame |
| bytes after the image | ignored |
| bytes missing | refused (`truncated`), never filled with grey |

Pillow's format classes are called directly, not `Image.open`: that one warns or raises above a size kept in a global,
and a global, or a warning filter, is no place for a limit that threads share.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, features
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

DECODE_RULES = 1

Family = Literal["pillow", "reference"]

ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class DecodeLimits:
    """What one image may cost. 50 megapixels are about 150 MB decoded."""

    max_pixels: int = 50_000_000
    max_bytes: int = 64 << 20


class DecodeError(Exception):
    """An image that cannot be used.

    Attributes:
        reason: `empty`, `too_many_bytes`, `not_an_image`, `too_many_pixels`, `truncated` or `corrupt`; of decoding in a
            process of its own also `crash` or `timeout`.
        detail: what was found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class _Format:
    name: str
    accepts: Callable[[bytes], bool]
    open: Callable[[io.BytesIO], Image.Image]


FORMATS = (
    _Format("JPEG", lambda head: head.startswith(b"\xff\xd8\xff"), JpegImageFile),
    _Format("PNG", lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"), PngImageFile),
    _Format("WEBP", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", WebPImageFile),
    _Format("GIF", lambda head: head[:6] in (b"GIF87a", b"GIF89a"), GifImageFile),
    _Format("BMP", lambda head: head.startswith(b"BM"), BmpImageFile),
    _Format("TIFF", lambda head: head[:4] in (b"II*\0", b"MM\0*"), TiffImageFile),
    _Format("AVIF", lambda head: head[4:12] in (b"ftypavif", b"ftypavis"), AvifImageFile),
)

NOT_READ: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("HEIC", lambda head: head[4:12] in (b"ftypheic", b"ftypheix", b"ftypheim", b"ftypheis", b"ftypmif1")),
    ("JPEG XL", lambda head: head.startswith(b"\xff\x0a") or head[4:12] == b"JXL \r\n\x87\n"),
    ("JPEG 2000", lambda head: head[4:12] == b"jP  \r\n\x87\n"),
)


def decode(image: bytes, limits: DecodeLimits, family: Family = "pillow") -> Image.Image:
    """The RGB picture in `image`. Safe to call from many threads.

    Args:
        image: an encoded JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF.
        limits: checked against the bytes and the header, before any pixel is decoded.
        family: whose rules for orientation and alpha hold.

    Returns:
        A loaded image of mode RGB, 8 bits a channel.

    Raises:
        DecodeError: with one of the reasons its class lists.
    """
    if not image:
        raise DecodeError("empty", "0 bytes")
    if len(image) > limits.max_bytes:
        raise DecodeError("too_many_bytes", f"{len(image)} bytes, at most {limits.max_bytes} are allowed")
    form = _format_of(image)
    opened = _open(form, image, limits)
    try:
        opened.load()
        if family == "reference":
            return _eight_bit(opened).convert("RGB")
        return _upright(_on_white(_eight_bit(opened)), opened)
    except Exception as error:  # Pillow raises a dozen unrelated types for broken pixels
        raise _broken(form, image, error, ended_early=False) from error


def _format_of(image: bytes) -> _Format:
    for form in FORMATS:
        if form.accepts(image[:16]):
            return form
    for name, accepts in NOT_READ:
        if accepts(image[:16]):
            raise DecodeError("not_an_image", f"a {name}, which is not read: convert it, to JPEG or AVIF say")
    raise DecodeError("not_an_image", f"{len(image)} bytes that start with {image[:16]!r}")


def _open(form: _Format, image: bytes, limits: DecodeLimits) -> Image.Image:
    """Reads the header and holds its size against the limit."""
    if form.name == "AVIF" and not features.check("avif"):
        raise DecodeError("not_an_image", "an AVIF, which this build of Pillow cannot read")
    stream = io.BytesIO(image)
    try:
        opened = form.open(stream)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeError("too_many_pixels", str(error)) from error
    except Exception as error:  # as above, and SyntaxError for most broken headers
        raise _broken(form, image, error, ended_early=stream.tell() >= len(image)) from error
    width, height = opened.size
    if width * height > limits.max_pixels:
        raise DecodeError(
            "too_many_pixels",
            f"the header declares {width} x {height}, at most {limits.max_pixels} pixels are allowed",
        )
    return opened


def _broken(form: _Format, image: bytes, error: Exception, ended_early: bool) -> DecodeError:
    """Cut off or damaged? Decided by Pillow's words, by WebP's declared length, or by a header read to the end."""
    if form.name == "WEBP":
        ended_early = int.from_bytes(image[4:8], "little") + 8 > len(image)
    cut = ended_early or isinstance(error, EOFError) or "truncated" in str(error).lower()
    return DecodeError(
        "truncated" if cut else "corrupt", f"{form.name}: {type(error).__name__}: {error}"[:200]
    )


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel."""
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.clip(np.asarray(image), 0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no range that could be scaled to 8 bits")
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("RGB")


def _upright(rgb: Image.Image, opened: Image.Image) -> Image.Image:
    turn = UPRIGHT.get(_orientation(opened))
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> Any:
    """EXIF orientation 1..8; 1 where there is none or it cannot be read."""
    try:
        return image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # EXIF written by cameras and editors is broken in every way there is
        return 1
