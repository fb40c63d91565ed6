"""The look at a user's folder before any work is done with it."""

from pathlib import Path

import pytest

from demo.photo_folder import FEWEST, read_folder
from demo.photos_demo import main


def fill(folder: Path, captions: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, caption in enumerate(captions):
        (folder / f"{number:03}.jpg").write_bytes(b"not looked at yet")
        if caption:
            (folder / f"{number:03}.txt").write_text(caption, encoding="utf-8")


def test_images_and_first_captions(tmp_path: Path) -> None:
    fill(tmp_path / "pets", ["\n  a dog \nsecond", "", "  \n"])
    (tmp_path / "cat.PNG").write_bytes(b"")
    (tmp_path / "cat.txt").write_bytes("\ufeffeine Katze".encode())
    (tmp_path / "alone.txt").write_text("no image")
    found = read_folder(str(tmp_path))
    assert sorted(found.images) == ["cat", "pets/000", "pets/001", "pets/002"]
    assert found.captions == {"cat": "eine Katze", "pets/000": "a dog"}


@pytest.mark.parametrize(
    ("captions", "advice"),
    [
        ([], "Put images there"),
        (["a dog"] + [""] * FEWEST, "text file beside it"),
        (["a dog"] * (2 * FEWEST), "must tell the images apart"),
    ],
)
def test_a_folder_with_too_little_is_refused(
    tmp_path: Path, captions: list[str], advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "data", captions)
    output = tmp_path / "output"
    assert main(["--data", str(tmp_path / "data"), "--output", str(output)]) == 2
    said = capsys.readouterr().err
    assert f"at least {FEWEST} images with different captions" in said
    assert advice in said
    assert not output.exists()


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_no_folder(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", name and str(tmp_path / name)]) == 2
    assert "make demo-photos DATA=" in capsys.readouterr().err
