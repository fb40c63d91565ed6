"""Sections from what files say: failures named, many classes cut to the worst and best, everything escaped."""

import json
import re
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from trainer.report import sections
from trainer.report.evaluation_tables import evaluations

NASTY = "<script>alert(1)</script>"


def images(failures: dict[str, int], notes: bytes = b"") -> Any:
    """What `sections.cache` needs of an opened tower."""
    rows = [
        {"id": None, "locator": f"x.tar#{NASTY}", "stage": "decode", "reason": "truncated", "detail": NASTY},
        {"id": "b", "locator": "y", "stage": "read", "reason": "io", "detail": None},
    ]
    tower = SimpleNamespace(
        tower=NASTY, weights="0" * 64, features="pooled", preprocessing={"image_size": 224}
    )
    manifest = SimpleNamespace(
        tower=tower,
        tower_id="t",
        embedding_dim=8,
        dtype="float16",
        views=1,
        counts={"seen": 12_000, "embedded": 11_997, "failed": 3},
        failures=failures,
        space_id="s",
        content_id="c",
    )
    folder = SimpleNamespace(read_table=lambda name: pa.Table.from_pylist(rows), read=lambda name: notes)
    return SimpleNamespace(manifest=manifest, folder=folder, parts=[SimpleNamespace(bytes=1_500_000)] * 2)


def test_failures_by_reason_and_the_first_of_them() -> None:
    made = sections.cache(images({"io": 1, "truncated": 2})).body
    assert "12,000" in made
    assert "2, 3.0 MB" in made
    assert "Images without a vector: 0.0 %" in made
    assert re.findall(r"width:([\d.]+)%", made) == ["100.0", "50.0"]  # the commonest first
    assert made.index("truncated") < made.index("io<")
    assert "<script" not in made
    assert made.count("&lt;script&gt;") == 3
    assert "Every image that was seen has a vector" in sections.cache(images({})).body


def test_when_the_cache_was_made_and_how_fast() -> None:
    notes = {"ended": f"2026-11-22T05:28:00Z{NASTY}", "images": 12_000, "images_per_second": 76.84}
    made = sections.cache(images({}, json.dumps(notes).encode())).body
    assert "2026-11-22T05:28:00Z&lt;script" in made
    assert "12,000 images, 76.8 a second with start-up" in made
    for other in (b"", b"\xff", b"[1]", b'{"ended": 3, "images": "x", "images_per_second": null}'):
        assert "finished" not in sections.cache(images({}, other)).body


def zero_shot(classes: int) -> dict[str, Any]:
    per_class = [
        {"class_index": n, "name": f"class {n}", "n": 2, "top1": n / classes} for n in range(classes)
    ]
    confusions = [{"label": 0, "predicted": 1, "name": NASTY, "predicted_name": "b", "n": 4}]
    return {
        "evaluation": "zero-shot",
        "top1": 0.5,
        "top5": 0.75,
        "mean_per_class": 0.4,
        "standard_error": {"top1": 0.01},
        "n": 100,
        "n_classes": classes,
        "definition": NASTY,
        "notes": [NASTY],
        "per_class": per_class,
        "confusions": confusions,
    }


def test_few_classes_are_all_shown_the_worst_first() -> None:
    made = sections.classes({"pets": zero_shot(3)}).body
    assert re.findall(r"<td>(class \d)</td>", made) == ["class 0", "class 1", "class 2"]
    assert "50.0 % top-1" in made
    assert "&lt;script&gt;" in made
    assert "<script" not in made


def test_of_many_classes_the_worst_and_the_best() -> None:
    made = sections.classes({"imagenet": zero_shot(1000)}).body
    shown = [int(n) for n in re.findall(r"<td>class (\d+)</td>", made)]
    assert shown == [*range(20), *range(980, 1000)]
    assert "the 20 worst of 1,000 classes" in made


def test_figures_of_every_kind() -> None:
    side = {"r1": 0.25, "r5": 0.5, "r10": 0.75, "median_rank": 3.0}
    retrieval = {
        "evaluation": "retrieval",
        "i2t": side,
        "t2i": side,
        "n_images": 5,
        "n_captions": 25,
        "split": "all",
    }
    few_shot = {"evaluation": "few-shot", "accuracy": {"1": 0.1, "10": 0.9}, "n": 50, "n_classes": 5}
    languages = {"languages": {"de": {"i2t": side, "t2i": {"r1": 0.125}, "n_images": 7, "n_captions": 9}}}
    filtered = {
        "evaluation": "pairs",
        "cosine": {"mean": 0.25, "standard_error": 0.01},
        "quantiles": {"0.1": 0.125, "0.5": 0.2, "0.9": 0.5},
        "histogram": {"edges": [0.0, 0.3, 0.6], "counts": [3, 1]},
        "n_pairs": 4,
        "n_images": 2,
        "split": "all",
    }
    reports = {"coco": retrieval | languages, "pets": zero_shot(3), "probe": few_shot, "web": filtered}
    made = evaluations(reports).body
    rows = ["".join(re.findall(r">([^<]*)<", row)) for row in re.findall(r"<tr>(.*?)</tr>", made)]
    assert "coco: image → text25.0 %50.0 %75.0 %25 captionsall" in rows
    assert "coco: text → image25.0 %50.0 %75.0 %5 imagesall" in rows
    assert "pets50.0 ± 1.0 %75.0 %40.0 %100 images, 3 classes" in rows
    assert "de25.0 %12.5 %79" in rows
    assert "coco: 1 languages" in made
    assert "probe10.0 %90.0 %50 images, 5 classes" in rows
    assert "web0.250 ± 0.0100.1250.5004 captions of 2 imagesall" in rows
    assert 'aria-label="Cosines of web"' in made
    assert "<script" not in made
    assert evaluations({}).body == ""
