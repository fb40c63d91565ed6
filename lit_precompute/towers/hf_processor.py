"""`preprocessor_config.json` -> `Preprocess`, to the letter or not at all.

What a file leaves out has the default of its processor's class. A setting that changes pixels in a way that cannot be
followed here is refused by name, and so is a key that is not known, unless it is null or false.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lit_precompute.config import TowerConfig
from lit_precompute.preprocess import Preprocess

HALF = [0.5, 0.5, 0.5]
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
BILINEAR, BICUBIC = 2, 3

Channels = tuple[float, float, float]

COMMON = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
SQUARE = COMMON | {"size": {"height": 224, "width": 224}, "image_mean": HALF, "image_std": HALF}
CROPPED = COMMON | {"size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224}

# class: what it does unless the file says otherwise
DEFAULTS: dict[str, dict[str, Any]] = {
    "CLIPImageProcessor": CROPPED | CLIP | {"resample": BICUBIC},
    "SiglipImageProcessor": SQUARE | {"resample": BICUBIC},
    "BitImageProcessor": CROPPED | CLIP | {"resample": BICUBIC},
    "ViTImageProcessor": SQUARE | {"resample": BILINEAR},
    "ConvNextImageProcessor": SQUARE
    | {"size": {"shortest_edge": 384}, "crop_pct": 224 / 256, "resample": BILINEAR},
    "DINOv3ViTImageProcessor": SQUARE | IMAGENET | {"resample": BILINEAR},
    "Siglip2ImageProcessor": COMMON
    | {"image_mean": HALF, "image_std": HALF, "resample": BILINEAR, "patch_size": 16, "max_num_patches": 256},
}
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's number

# Keys that change no pixel: our decoder always gives RGB, and the layout is the tower's own business.
INERT = {
    *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "do_convert_rgb"),
    *(
        "_valid_processor_keys",
        "data_format",
        "input_data_format",
        "device",
        "return_tensors",
        "default_to_square",
    ),
}


def processor_class(source: str, processor: Mapping[str, Any], default: str) -> str:
    """The class a file names, without the endings and old names that change nothing."""
    name = processor.get("image_processor_type") or processor.get("feature_extractor_type") or default
    plain = re.sub(r"(Fast|Pil)$", "", str(name)).replace("FeatureExtractor", "ImageProcessor")
    if plain not in DEFAULTS:
        raise ValueError(
            f"{source}: preprocessor_config.json must name one of {', '.join(DEFAULTS)}, found {name!r}."
        )
    return plain


def read_processor(
    source: str, processor: Mapping[str, Any], default: str, config: TowerConfig
) -> Preprocess:
    """What a processor does to an image, with `--resize` and `--image-size` in its place where they were given.

    Args:
        source: names the folder in messages.
        processor: the JSON object.
        default: the class to assume where the file names none.
        config: its `resize` and `image_size`.

    Raises:
        ValueError: a setting cannot be followed; all such are named.
    """
    kind, settings = read_settings(source, processor, default)
    if "size" not in settings:
        raise ValueError(
            f"{source}: preprocessor_config.json must give images of one shape for this tower, found {kind}."
        )
    if kind == "ConvNextImageProcessor":
        side, fraction, resize = _convnext(source, settings)
    elif settings.get("do_center_crop"):
        side, fraction, resize = _cropped(source, settings)
    else:
        side, fraction, resize = _side(source, "size", settings["size"]), 1.0, "full"
    mean, std = read_scale(source, settings)
    preprocess = Preprocess(
        "pillow",
        side,
        "full" if resize == "full" else "crop",
        RESAMPLE[settings["resample"]],
        fraction,
        mean=mean,
        std=std,
        whole=True,
    )
    return replace(
        preprocess,
        resize=config.resize or preprocess.resize,
        image_size=config.image_size or preprocess.image_size,
    )


def read_settings(source: str, processor: Mapping[str, Any], default: str) -> tuple[str, dict[str, Any]]:
    """The class, and its settings with defaults filled in. Raises ValueError as `read_processor`."""
    kind = processor_class(source, processor, default)
    settings = DEFAULTS[kind] | dict(processor)
    if isinstance(settings.get("size"), int):  # of the short side or of a square, depending on the class
        settings["size"] = dict.fromkeys(DEFAULTS[kind].get("size", {}), settings["size"])
    _refuse_unknown(source, kind, settings)
    return kind, settings


def read_scale(source: str, settings: Mapping[str, Any]) -> tuple[Channels, Channels]:
    """Mean and standard deviation by channel, on the scale of pixels 0..255."""
    factor = settings["rescale_factor"] if settings["do_rescale"] else 1.0
    if not settings["do_normalize"]:
        return _scaled((0.0,) * 3, factor), _scaled((1.0,) * 3, factor)
    mean, std = (_channels(source, key, settings[key]) for key in ("image_mean", "image_std"))
    return _scaled(mean, factor), _scaled(std, factor)


def _refuse_unknown(source: str, kind: str, settings: Mapping[str, Any]) -> None:
    """What is on and not followed here."""
    known = set(DEFAULTS[kind]) | INERT
    known |= {"do_center_crop", "crop_size"} if "size" in known else set()
    odd = [
        f"{key} {value!r}"
        for key, value in settings.items()
        if key not in known and value is not None and value is not False
    ]
    if settings["do_resize"] is not True:
        odd.append(f"do_resize {settings['do_resize']!r}")
    if settings["resample"] not in range(len(RESAMPLE)):
        odd.append(f"resample {settings['resample']!r}")
    factor = settings["rescale_factor"]
    if not isinstance(factor, int | float) or factor <= 0:
        odd.append(f"rescale_factor {factor!r}")
    if odd:
        raise ValueError(
            f"{source}: preprocessor_config.json must ask for nothing that is not done here, found "
            f"{'; '.join(odd)}. Edit the file only if you know that the key changes no pixel."
        )


def _cropped(source: str, settings: Mapping[str, Any]) -> tuple[int, float, str]:
    """Short side to `size`, then the centre of `crop_size`."""
    side, size = _side(source, "crop_size", settings["crop_size"]), settings["size"]
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        return side, side / _side(source, "shortest_edge", size["shortest_edge"]), "crop"
    if _side(source, "size", size) == side:
        return side, 1.0, "full"  # nothing is left to crop
    raise ValueError(
        f"{source}: preprocessor_config.json must resize the short side before it crops, or to the very size of the "
        f"crop, found size {size!r} and crop_size {settings['crop_size']!r}."
    )


def _convnext(source: str, settings: Mapping[str, Any]) -> tuple[int, float, str]:
    """From 384 pixels on the whole image is squeezed; below, the short side is scaled by 1 / crop_pct and cropped."""
    size = settings["size"]
    side = _side(source, "size", size.get("shortest_edge") if isinstance(size, dict) else size)
    return (side, 1.0, "full") if side >= 384 else (side, side / int(side / settings["crop_pct"]), "crop")


def _side(source: str, key: str, size: Any) -> int:
    """The side of a square: 224, or {"height": 224, "width": 224}."""
    oblong = isinstance(size, dict) and (set(size) != {"height", "width"} or size["height"] != size["width"])
    side = size["height"] if isinstance(size, dict) and not oblong else size
    if not isinstance(side, int) or isinstance(side, bool) or side < 1:
        raise ValueError(f"{source}: preprocessor_config.json: {key} must be a square, found {size!r}.")
    return side


def _channels(source: str, key: str, value: Any) -> tuple[float, ...]:
    numbers = value if isinstance(value, list) else [value] * 3
    if len(numbers) != 3 or not all(isinstance(number, int | float) for number in numbers):
        raise ValueError(f"{source}: preprocessor_config.json: {key} must be three numbers, found {value!r}.")
    return tuple(float(number) for number in numbers)


def _scaled(value: tuple[float, ...], factor: float) -> Channels:
    """From the scale of rescaled pixels to that of 0..255."""
    red, green, blue = (number / factor for number in value)
    return red, green, blue
