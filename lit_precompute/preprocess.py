"""An RGB image -> the uint8 square a tower takes, in the manner of the library its weights were trained with.

Two families, each exact in itself:

- `pillow`: Pillow's own resize, which antialiases, as torchvision and Hugging Face processors do.
- `reference`: bilinear without antialias in float32, truncated to uint8, as TensorFlow does for the LiT and SigLIP
  checkpoints. Strong reduction aliases; the checkpoints were trained with that.

Pixels stay uint8: scaling them to the tower's range happens on the device, in `Tower.forward`.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from lit_precompute.decode import DECODE_RULES

RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "nearest": Image.Resampling.NEAREST,
}
WHOLE_PIXELS = (
    1 << 24
)  # a larger scaled image is cut before it is resized, whatever `whole` says: 3000 x 2 pixels
# would become 384,000 x 256


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the input of a tower.

    Attributes:
        family: `pillow` or `reference`.
        image_size: S, the side of the result.
        resize: `crop` scales the short side and cuts the centre; `full` squeezes the whole image to the square.
        interpolation: a name in `RESAMPLING`; the reference family is bilinear.
        crop_fraction: share of the scaled short side that `crop` keeps (0.875: scale to 256, keep 224). Above 1 (only
            with `whole`) the centre is larger than the scaled image, and black fills the rest.
        mean, std: the tower sees (pixel - mean) / std, pixel in 0..255; one number, or one for each channel.
        whole: resize the whole image before `crop` cuts it, equal to Hugging Face processors to the last bit. Without
            it only what is kept is resized, which is a third faster and differs by at most one level in few pixels.
    """

    family: Literal["pillow", "reference"]
    image_size: int
    resize: Literal["crop", "full"] = "crop"
    interpolation: str = "bicubic"
    crop_fraction: float = 1.0
    mean: float | tuple[float, float, float] = 127.5
    std: float | tuple[float, float, float] = 127.5
    whole: bool = False

    def __post_init__(self) -> None:
        if self.image_size < 1 or self.crop_fraction <= 0 or (self.crop_fraction > 1 and not self.whole):
            raise ValueError(
                "preprocess: image_size must be at least 1 and crop_fraction in (0, 1], found "
                f"{self.image_size} and {self.crop_fraction}."
            )
        if self.interpolation not in RESAMPLING:
            raise ValueError(
                f"preprocess: interpolation must be one of {', '.join(RESAMPLING)}, found {self.interpolation!r}."
            )
        if self.family == "reference" and self.interpolation != "bilinear":
            raise ValueError(f"preprocess: the reference family is bilinear, found {self.interpolation!r}.")

    def __call__(self, image: Image.Image) -> np.ndarray:
        """The input of the tower.

        Args:
            image: mode RGB, any size from 1 x 1.

        Returns:
            uint8 [S, S, 3].
        """
        resize = _pillow if self.family == "pillow" else _reference
        return resize(image, self)

    @property
    def short_side(self) -> int:
        """Length the short side is scaled to before the centre is cut."""
        return round(self.image_size / self.crop_fraction)

    def describe(self) -> dict[str, Any]:
        """Everything that decides the tower's input, as JSON values; part of the space."""
        facts = asdict(self) | {"decode_rules": DECODE_RULES}
        for name in ("mean", "std"):
            facts[name] = list(facts[name]) if isinstance(facts[name], tuple) else facts[name]
        if self.resize == "full":  # nothing is cropped, so the fraction changes nothing
            del facts["crop_fraction"]
        if self.resize == "full" or not self.whole:  # said only where it holds: older spaces do not have it
            del facts["whole"]
        return facts


def _pillow(image: Image.Image, settings: Preprocess) -> np.ndarray:
    """Resize, then crop the centre; without `whole` done as one resize of the box that the crop keeps.

    A box with the same scale has the same filter coefficients, and a 3000 x 2 image costs no 384,000 x 256 one on
    the way. Pillow holds the box in float32: against resize-then-crop up to 2 values in 1,000 differ by one level on
    noise, none on most photographs; the box is also a third faster.
    """
    size, method = settings.image_size, RESAMPLING[settings.interpolation]
    if settings.resize == "full":
        return np.asarray(resized(image, size, size, method))
    short = min(image.size)
    width, height = (side * settings.short_side // short for side in image.size)
    if settings.crop_fraction > 1 or (settings.whole and width * height <= WHOLE_PIXELS):
        return centre(np.asarray(resized(image, width, height, method)), size, size)
    box = [_kept(side, side * settings.short_side // short, size) for side in image.size]
    (left, right), (top, bottom) = box
    return np.asarray(image.resize((size, size), method, box=(left, top, right, bottom)))


def resized(image: Image.Image, width: int, height: int, method: Image.Resampling) -> Image.Image:
    """`image.resize((width, height))` with its two passes in a fixed order, whatever the version of Pillow.

    Pillow rounds to 8 bits between them. Up to version 12 it begins with the rows, and so do we; 13 begins with the
    columns of a tall image that is squeezed to a square, which changes a quarter of its values by one or two levels.
    """
    return image.resize((width, image.height), method).resize((width, height), method)


def centre(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The central part of an image; black where the image is smaller, an odd line of it above and at the left.

    Args:
        pixels: uint8 [H, W, 3].

    Returns:
        uint8 [height, width, 3].
    """
    missing = [max(0, wanted - side) for wanted, side in zip((height, width), pixels.shape, strict=False)]
    if any(missing):
        pixels = np.pad(pixels, [*((-(-lines // 2), lines // 2) for lines in missing), (0, 0)])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def _kept(side: int, scaled: int, size: int) -> tuple[float, float]:
    """The interval of a side of the image that the central `size` of `scaled` pixels show."""
    start = (scaled - size) // 2
    return start * side / scaled, min((start + size) * side / scaled, side)


def _reference(image: Image.Image, settings: Preprocess) -> np.ndarray:
    """Bilinear between the four neighbours, whatever the reduction, then truncated; only kept pixels are computed."""
    pixels, size = np.asarray(image), settings.image_size
    height, width = pixels.shape[:2]
    scaled_height, scaled_width = _reference_scaled(height, width, settings)
    y0, y1, fy = _neighbours(height, scaled_height, size)
    x0, x1, fx = _neighbours(width, scaled_width, size)
    fx, fy = fx[None, :, None], fy[:, None, None]
    upper = _between(pixels[y0][:, x0], pixels[y0][:, x1], fx)
    lower = _between(pixels[y1][:, x0], pixels[y1][:, x1], fx)
    return (upper + (lower - upper) * fy).astype(np.uint8)


def _reference_scaled(height: int, width: int, settings: Preprocess) -> tuple[int, int]:
    if settings.resize == "full":
        return settings.image_size, settings.image_size
    factor = np.float32(settings.short_side) / np.float32(min(height, width))
    scaled = np.round(np.array([height, width], np.float32) * factor)  # half to even, as the reference
    return int(scaled[0]), int(scaled[1])


def _neighbours(side: int, scaled: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For the central `size` of `scaled` pixels: the two source pixels around each, and how far it is from the first.

    Half-pixel centres, in float32 and in this order of operations: another order moves pixels by one level.
    """
    start = (scaled - size) // 2
    scale = np.float32(side) / np.float32(scaled)
    at = (np.arange(start, start + size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(at)
    first = np.maximum(floor, 0).astype(np.int64)
    second = np.minimum(np.ceil(at), side - 1).astype(np.int64)
    return first, second, at - floor


def _between(start: np.ndarray, end: np.ndarray, share: np.ndarray) -> np.ndarray:
    first = start.astype(np.float32)
    return first + (end.astype(np.float32) - first) * share
