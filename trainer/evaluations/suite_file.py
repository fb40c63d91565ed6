"""A suite of evaluations as a YAML file, checked whole before any of them runs."""

import dataclasses
import re
import types
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from trainer.evals.template_sets import TEMPLATE_SETS
from trainer.evaluations import EVALUATIONS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RESERVED = ("suite", "table", "best")  # names of files beside the reports

# Options that are paths: relative ones start at the suite's own folder, so that a suite can be moved with its files.
_PATHS = ("store", "test_store", "classes", "templates", "labels", "class_subset", "storage_options")
_WORDS = {"templates": frozenset(TEMPLATE_SETS), "class_subset": frozenset({"seen"})}  # which are no paths
_OF_THE_RUN = ("run", "step", "output")  # not a suite's to say


@dataclass(frozen=True)
class Entry:
    """One evaluation of a suite.

    Attributes:
        name: also of its report's file.
        kind: a key of `EVALUATIONS`.
        options: by field name; paths made absolute.
    """

    name: str
    kind: str
    options: Mapping[str, Any]

    def config(self, run: str, step: int | Literal["best"] | None, folder: Path | None) -> Any:
        """The evaluation's options for one run, its report going to `folder`."""
        kind = EVALUATIONS[self.kind].config
        output = {} if folder is None else {"output": str(folder / f"{self.name}.json")}
        known = {field.name for field in dataclasses.fields(kind)}
        of_run = {name: value for name, value in (("run", run), ("step", step)) if name in known}
        return kind(**self.options, **of_run, **output)


def read_suite(path: str) -> list[Entry]:
    """Reads and checks a suite.

    Args:
        path: a YAML file: `evaluations`, options by name, and `defaults`, options of all that know them.

    Raises:
        ValueError: naming everything that is wrong, not the first thing only.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        suite = yaml.load(text, Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"--suite: {path} must be a readable YAML file, found: {error}") from None
    evaluations = suite.get("evaluations") if isinstance(suite, dict) else None
    if not isinstance(evaluations, dict) or not evaluations or set(suite) - {"evaluations", "defaults"}:
        found = type(suite).__name__
        if isinstance(suite, dict):
            found = ", ".join(f"{name} ({type(part).__name__})" for name, part in suite.items())
        raise ValueError(
            f"--suite: {path} must hold `evaluations` and may hold `defaults`; found {found}. Under `evaluations` "
            "write each evaluation's name, and under the name its options, such as `kind: retrieval`."
        )
    defaults = suite.get("defaults") or {}
    problems = _problems_of_defaults(defaults)
    entries = []
    for name, options in evaluations.items():
        found_problems, entry = _entry(name, options, {} if problems else defaults, Path(path).parent)
        problems += [f"{name}: {problem}" for problem in found_problems]
        if entry is not None:
            entries.append(entry)
    if problems:
        raise ValueError(f"--suite: {path} cannot be run as it is:\n  " + "\n  ".join(problems))
    return entries


def _entry(
    name: Any, options: Any, defaults: Mapping[str, Any], folder: Path
) -> tuple[list[str], Entry | None]:
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED:
        return [
            f"the name must be of letters, digits and ._-, and none of {', '.join(RESERVED)}: its report is named so"
        ], None
    kind = options.get("kind") if isinstance(options, dict) else None
    if kind not in EVALUATIONS:
        return [f"kind: must be one of {', '.join(EVALUATIONS)}, found {kind!r}"], None
    hints = _hints(kind)
    given = {key: value for key, value in options.items() if key != "kind"}
    problems = [
        f"{key}: {kind} has no such option; it has {', '.join(hints)}" for key in given.keys() - hints
    ]
    given = {key: value for key, value in defaults.items() if key in hints} | given
    for key in given.keys() & hints.keys():
        if not _fits(given[key], hints[key]):
            problems.append(f"{key}: must be {_words(hints[key])}, found {given[key]!r}")
    absolute = {key: _absolute(key, _plain(value), folder) for key, value in given.items()}
    if problems:
        return problems, None
    entry = Entry(name, str(kind), absolute)
    try:
        entry.config("run", None, None)
    except (ValueError, TypeError) as error:  # TypeError: a required option is missing
        return [str(error).removeprefix(f"{EVALUATIONS[entry.kind].config.__name__}.__init__() ")], None
    return [], entry


def _problems_of_defaults(defaults: Any) -> list[str]:
    if not isinstance(defaults, dict):
        return [f"defaults: must be options by name, found {defaults!r}"]
    known = {name for kind in EVALUATIONS for name in _hints(kind)}
    return [f"defaults: no evaluation has the option {name}" for name in defaults if name not in known]


def _hints(kind: str) -> dict[str, Any]:
    """Types of the options a suite may give, by name."""
    hints = get_type_hints(EVALUATIONS[kind].config)
    return {name: hint for name, hint in hints.items() if name not in _OF_THE_RUN}


def _fits(value: Any, hint: Any) -> bool:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inside)
    if origin is Literal:
        return value in inside
    if origin is tuple:
        return isinstance(value, list) and all(_fits(one, inside[0]) for one in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    """A type as a user calls it."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join("nothing" if one is type(None) else _words(one) for one in inside)
    if origin is Literal:
        return " or ".join(map(repr, inside))
    if origin is tuple:
        return f"a list of {_words(inside[0])}"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(hint, str(hint))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _absolute(key: str, value: Any, folder: Path) -> Any:
    if key not in _PATHS or not isinstance(value, str) or value in _WORDS.get(key, ()) or "://" in value:
        return value
    return str(folder / Path(value).expanduser())


class _Loader(yaml.SafeLoader):
    """Plain values only, and a key that occurs twice is a mistake, not a replacement."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.YAMLError(f"{', '.join(twice)}: must occur once{node.start_mark}")
        return super().construct_mapping(node, deep)
