"""Flags that are not ours, parsed strictly against Beam's option classes."""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import NoReturn, get_type_hints

from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

from pipelines.runners import prepare_options


class _Parser(_BeamArgumentParser):
    """Beam's own parser, except that a wrong value is an error to report rather than the end of the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message.removeprefix("argument ") + ".")


def split_passed(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before `--`, and what stands after it and only a job server knows."""
    arguments = list(arguments)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:cut], arguments[cut + 1 :]


def beam_options(
    arguments: Sequence[str], passed: Sequence[str] = (), ours: Iterable[str] = ()
) -> PipelineOptions:
    """Beam's options from the flags that are not ours.

    Beam itself only warns about a flag it does not know, so a misspelt one would do nothing. Here it is an error,
    and it is found before anything is listed, written or uploaded.

    Args:
        arguments: Beam's flags; hyphens and underscores are alike.
        passed: flags for the job server, taken as they are.
        ours: names of our own flags, for the hint when one is misspelt.

    Raises:
        ValueError: an unknown flag, with the flags it resembles; a value Beam can not take; a runner that is
            unknown or refused, or lacks an option that it must have.
    """
    parser = _every_option()
    known = {flag for action in parser._actions for flag in action.option_strings}
    spelt = [_underscored(argument, known) for argument in arguments]
    _, unknown = parser.parse_known_args(spelt)
    if unknown:
        raise ValueError(_unknown_flags(unknown, {*known, *ours}))
    options = PipelineOptions([*spelt, *passed])
    prepare_options(options)
    return options


def flag_names(config: type) -> set[str]:
    """Every flag that a dataclass of dataclasses is made into, with hyphens."""
    names: set[str] = set()
    hints = get_type_hints(config)
    for field in fields(config):
        kind = hints[field.name]
        if isinstance(kind, type) and is_dataclass(kind):
            names |= flag_names(kind)
        else:
            names.add("--" + field.name.replace("_", "-"))
    return names


def _every_option() -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    for option_class in _all_subclasses(PipelineOptions):
        if "_add_argparse_args" in vars(option_class):
            try:
                option_class._add_argparse_args(parser)
            except argparse.ArgumentError:  # the same flag in two option classes
                continue
    return parser


def _all_subclasses(cls: type[PipelineOptions]) -> Iterable[type[PipelineOptions]]:
    sub: type[PipelineOptions]
    for sub in cls.__subclasses__():
        yield sub
        yield from _all_subclasses(sub)


def _underscored(argument: str, known: set[str]) -> str:
    """`--num-workers=4` as Beam spells it."""
    name, equals, value = argument.partition("=")
    spelt = "--" + name.removeprefix("--").replace("-", "_")
    return spelt + equals + value if name.startswith("--") and spelt in known else argument


def _unknown_flags(unknown: Sequence[str], known: set[str]) -> str:
    """One line a flag; the value that follows an unknown flag is not a second mistake."""
    spellings = {name.lstrip("-").replace("-", "_"): name for name in sorted(known)}
    lines = []
    for place, argument in enumerate(unknown):
        if not argument.startswith("-"):
            if place == 0 or not unknown[place - 1].startswith("-") or "=" in unknown[place - 1]:
                lines.append(f"{argument}: must follow a flag, found it alone.")
            continue
        name = argument.split("=")[0]
        near = difflib.get_close_matches(name.lstrip("-").replace("-", "_"), list(spellings), 3)
        hint = f"; did you mean {', '.join(spellings[one] for one in near)}?" if near else "."
        lines.append(f"{name}: unknown{hint}")
    return "\n".join(lines) + "\nFlags are ours (--help) or Beam's; a job server's own go after --."
