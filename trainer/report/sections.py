"""The sections of a report that tell what files say: classes, the cache, how the run was made."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.store import ImagesFolder
from trainer.report.bars import bar_table
from trainer.report.markup import count, escape, percent
from trainer.report.page import Section, details, paragraph, side_by_side, table

MOST_CLASSES = 40  # shown one by one; of more, the worst and the best
MOST_FAILURES = 12


def classes(reports: Mapping[str, Mapping[str, Any]]) -> Section:
    """Of each zero-shot evaluation the worst confusions and the classes as bars."""
    parts = []
    for name, report in reports.items():
        if report.get("evaluation") == "zero-shot" and report.get("per_class"):
            parts.append(f"<h3>{_title(name, report)}</h3>")
            parts.append(side_by_side([_per_class(report["per_class"]), _confusions(report)], "tables"))
    return Section("classes", "Classes", "\n".join(parts))


def cache(images: ImagesFolder) -> Section:
    """What the cache of image embeddings holds, and what it does not."""
    manifest = images.manifest
    facts = [
        ("image tower", manifest.tower.tower),
        ("tower_id", manifest.tower_id),
        ("weights", manifest.tower.weights),
        (
            "features",
            f"{manifest.tower.features}, {manifest.embedding_dim} × {manifest.dtype}, views: {manifest.views}",
        ),
        ("preprocessing", ", ".join(f"{key} {value}" for key, value in manifest.tower.preprocessing.items())),
        *((name, count(value)) for name, value in manifest.counts.items()),
        ("parts", f"{count(len(images.parts))}, {_size(sum(part.bytes for part in images.parts))}"),
        *_embedding(images),
        ("space_id", manifest.space_id),
        ("content_id", manifest.content_id),
    ]
    body = table(("", ""), facts, kind="facts")
    seen = max(manifest.counts.get("seen", 0), 1)
    if manifest.failures:
        rows = [
            ((reason,), number / max(manifest.failures.values()), f"{count(number)}")
            for reason, number in sorted(manifest.failures.items(), key=lambda item: -item[1])
        ]
        share = sum(manifest.failures.values()) / seen
        body += f"<h3>Images without a vector: {percent(share)}</h3>" + bar_table(("reason", "images"), rows)
        body += details("The first of them", _first_failures(images))
    else:
        body += paragraph("Every image that was seen has a vector, or repeats the id of one that has.")
    return Section("cache", "The cache", body)


def _embedding(images: ImagesFolder) -> list[tuple[str, str]]:
    """When the cache was finished and at what rate, where its notes tell; they are no part of its contract."""
    try:
        notes = json.loads(images.folder.read("run.json"))
    except (OSError, ValueError):
        return []
    if not isinstance(notes, dict):
        return []
    found = [("finished", notes["ended"])] if isinstance(notes.get("ended"), str) else []
    rate, seen = notes.get("images_per_second"), notes.get("images")
    if isinstance(rate, int | float) and isinstance(seen, int):
        found.append(("last launch", f"{count(seen)} images, {rate:,.1f} a second with start-up"))
    return found


def settings(config: Mapping[str, Any], facts: Sequence[tuple[str, str]]) -> Section:
    """How the run was made: its settings as recorded."""
    flat = [(name, _plain(value)) for name, value in config.items() if not isinstance(value, Mapping)]
    for part, inside in config.items():
        if isinstance(inside, Mapping):
            flat += [(f"{part}: {name}", _plain(value)) for name, value in inside.items()]
    body = table(("", ""), facts, kind="facts") + details("All settings", table(("", ""), flat, kind="facts"))
    return Section("settings", "How it was made", body)


def _title(name: str, report: Mapping[str, Any]) -> str:
    return escape(
        f"{name}: {percent(report['top1'])} top-1, {percent(report['mean_per_class'])} mean per class"
    )


def _per_class(found: Sequence[Mapping[str, Any]]) -> str:
    """All classes from worst to best, or of many the worst and the best."""
    ordered = sorted(found, key=lambda one: (one["top1"], -one["n"], one["class_index"]))
    if len(ordered) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        return _class_bars(f"the {half} worst of {count(len(ordered))} classes", ordered[:half]) + details(
            f"The {half} best", _class_bars("", ordered[-half:])
        )
    return _class_bars("classes, the worst first", ordered)


def _class_bars(title: str, found: Sequence[Mapping[str, Any]]) -> str:
    rows = [((one["name"], count(one["n"])), one["top1"], percent(one["top1"])) for one in found]
    return f"<div>{paragraph(title)}{bar_table(('class', 'images', 'top-1'), rows)}</div>"


def _confusions(report: Mapping[str, Any]) -> str:
    found = report.get("confusions", ())
    if not found:
        return f"<div>{paragraph('no image was taken for another class')}</div>"
    most = max(one["n"] for one in found)
    rows = [((one["name"], one["predicted_name"]), one["n"] / most, count(one["n"])) for one in found]
    return f"<div>{paragraph('worst confusions')}{bar_table(('class', 'taken for', 'images'), rows)}</div>"


def _first_failures(images: ImagesFolder) -> str:
    failures = images.folder.read_table("failures.parquet").slice(0, MOST_FAILURES).to_pylist()
    rows = [
        (
            str(one.get("id") or one.get("locator") or ""),
            str(one.get("stage")),
            str(one.get("reason")),
            str(one.get("detail") or ""),
        )
        for one in failures
    ]
    return table(("image", "stage", "reason", "detail"), rows, kind="facts")


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | bool) else str(value)


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
