"""The report of a real run: complete, harmless, and in a browser without an error."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from trainer import evaluate, train

NASTY = '<img src=x onerror="alert(1)">'
TINY = "--text-width 16 --text-depth 1 --text-heads 2 --text-mlp 16 --vocab-size 64 --max-text-length 6"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, colour_store: Path, compiled_once: None) -> Path:
    """A run on the twelve squares, with its reports and its page."""
    folder = tmp_path_factory.mktemp("report")
    flags = f"{TINY} --batch-size 12 --steps 24 --log-every 4 --learning-rate 1e-2 --no-tensorboard --eval-every 12"
    classes = [
        NASTY,
        *(
            [
                "orange",
                "yellow",
                "chartreuse",
                "green",
                "spring",
                "cyan",
                "azure",
                "blue",
                "violet",
                "magenta",
                "rose",
            ]
        ),
    ]
    (folder / "classes.json").write_text(json.dumps(classes), encoding="utf-8")
    suite = (
        f"defaults: {{store: {colour_store}}}\n"
        "evaluations:\n"
        "  squares: {kind: retrieval}\n"
        "  colours: {kind: zero-shot, classes: classes.json}\n"
    )
    more = (
        "  web: {kind: pairs}\n"
        f"  probe: {{kind: few-shot, shots: [1], test_store: {colour_store}}}\n"
        "  nothing: {kind: retrieval, ids: 'no such*'}\n"
    )
    (folder / "suite.yaml").write_text(suite, encoding="utf-8")
    (folder / "all.yaml").write_text(suite + more, encoding="utf-8")
    places = [
        "--store",
        str(colour_store),
        "--output",
        str(folder / "run"),
        "--spool-dir",
        str(folder / "spool"),
    ]
    watched = ["--eval-suite", str(folder / "suite.yaml")]
    assert train.main([*places, *flags.split(), *watched]) == 0
    words = ["all", "--run", str(folder / "run"), "--suite", str(folder / "all.yaml")]
    assert evaluate.main(words) == 3  # one of them finds no image
    assert evaluate.main(["report", str(folder / "run")]) == 0
    return folder / "run"


def test_everything_is_on_the_page(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Evaluations",
        "Training",
        "Gallery",
        "Similarities",
        "Classes",
        "The cache",
        "How it was made",
        "Not on this page",
    ]
    assert "nothing, which failed: " in page
    charts = re.findall(r'class="chart"[^>]*aria-label="([^"]*)"', page)
    assert {"Loss", "Scale", "Recall@1 inside the batch", "squares, while training"} <= set(charts)
    assert "Cosines of web" in charts
    assert {
        "Cosine of images with captions",
        "Norms of the stored vectors",
        "Norms of the texts&#x27; vectors",
    } <= set(charts)
    report = json.loads((run / "evaluations" / "squares.json").read_text(encoding="utf-8"))
    assert f"{100 * report['i2t']['r1']:.1f} ± " in page
    assert "12 of 12 images" in page  # pictures
    assert page.count("data:image/jpeg;base64,") >= 12
    assert "stand-in" in page
    assert len(page) < 2_000_000


def test_nothing_is_fetched_run_or_told_of_this_machine(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<link" not in page
    assert NASTY not in page
    assert escape(NASTY) in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:image/jpeg|#)', page)
    assert str(run.parent) not in page


def test_without_pictures_or_without_the_store(run: Path, tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "page.html"
    assert (
        evaluate.main(["report", str(run), "--output", str(page), "--no-thumbnails", "--queries", "1"]) == 0
    )
    text = page.read_text(encoding="utf-8")
    assert "<img" not in text
    assert text.count('<article class="query">') == 2
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    config = json.loads((moved / "config.json").read_text(encoding="utf-8"))
    config["data"]["store"] = [str(tmp_path / "gone")]
    (moved / "config.json").write_text(json.dumps(config), encoding="utf-8")
    capsys.readouterr()
    assert evaluate.main(["report", str(moved)]) == 0
    assert "Note: The gallery, the similarities and the cache" in capsys.readouterr().out
    text = (moved / "report.html").read_text(encoding="utf-8")
    assert "Not on this page" in text
    assert "<h2>Gallery" not in text
    assert "<h2>Classes" in text
    assert evaluate.main(["report", str(moved), "--store", str(tmp_path / "gone")]) == 2
    assert "--store: must be a folder made by lit-embed" in capsys.readouterr().err


# What the page is asked in the browser: it lies in a frame of a given width, unchanged, and the outer page looks in.
PROBE = """<!doctype html><title>waiting</title>
<iframe style="width:{width}px;height:900px;border:0" srcdoc="{page}"></iframe>
<script>
document.querySelector("iframe").addEventListener("load", (event) => {{
  const inner = event.target.contentDocument;
  const images = [...inner.images];
  document.title = JSON.stringify({{
    images: images.length,
    loaded: images.filter((one) => one.complete && one.naturalWidth > 0).length,
    overflow: inner.documentElement.scrollWidth - inner.documentElement.clientWidth,
    height: inner.documentElement.scrollHeight,
    charts: inner.querySelectorAll("svg").length,
    width: inner.defaultView.innerWidth,
  }});
}});
</script>
"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "chrome")]
    path = next((one for one in found if one), None)
    if path is None:
        pytest.skip("needs a headless browser; found no chromium or chrome on the PATH")
    return path


def look(browser: str, page: Path, tmp_path: Path) -> tuple[str, str]:
    """(the document after it was loaded, what the browser wrote to its console)."""
    words = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    words += ["--enable-logging=stderr", "--log-level=0", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*words, page.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("width", [1100, 390])
def test_in_a_browser(run: Path, browser: str, tmp_path: Path, width: int) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(width=width, page=escape(page)), encoding="utf-8")
    dom, console = look(browser, probe, tmp_path)
    assert console == ""
    found = json.loads(unescape(re.findall(r"<title>(.*?)</title>", dom)[0]))
    assert found["width"] == width
    assert found["overflow"] == 0  # nothing sticks out to the side
    assert found["images"] == found["loaded"] >= 12
    assert found["charts"] == page.count("<svg ")
    assert found["height"] > 2000


def test_the_browser_would_have_complained(run: Path, browser: str, tmp_path: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    bad = tmp_path / "bad.html"
    bad.write_text(page.replace("</main>", '<img src="nowhere.png"></main>'), encoding="utf-8")
    _, console = look(browser, bad, tmp_path)
    assert "Content Security Policy" in console
