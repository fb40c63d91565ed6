"""The figures of a report under flat names, whatever its kind: what tables, curves and comparisons are made of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One number of a report.

    Attributes:
        name: such as "i2t r1" or "top1".
        value: a fraction.
        error: its standard error; None where there is none.
    """

    name: str
    value: float
    error: float | None


def figures(report: Mapping[str, Any]) -> list[Figure]:
    """The fractions a report is about, in its own order; empty for a kind without any."""
    return list(_KINDS.get(str(report.get("evaluation")), _none)(report))


def _none(report: Mapping[str, Any]) -> Iterator[Figure]:
    return iter(())


def _zero_shot(report: Mapping[str, Any]) -> Iterator[Figure]:
    errors = report.get("standard_error", {})
    for name in ("top1", "top5", "mean_per_class"):
        yield Figure(name, report[name], errors.get(name))


def _retrieval(report: Mapping[str, Any]) -> Iterator[Figure]:
    errors = report.get("standard_error", {})
    for side in ("i2t", "t2i"):
        for name in (one for one in report[side] if one.startswith("r")):
            yield Figure(f"{side} {name}", report[side][name], errors.get(side, {}).get(name))
    for side, found in report.get("mean_over_languages", {}).items():
        for name, value in found.items():
            yield Figure(f"{side} {name}, mean over languages", value, None)


def _few_shot(report: Mapping[str, Any]) -> Iterator[Figure]:
    errors = report.get("standard_error", {})
    for shots, value in report["accuracy"].items():
        yield Figure(f"{shots} shot{'s' * (shots != '1')}", value, errors.get(shots))


# A filter's cosines (pairs) are no figure to compare: those of different towers are not on one scale.
_KINDS = {"zero-shot": _zero_shot, "retrieval": _retrieval, "few-shot": _few_shot, "pairs": _none}
KINDS = tuple(_KINDS)


def headline(report: Mapping[str, Any]) -> float:
    """The one number a report stands for: recall@1 averaged over both ways, or its first figure."""
    if report["evaluation"] == "retrieval":
        return float(report["i2t"]["r1"] + report["t2i"]["r1"]) / 2
    return figures(report)[0].value
