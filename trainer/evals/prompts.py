"""Prompts for zero-shot classification: class names put into templates."""

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer.evals.template_sets import TEMPLATE_SETS

Aliases = Literal["whole", "first", "all"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Prompts:
    """Every prompt of every class, class-major, then alias, then template.

    Attributes:
        texts: P prompts.
        class_index: int32 [P]; texts[p] speaks of class class_index[p].
        n_classes: C; each of 0..C-1 has at least one prompt.
    """

    texts: tuple[str, ...]
    class_index: np.ndarray
    n_classes: int


def canonicalize_text(text: str, keep: str | None = None) -> str:
    """Lower-cases and strips a text of ASCII punctuation, as the reference evaluator does by default.

    Underscores become spaces; every other ASCII punctuation character is deleted, not replaced by a space
    ("close-up" → "closeup"); runs of whitespace become one space. Punctuation outside ASCII stays.

    Args:
        text: any text.
        keep: an exact string whose occurrences survive: "{}" for templates, "," for class names.

    >>> canonicalize_text("A close-up photo of a {}.", keep="{}")
    'a closeup photo of a {}'
    """
    pieces = text.replace("_", " ").split(keep) if keep else [text.replace("_", " ")]
    kept = (keep or "").join(piece.translate(_PUNCTUATION) for piece in pieces)
    return re.sub(r"\s+", " ", kept.lower()).strip()


def canonicalize_class_name(name: str) -> str:
    """Canonical form of a class name; its commas stay, as they part aliases."""
    return canonicalize_text(name, keep=",")


def canonicalize_template(template: str) -> str:
    """Canonical form of a template; its `{}` stays."""
    return canonicalize_text(template, keep="{}")


def read_templates(path: str | None) -> tuple[str, ...]:
    """Templates of a published set or of a file, or the bare `{}` without one.

    Raises:
        ValueError: as `parse_templates` does.
    """
    if path is None or path in TEMPLATE_SETS:
        return TEMPLATE_SETS[path or "none"]
    return parse_templates(_read(path, "--templates", f", or {' or '.join(TEMPLATE_SETS)}"), path)


def read_classes(path: str) -> tuple[str, ...]:
    """Class names of a file, by class index. Raises ValueError as `parse_classes` does."""
    return parse_classes(_read(path, "--classes"), path)


def read_wnids(path: str) -> tuple[str | None, ...]:
    """WordNet ids of a file of classes, by class index; None where an entry has none, empty for a list of names."""
    entries = json.loads(_read(path, "--classes"))
    if not isinstance(entries[0], dict):
        return ()
    ordered = sorted(entries, key=lambda entry: entry["class_index"])
    return tuple(entry["wnid"] if isinstance(entry.get("wnid"), str) else None for entry in ordered)


def parse_templates(text: str, source: str) -> tuple[str, ...]:
    """Reads templates, one a line with exactly one `{}`; blank lines are skipped.

    Args:
        text: the file's content.
        source: its name, for the error message.

    Raises:
        ValueError: naming each wrong line, or that there is no template at all.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    templates = [(number, line) for number, line in lines if line]
    problems = [
        f"line {number} has {line.count('{}')}: {line!r}"
        for number, line in templates
        if line.count("{}") != 1
    ]
    if problems:
        raise ValueError(
            f"{source}: each line must hold exactly one {{}} where the name goes; " + "; ".join(problems[:5])
        )
    if not templates:
        raise ValueError(f"{source}: must hold at least one template, a line such as 'a photo of a {{}}.'")
    return tuple(line for _, line in templates)


def parse_classes(text: str, source: str) -> tuple[str, ...]:
    """Reads class names from JSON: a list of strings, or of objects with class_index and name.

    Args:
        text: the file's content. In a list of strings the position is the label.
        source: its name, for the error message.

    Returns:
        Names by class index. Two classes may share a name (see `inseparable_classes`).

    Raises:
        ValueError: naming the entries that are no names, and indices repeated or left out.
    """
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}: must be JSON, a list of class names; {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{source}: must be a non-empty JSON list of class names; found {_shorten(entries)}")
    if isinstance(entries[0], dict):
        return _names_by_index(entries, source)
    return _names_by_position(entries, source)


def make_prompts(names: Sequence[str], templates: Sequence[str], aliases: Aliases = "whole") -> Prompts:
    """Puts each class name into each template.

    Args:
        names: by class index.
        templates: each with one `{}`.
        aliases: what a comma in a name means: nothing ("whole"), keep what stands before it ("first"), or a
            parting of several names that each get all templates ("all"). Split without stripping, as the
            reference does: its canonical form strips the ends only of whole names.
    """
    texts, class_index = [], []
    for index, name in enumerate(names):
        for alias in _aliases(name, aliases):
            texts += [template.replace("{}", alias) for template in templates]
            class_index += [index] * len(templates)
    return Prompts(tuple(texts), np.array(class_index, dtype=np.int32), len(names))


def inseparable_classes(prompts: Prompts) -> list[list[int]]:
    """Groups of classes whose prompts are the same, so that nothing can tell them apart."""
    texts: list[list[str]] = [[] for _ in range(prompts.n_classes)]
    for text, index in zip(prompts.texts, prompts.class_index.tolist(), strict=True):
        texts[index].append(text)
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, found in enumerate(texts):
        groups.setdefault(tuple(found), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _aliases(name: str, aliases: Aliases) -> list[str]:
    if aliases == "whole":
        return [name]
    return name.split(",")[:1] if aliases == "first" else name.split(",")


def _names_by_position(entries: list[Any], source: str) -> tuple[str, ...]:
    _check_names(list(enumerate(entries)), source)
    return tuple(entries)


def _names_by_index(entries: list[Any], source: str) -> tuple[str, ...]:
    for position, entry in enumerate(entries):
        if not (isinstance(entry, dict) and type(entry.get("class_index")) is int and "name" in entry):
            raise ValueError(
                f"{source}: entry {position} must be an object with an integer class_index and a name, "
                f"as the first one is; found {_shorten(entry)}"
            )
    indices = [entry["class_index"] for entry in entries]
    repeated = sorted(index for index, count in Counter(indices).items() if count > 1)
    missing = sorted(set(range(len(set(indices)))) - set(indices))
    if repeated or missing:
        raise ValueError(
            f"{source}: class_index must name each of 0..C-1 once; repeated: {repeated[:5] or 'none'}, "
            f"missing: {missing[:5] or 'none'}, highest: {max(indices)} among {len(indices)} entries"
        )
    by_index = sorted(((entry["class_index"], entry["name"]) for entry in entries), key=lambda pair: pair[0])
    _check_names(by_index, source)
    return tuple(name for _, name in by_index)


def _check_names(indexed: list[tuple[int, Any]], source: str) -> None:
    problems = [
        f"{index}: {_shorten(name)}"
        for index, name in indexed
        if not (isinstance(name, str) and name.strip())
    ]
    if problems:
        raise ValueError(
            f"{source}: every class name must be a non-empty string; found {'; '.join(problems[:5])}"
        )


def _read(path: str, flag: str, or_else: str = "") -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{flag}: must be a readable UTF-8 text file{or_else}, found: {error}") from error


def _shorten(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
