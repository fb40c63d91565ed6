"""`lit-store inspect` as a user sees it, on a terminal and as a page."""

import html.parser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.store import thumbnails
from pipelines.store.command import main
from pipelines.store.meter import Meter, duration_text, size_text
from pipelines.store.text import clean

REPO = Path(__file__).resolve().parents[3]
Rows = list[dict[str, Any]]


@pytest.fixture
def odd_store(embed: Callable[..., int], colour_rows: Rows, write_rows: Any, tmp_path: Path) -> Path:
    """Twelve squares with a failure, an id taken, an image given twice, a caption given twice and a hostile one."""
    rows = [dict(row) for row in colour_rows]
    rows[3]["image"] = b"<html>"
    rows[5]["image"] = rows[4]["image"]
    rows[6]["caption"] = "RED "
    rows[7]["caption"] = "\x1b[31m<script>alert(1)</script>"
    rows[8]["caption"] = None
    rows[9]["key"] = "square-01"
    for part in range(3):
        write_rows(tmp_path / "input" / f"{part}.parquet", rows[4 * part : 4 * part + 4])
    flags = [
        "--input",
        f"{tmp_path}/input",
        "--format",
        "parquet",
        "--tower-id",
        "t",
        "--label-column",
        "label",
    ]
    assert embed(*flags, "--unit-bytes", "1", "--output", f"{tmp_path}/store") == 0
    return tmp_path / "store"


def squeeze(text: str) -> str:
    return re.sub(" +", " ", text)


def test_the_report_says_what_the_store_holds(odd_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["inspect", str(odd_store)]) == 0
    printed = capsys.readouterr()
    text = squeeze(printed.out)
    for expected in (
        "plan 3 units of 3 files",
        "pairs 12 records, 11 captions of 11 of them; left out: missing 1",
        "images 12 seen = 10 embedded + 1 failed + 1 with an id taken before\n",
        "vectors 8 x float16, 1 view(s) per image",
        "weights random:0",
        "resize=crop",
        "1 8.3% decode not_an_image the bytes are not an image of a known format 0.parquet#3: ",
        "0 1 ████\n 1 9 ████████████████████████████████\n",
        "not finite 0\n zero 0\n constant 0\n",
        "images sha256 10 9 10.0% 2 x square-04, square-05\n",
        "captions wording 9 8 11.1% 2 x square-00, square-06\n",
        "vectors bytes 10 9 10.0% 2 x square-04, square-05\n",
        'square-04 "green" 1.000 square-05 "spring green"',
        "over the pairs of 10 sampled images",
    ):
        assert expected in text, expected
    assert "\x1b" not in printed.out  # nothing a caption says reaches the terminal as a command
    assert printed.err == ""


def test_collapsed_vectors_show(
    odd_store: Path, colour_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tower that got black pixels gives everything one vector."""
    from pipelines.store import survey

    real = survey._Counting.add

    def collapse(self: Any, part: Any) -> None:
        part.embeddings[:] = np.arange(1, 9)
        real(self, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey._Counting, "add", collapse)
        patch.setattr(survey.ImagesFolder, "iter_joined", _writable(survey.ImagesFolder.iter_joined))
        assert main(["inspect", str(odd_store)]) == 0
    text = squeeze(capsys.readouterr().out)
    assert "mean cosine 1.000 over the pairs of 10 sampled images: nearly all alike." in text
    assert "vectors bytes 10 1 90.0% 10 x square-00, square-01, square-02, square-04, …" in text
    assert "Different images share a vector" in text


def _writable(iter_joined: Any) -> Any:
    import dataclasses

    def joined(self: Any, columns: Any = ()) -> Any:
        for part in iter_joined(self, columns):
            yield dataclasses.replace(part, embeddings=part.embeddings.copy())

    return joined


def test_counts_that_do_not_add_up_are_said(
    colour_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = shutil.copytree(colour_store, tmp_path / "store")
    manifest = store / "images/stand-in/manifest.json"
    body = json.loads(manifest.read_text())
    body["counts"]["seen"] = 13
    manifest.write_text(json.dumps(body))
    assert main(["inspect", str(store)]) == 0
    assert "does not add up; run lit-store verify" in capsys.readouterr().out


def test_an_unfinished_tower_says_how_far_it_is(
    colour_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = shutil.copytree(colour_store, tmp_path / "store")
    (store / "pairs/manifest.json").unlink()
    tower = store / "images/stand-in"
    (tower / "manifest.json").unlink()
    (tower / "_receipts").mkdir()
    for name in ("g000-00000.json", "g000-00002.json"):
        (tower / "_receipts" / name).write_text("{}")
    (tower / "_receipts/g000-00001.note").write_text(json.dumps({"detail": "No space left on device"}))
    assert main(["inspect", str(store)]) == 0
    text = squeeze(capsys.readouterr().out)
    assert "pairs unfinished" in text
    assert "towers none finished" in text
    assert "Tower stand-in: unfinished\n units 2 of 3 units have receipts\n started 2" in text
    assert "g000-00001 No space left on device" in text


def test_usage(colour_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "found no store at" in capsys.readouterr().err
    assert main(["inspect", str(colour_store), "--tower-id", "other"]) == 2
    assert "Known: stand-in" in capsys.readouterr().err
    assert main(["inspect", str(colour_store), "--towerid", "x"]) == 2
    assert main([]) == 2
    store = shutil.copytree(colour_store, tmp_path / "store")
    part = store / "images/stand-in/embeddings-g000-00001.parquet"
    part.write_bytes(part.read_bytes()[:-5])
    capsys.readouterr()
    assert main(["inspect", str(store)]) == 2
    message = capsys.readouterr().err
    assert "embeddings-g000-00001.parquet" in message
    assert "lit-store verify" in message


class Page(html.parser.HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def page_of(store: Path, *flags: str) -> tuple[str, Page]:
    path = store.parent / "page.html"
    assert main(["inspect", str(store), "--html", str(path), *flags]) == 0
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_needs_nothing_and_believes_nothing(odd_store: Path) -> None:
    text, page = page_of(odd_store)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "a")]
    images = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(images) >= 12
    assert all(source.startswith("data:image/jpeg;base64,") for source in images)
    assert "&lt;script&gt;alert(1)" in text
    assert "default-src" in text
    assert "10 of 10 images" in text
    assert "http://" not in text


def test_without_its_inputs_the_page_has_no_pictures_and_says_so(odd_store: Path) -> None:
    (odd_store.parent / "input").rename(odd_store.parent / "moved")
    text, page = page_of(odd_store)
    assert "img" not in [tag for tag, _ in page.tags]
    assert "0 of 10 images" in text
    text, page = page_of(odd_store, "--no-thumbnails")
    assert "no thumbnails, as asked" in text


def test_a_picture_that_changed_since_is_not_shown(odd_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = thumbnails.hashlib.sha256

    def other(data: bytes = b"") -> Any:
        return real(data + b"!")

    monkeypatch.setattr(thumbnails.hashlib, "sha256", other)
    wanted = [thumbnails.Shown("g000-00000", "square-00", real(b"x").digest(), ())]
    from pipelines.store.thumbnails import read_thumbnails
    from schemas.storage import Folder
    from schemas.store import Store

    assert read_thumbnails(Store(Folder(str(odd_store))), wanted) == ({}, "0 of 1 images")


def test_too_much_input_is_not_read_for_pictures(odd_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "MOST_BYTES", 2000)  # one unit of three
    text, _ = page_of(odd_store)
    assert re.search(r"[34] of 10 images; others would need 3\.\d kB more of input", text)


def test_it_starts_without_beam_jax_or_pillow(colour_store: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('apache_beam', 'jax', 'flax', 'tensorflow', 'PIL'):\n"
        "    sys.modules[name] = None\n"
        "from pipelines.store.command import main\n"
        f"assert main(['inspect', {str(colour_store)!r}]) == 0\n"
        f"assert main(['verify', {str(colour_store)!r}]) == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO, stdout=subprocess.DEVNULL)


class Stream:
    """A stream that may be a terminal."""

    def __init__(self, terminal: bool) -> None:
        self.text, self.terminal = "", terminal

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


@pytest.mark.parametrize("terminal", [True, False])
def test_long_passes_say_how_far_they_are(terminal: bool) -> None:
    now = [0.0]
    stream = Stream(terminal)
    with Meter("verify", stream, clock=lambda: now[0]) as meter:  # type: ignore[arg-type]
        meter.total = 100_000_000
        for second in (0.5, 10.0, 20.0):
            now[0] = second
            meter.add(20_000_000)
    last = "verify  60.0 MB of 100.0 MB  3.0 MB/s  13 s left"
    if terminal:
        assert stream.text.count("left") == 2
        assert stream.text.endswith(f"\r\x1b[2K{last}\r\x1b[2K")
    else:
        assert stream.text == last + "\n"


def test_words_for_sizes_and_times() -> None:
    assert [size_text(n) for n in (0, 999, 1_536_000, 2.5e12, 7e16)] == [
        *("0 B", "999 B", "1.5 MB", "2.5 TB", "70.0 PB")
    ]
    assert [duration_text(n) for n in (0, 59.6, 200, 3900, 180_000)] == [
        *("0 s", "1 m 00 s", "3 m 20 s", "1 h 05 m", "2 d 02 h")
    ]
    assert clean("a\x1b[31m  red\ndog \u202e x", 40) == "a�[31m red dog � x"
    assert clean("x" * 50, 10) == "x" * 9 + "…"
