"""The model card of an exported run: the sections of LiT's, filled with what files say and nothing else."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import parameters
from trainer.exports.facts import RunFacts, training_settings
from trainer.exports.latency import Latency
from trainer.run_directory import local_run

EVALUATIONS = ("zero-shot", "retrieval", "few-shot")


@dataclass(frozen=True)
class Report:
    """An evaluation report of `lit-eval`.

    Attributes:
        source: bare name of its file.
        content: what it says.
    """

    source: str
    content: Mapping[str, Any]


def read_reports(paths: Sequence[str], facts: RunFacts) -> list[Report]:
    """Reads evaluation reports and refuses those of another model.

    Raises:
        ValueError: a file is no report of a known evaluation, or speaks of another space, data or checkpoint.
    """
    reports = []
    for path in paths:
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"--reports: {path} must be JSON, found {error}.") from None
        kind = content.get("evaluation") if isinstance(content, dict) else None
        if kind not in EVALUATIONS:
            raise ValueError(
                f"--reports: {path} must be a report of lit-eval ({', '.join(EVALUATIONS)}), found {kind!r}."
            )
        _refuse_another_model(path, content, facts)
        reports.append(Report(Path(path).name, content))
    return reports


def own_reports(run: str, facts: RunFacts) -> list[Report]:
    """The reports in a run's own `evaluations`, those of other checkpoints and data left out."""
    found = []
    for file in sorted((local_run(run) / "evaluations").glob("*.json")):
        with suppress(ValueError):
            found += read_reports([str(file)], facts)
    return found


def read_licenses(given: Sequence[str]) -> dict[str, str]:
    """`WHAT=LICENCE` texts by what they are of.

    Raises:
        ValueError: one has another form, or something is named twice.
    """
    licenses: dict[str, str] = {}
    for text in given:
        what, mark, name = (part.strip() for part in text.partition("="))
        if not (what and mark and name) or what in licenses:
            raise ValueError(f"--licenses: must be WHAT=LICENCE, each of another thing, found {text!r}.")
        licenses[what] = name
    return licenses


def model_card(
    facts: RunFacts,
    format_: str,
    files: Sequence[str],
    reports: Sequence[Report],
    licenses: Mapping[str, str],
    latency: Latency | None,
) -> str:
    """The card as Markdown.

    Args:
        facts: the run.
        format_: the format exported to.
        files: names of the files beside the card.
        reports: of this model.
        licenses: what the user says of them, by what they are of.
        latency: as measured, or None.
    """
    sections = [
        _summary(facts, format_, files),
        _data(facts),
        _training(facts),
        _compute(facts, latency),
        _evaluation(reports),
        _limitations(facts, reports, licenses),
        _provenance(facts, reports, licenses),
    ]
    return "\n".join(line for section in sections for line in (*section, ""))


def _refuse_another_model(path: str, content: Mapping[str, Any], facts: RunFacts) -> None:
    wanted: dict[str, Any] = {"space_id": facts.run.space_id}
    if content["evaluation"] != "few-shot":  # which judges the image embeddings alone
        wanted |= {"checkpoint_step": facts.run.step, "trained_on_content_id": facts.run.content_id}
    for name, value in wanted.items():
        if content.get(name) != value:
            raise ValueError(
                f"--reports: {path} must be of this model, {name} {value!r}, found {content.get(name)!r}. "
                "Evaluate this run, or leave the report out."
            )


def _summary(facts: RunFacts, format_: str, files: Sequence[str]) -> Iterator[str]:
    tower = facts.run.text_tower
    backbone = tower.architecture["backbone"]
    yield f"# Model card: {facts.name}, step {facts.run.step:,}"
    yield ""
    yield (
        "A text tower tuned by locked-image tuning (LiT): the image tower stood still, its embeddings were computed "
        "once, and this tower learned to give a caption a vector that lies near its image's."
    )
    yield ""
    yield "## Model summary"
    yield ""
    yield from _table(
        ("", ""),
        [
            ("text tower", tower.name),
            ("architecture", ", ".join(f"{name} {value}" for name, value in backbone.items())),
            ("parameters of the text tower", f"{parameters.count(tower.params):,}"),
            (
                "input",
                f"text, cut or padded to {tower.max_text_length} tokens of the tokenizer beside this card",
            ),
            ("output", f"{tower.out_dim} numbers, not normalised; compared by cosine"),
            ("loss", facts.run.config["loss"]["loss"]),
            ("log of the scale", repr(facts.run.log_scale)),
            ("bias", "none" if facts.run.bias is None else repr(facts.run.bias)),
            *_image_tower(facts),
            ("export format", format_),
            ("files", ", ".join(files)),
        ],
    )


def _image_tower(facts: RunFacts) -> Iterator[tuple[str, str]]:
    if facts.images is None:
        yield "image tower", f"of space {facts.run.space_id[:12]}…; its store was not at hand for this card"
        return
    info = facts.images.tower
    yield "image tower (locked)", info.tower
    yield "image tower's weights", f"sha256 {info.weights}" if ":" not in info.weights else info.weights
    yield "image features", f"{info.features}, {info.embedding_dim} numbers"
    yield "image preprocessing", ", ".join(f"{name} {value}" for name, value in info.preprocessing.items())


def _data(facts: RunFacts) -> Iterator[str]:
    data = facts.run.config["data"]
    rows: list[tuple[str, str]] = [
        ("content_id", facts.run.content_id),
        ("images trained on", f"{facts.provenance.rows:,}"),
        ("held out", f"{data['holdout_fraction']:g} of the data, by {data['holdout_by']}"),
        ("caption templates", ", ".join(f"`{template}`" for template in facts.provenance.templates)),
    ]
    if facts.same_data and facts.images is not None:
        rows += [(f"store: {name}", f"{count:,}") for name, count in facts.images.counts.items()]
        rows += [(f"store: failed, {name}", f"{count:,}") for name, count in facts.images.failures.items()]
        rows.append(("store: views per image", str(facts.images.views)))
    yield "## Data"
    yield ""
    yield from _table(("", ""), rows)
    if not facts.same_data:
        yield ""
        yield "The store trained on was not at hand when this card was written, so its counts are missing."


def _training(facts: RunFacts) -> Iterator[str]:
    settings = training_settings(facts.run.config)
    flat = [(name, value) for name, value in settings.items() if not isinstance(value, Mapping)]
    for part in settings.values():
        flat += list(part.items()) if isinstance(part, Mapping) else []
    yield "## Training"
    yield ""
    if facts.summary is None:
        yield "The run was not complete when it was exported: there is no summary of it."
    elif facts.summary.get("steps") != facts.run.step:
        yield f"This is step {facts.run.step:,} of a run that went on to {facts.summary['steps']:,}."
    else:
        yield "What the run wrote at its end:"
        yield ""
        yield from _table(("figure", "value"), [(name, _value(v)) for name, v in facts.summary.items()])
    yield ""
    yield "Settings as recorded:"
    yield ""
    yield from _table(("setting", "value"), [(name, _value(value)) for name, value in flat])


def _compute(facts: RunFacts, latency: Latency | None) -> Iterator[str]:
    yield "## Compute"
    yield ""
    summary = facts.summary or {}
    if "tflop_per_step" in summary:
        tflop = summary["tflop_per_step"] * summary["steps"]
        hours = summary["seconds"] * summary["devices"] / 3600
        rows = [
            ("devices", f"{summary['devices']} x {summary['device_kind']}"),
            ("device hours of training, since it was last started", f"{hours:.4g}"),
            ("TFLOP of training, in matrix products, counted from the program", f"{tflop:.4g}"),
        ]
        yield from _table(("", ""), rows)
    else:
        yield "The run was not complete when it was exported: what it took is not recorded."
    yield ""
    if latency is None:
        yield "Latency was not measured."
        return
    rows = [(f"{texts:,}", f"{found:.2f} ms") for texts, found in latency.milliseconds.items()]
    yield from _table(
        ("texts in a call", f"median time of a call, tokenizer included ({latency.machine})"), rows
    )


def _evaluation(reports: Sequence[Report]) -> Iterator[str]:
    yield "## Evaluation"
    yield ""
    if not reports:
        yield "No evaluation report was given when this card was written."
        return
    rows = [row for report in reports for row in _figures(report)]
    yield from _table(("evaluation", "figure", "value", "n", "split", "content_id", "report"), rows)
    for report in reports:
        if "definition" in report.content:
            yield ""
            yield f"{report.source}: {report.content['definition']}"
    if any(report.content["evaluation"] == "few-shot" for report in reports):
        yield ""
        yield "Few-shot figures are of the image embeddings alone."


def _figures(report: Report) -> Iterator[tuple[str, ...]]:
    """One row a figure: evaluation, figure, value ± standard error, n, split, content_id, file."""
    content = report.content
    kind = content["evaluation"]
    errors = content.get("standard_error", {})
    after = (content.get("split", ""), content["content_id"][:12], report.source)
    if kind == "retrieval":
        for side, name, n in (("i2t", "image → text", "n_images"), ("t2i", "text → image", "n_captions")):
            for figure in (one for one in content[side] if one in errors[side]):
                value = _percent(content[side][figure], errors[side][figure])
                yield kind, f"{name} {figure}", value, f"{content[n]:,}", *after
    elif kind == "zero-shot":
        for figure in ("top1", "top5", "mean_per_class"):
            yield kind, figure, _percent(content[figure], errors.get(figure)), f"{content['n']:,}", *after
    else:
        for shots, value in content["accuracy"].items():
            yield (
                kind,
                f"accuracy, shots: {shots}",
                _percent(value, errors.get(shots)),
                f"{content['n']:,}",
                *after,
            )


def _limitations(facts: RunFacts, reports: Sequence[Report], licenses: Mapping[str, str]) -> Iterator[str]:
    yield "## Limitations"
    yield ""
    length = facts.run.text_tower.max_text_length
    yield f"- Its vectors may be compared with image embeddings of space {facts.run.space_id} and with no others."
    yield f"- Of a longer text only the first {length} tokens count, special tokens included."
    if facts.run.config["data"]["holdout_fraction"] == 0:
        yield "- No part of the training data was held out by the run."
    if facts.images is not None and facts.images.tower.weights.startswith("random:"):
        yield "- The image tower's weights are random: it was never trained."
    for report in reports:
        yield from (f"- {report.source}: {note}" for note in report.content.get("notes", ()))
    if not reports:
        yield "- What it is worth was not measured, or not told to this card."
    unsaid = "Whom the data show" if licenses else "Licences of data and weights, whom the data show,"
    yield (
        f"- {unsaid} and what use is fair are in no file this card was written from: ask those who made the data and "
        "the towers."
    )


def _provenance(facts: RunFacts, reports: Sequence[Report], licenses: Mapping[str, str]) -> Iterator[str]:
    rows = [
        ("run", facts.name),
        ("step", f"{facts.run.step:,}"),
        ("space_id", facts.run.space_id),
        ("content_id", facts.run.content_id),
        ("tokenizer", facts.provenance.tokenizer),
        ("text backbone before the first step", facts.provenance.backbone),
    ]
    rows += [(f"licence of {what}, as given", name) for what, name in licenses.items()]
    for report in reports:
        versions = ", ".join(
            f"{name} {version}" for name, version in report.content.get("versions", {}).items()
        )
        rows.append((f"libraries of {report.source}", versions or "not recorded"))
    yield "## Provenance"
    yield ""
    yield from _table(("", ""), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _percent(fraction: float, error: float | None) -> str:
    return f"{100 * fraction:.1f} %" if error is None else f"{100 * fraction:.1f} ± {100 * error:.1f} %"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
