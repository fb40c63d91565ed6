"""The figures of a run's reports as tables, one a kind of evaluation."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.evals.figures import figures
from trainer.evals.retrieval import KS
from trainer.evaluations.table import Column, mismatches
from trainer.report.bars import counted
from trainer.report.markup import count, percent
from trainer.report.page import Section, details, paragraph, side_by_side, table

PAIR_QUANTILES = {"10 % below": "0.1", "90 % below": "0.9"}  # heading, key in the report

Reports = Mapping[str, Mapping[str, Any]]


def evaluations(reports: Reports) -> Section:
    """Every figure of every report, with what it means folded away."""
    kinds = [_retrieval(reports), _zero_shot(reports), _few_shot(reports), _pairs(reports)]
    tables = side_by_side(kinds, "stack") + _languages(reports) + side_by_side(_pair_charts(reports))
    notes = [f"{name}: {note}" for name, report in reports.items() for note in report.get("notes", ())]
    notes += mismatches([Column("This run", reports)])
    meant = "".join(
        paragraph(f"{name}: {report['definition']}")
        for name, report in reports.items()
        if "definition" in report
    )
    body = tables + "".join(map(paragraph, notes)) + details("What the figures mean", meant)
    return Section("evaluations", "Evaluations", body)


def _retrieval(reports: Reports) -> str:
    rows = []
    for name, report in _of_kind(reports, "retrieval"):
        shown = {one.name: percent(one.value, one.error) for one in figures(report)}
        among = {
            "i2t": f"{count(report['n_captions'])} captions",
            "t2i": f"{count(report['n_images'])} images",
        }
        for side, title in (("i2t", "image → text"), ("t2i", "text → image")):
            recalls = [shown[f"{side} r{k}"] for k in KS]
            rows.append((f"{name}: {title}", *recalls, among[side], str(report.get("split", ""))))
    return table(("retrieval", *(f"recall@{k}" for k in KS), "among", "split"), rows)


def _languages(reports: Reports) -> str:
    """Recall@1 of each language by itself, folded away."""
    made = []
    for name, report in _of_kind(reports, "retrieval"):
        rows = [
            (
                lang,
                *(percent(one[side]["r1"]) for side in ("i2t", "t2i")),
                count(one["n_images"]),
                count(one["n_captions"]),
            )
            for lang, one in report.get("languages", {}).items()
        ]
        columns = ("language", "image → text recall@1", "text → image recall@1", "images", "captions")
        made.append(details(f"{name}: {count(len(rows))} languages", table(columns, rows)) if rows else "")
    return "".join(made)


def _zero_shot(reports: Reports) -> str:
    rows = [
        (
            name,
            *(percent(one.value, one.error) for one in figures(report)),
            f"{count(report['n'])} images, {count(report['n_classes'])} classes",
            str(report.get("split", "")),
        )
        for name, report in _of_kind(reports, "zero-shot")
    ]
    return table(("zero-shot", "top-1", "top-5", "mean per class", "of", "split"), rows)


def _few_shot(reports: Reports) -> str:
    found = _of_kind(reports, "few-shot")
    names = list(dict.fromkeys(one.name for _, report in found for one in figures(report)))
    rows = []
    for name, report in found:
        shown = {one.name: percent(one.value, one.error) for one in figures(report)}
        of = f"{count(report['n'])} images, {count(report['n_classes'])} classes"
        rows.append((name, *(shown.get(one, "–") for one in names), of, ""))
    return table(("few-shot, of the cache alone", *names, "of", ""), rows)


def _pairs(reports: Reports) -> str:
    """Cosines of pairs as they are: they are no shares of anything."""
    rows = []
    for name, report in _of_kind(reports, "pairs"):
        cosine = report["cosine"]
        rows.append(
            (
                name,
                f"{cosine['mean']:.3f} ± {cosine['standard_error']:.3f}",
                *(f"{report['quantiles'][quantile]:.3f}" for quantile in PAIR_QUANTILES.values()),
                f"{count(report['n_pairs'])} captions of {count(report['n_images'])} images",
                str(report.get("split", "")),
            )
        )
    return table(("pairs: cosine", "mean", *PAIR_QUANTILES, "of", "split"), rows)


def _pair_charts(reports: Reports) -> list[str]:
    charts = []
    for name, report in _of_kind(reports, "pairs"):
        edges, counts = report["histogram"]["edges"], np.array(report["histogram"]["counts"])
        charts.append(counted(f"Cosines of {name}", edges[0], edges[-1], {name: counts}))
    return charts


def _of_kind(reports: Reports, kind: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, report) for name, report in reports.items() if report.get("evaluation") == kind]
