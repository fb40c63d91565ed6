"""What a survey found, as sections of a report."""

import copy

import numpy as np
import pyarrow as pa

from pipelines.store.keys import Repeats
from pipelines.store.survey import MOST_CAPTIONS, Survey
from pipelines.store.text import Cell, Section, bar, clean, share
from schemas.store import ImagesFolder

LABELS = 8  # labels shown, most frequent first
GROUP_IDS = 4  # ids shown of a group of equal things
ALIKE = 0.95  # mean cosine above which the vectors hardly tell images apart


def survey_sections(images: ImagesFolder, survey: Survey) -> list[Section]:
    """Everything about one tower's rows.

    Args:
        images: the tower, from which the ids of equal things are read again.
        survey: what the pass over it found.
    """
    sections = [
        _captions(survey),
        _labels(survey),
        _norms(survey),
        _vectors(survey),
        _repeats(images, survey),
    ]
    sections.append(_neighbours(survey))
    return [section for section in sections if section.rows]


def _captions(survey: Survey) -> Section:
    counted = np.flatnonzero(survey.captions)
    most = int(survey.captions.max())
    rows = [
        (
            f"{number}{' or more' if number == MOST_CAPTIONS else ''}",
            f"{survey.captions[number]:,}",
            bar(int(survey.captions[number]), most),
        )
        for number in counted.tolist()
    ]
    return Section("Captions per image", rows, ("captions", "images", ""))


def _labels(survey: Survey) -> Section:
    most = survey.labels.most_common(LABELS)
    rows = [(clean(label, 40), f"{count:,}", bar(count, most[0][1])) for label, count in most]
    notes = [f"{len(survey.labels):,} labels in all"] if len(survey.labels) > LABELS else []
    if survey.other_labels:
        notes = [f"more than {len(survey.labels):,} labels; {survey.other_labels:,} images have still others"]
    return Section("Labels", rows, ("label", "images", ""), notes)


def _norms(survey: Survey) -> Section:
    bars = survey.norms.bars()
    most = max((count for _, _, count in bars), default=0)
    rows = [(f"{low:.6g}", f"{high:.6g}", f"{count:,}", bar(count, most)) for low, high, count in bars]
    note = f"smallest {survey.norms.smallest:.6g}, mean {survey.norms.mean:.6g}, largest {survey.norms.largest:.6g}"
    return Section("Norms", rows, ("from", "below", "vectors", ""), [note])


def _vectors(survey: Survey) -> Section:
    rows = []
    for name, flaw in survey.flaws.items():
        examples = ", ".join(clean(id, 40) for id in flaw.examples)
        rows.append((name, f"{flaw.count:,}" + (f": {examples}" if examples else "")))
    if (cosine := survey.sample.mean_cosine()) is not None:
        words = f"{cosine:.3f} over the pairs of {len(survey.sample):,} sampled images"
        if cosine > ALIKE:
            words += ": nearly all alike. Did the tower get the pixels it expects?"
        rows.append(("mean cosine", words))
    return Section("Vectors", rows)


def _repeats(images: ImagesFolder, survey: Survey) -> Section:
    rows = []
    kinds = (
        ("images", "sha256", survey.equal_images),
        ("captions", "wording", survey.equal_captions),
        ("vectors", "bytes", survey.equal_vectors),
    )
    for name, by, repeats in kinds:
        groups = "; ".join(f"{len(group):,} x {ids}" for group, ids in _groups(images, repeats))
        again = repeats.entries - repeats.distinct
        rows.append(
            (name, by, f"{repeats.entries:,}", f"{repeats.distinct:,}", share(again, repeats.entries), groups)
        )
    notes = []
    if survey.equal_vectors.distinct < survey.equal_images.distinct:
        notes.append("Different images share a vector: look at the largest groups.")
    if survey.equal_images.groups or survey.equal_captions.groups:
        notes.append(
            "lit-train leaves pairs of equal images or captions out of its loss (--duplicates mask)."
        )
    return Section("Repeats", rows, ("", "equal by", "all", "different", "repeated", "most frequent"), notes)


def _groups(images: ImagesFolder, repeats: Repeats) -> list[tuple[np.ndarray, str]]:
    """The largest groups, each with the ids of its first members."""
    found = []
    for group in repeats.largest:
        first = group[:GROUP_IDS]
        ids = {part: _ids(images, part) for part in np.unique(first["part"]).tolist()}
        names = [clean(ids[entry["part"]][entry["row"]].as_py(), 40) for entry in first]
        found.append((group, ", ".join(names) + (", …" if len(group) > GROUP_IDS else "")))
    return found


def _ids(images: ImagesFolder, part: int) -> pa.StringArray:
    one = copy.copy(images)  # the same folder with a single part
    one.parts = [images.parts[part]]
    (joined,) = one.iter_joined()
    return joined.ids


def _neighbours(survey: Survey) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for found in survey.sample.neighbours():
        for place, (cosine, other) in enumerate(found.nearest):
            rows.append((found.query if place == 0 else "", f"{cosine:.3f}", other))
    note = f"Nearest of {len(survey.sample):,} sampled images, by cosine."
    return Section("Nearest neighbours", rows, ("image", "cosine", "neighbour"), [note])
