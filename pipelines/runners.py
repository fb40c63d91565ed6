"""What each engine needs said, and what it must not be asked."""

import argparse
import difflib
from collections.abc import Iterable, Sequence

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, _BeamArgumentParser
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner

REFUSED = {
    "DaskRunner": "it drops output without a word in Beam 2.77 (whatever finish_bundle emits, every branch but one)"
}


def beam_options(arguments: Sequence[str]) -> PipelineOptions:
    """Beam's options from the flags that are not ours.

    Beam itself only warns about a flag it does not know, so a misspelt one would do nothing. Here it is an error.
    What only a job server knows goes after `--`.

    Raises:
        ValueError: an unknown flag, with the flags it resembles; or a refused runner.
    """
    arguments = list(arguments)
    ours, passed = (
        (arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :])
        if "--" in arguments
        else (arguments, [])
    )
    parser = _BeamArgumentParser(add_help=False, allow_abbrev=False)
    for option_class in _all_subclasses(PipelineOptions):
        if "_add_argparse_args" in vars(option_class):
            try:
                option_class._add_argparse_args(parser)
            except argparse.ArgumentError:  # the same flag in two option classes
                continue
    _, unknown = parser.parse_known_args(ours)
    if unknown:
        known = [flag for action in parser._actions for flag in action.option_strings]
        lines = []
        for flag in unknown:
            near = difflib.get_close_matches(flag.split("=")[0], known, 3)
            lines.append(f"{flag}: unknown" + (f"; did you mean {', '.join(near)}?" if near else ""))
        raise ValueError(
            "\n".join(lines) + "\nFlags are ours (--help) or Beam's; a job server's own go after --."
        )
    options = PipelineOptions(ours + passed)
    runner = options.view_as(StandardOptions).runner
    if runner in REFUSED:
        raise ValueError(
            f"--runner: {runner} is refused: {REFUSED[runner]}. Use FnApiRunner, Flink, Spark or Dataflow."
        )
    return options


def runner_of(options: PipelineOptions) -> PipelineRunner | str:
    """The runner asked for; the in-process FnApiRunner when none is.

    It is named rather than left to `DirectRunner`, which tries to download another engine first and falls back
    without saying so.
    """
    return options.view_as(StandardOptions).runner or FnApiRunner()


def _all_subclasses(cls: type[PipelineOptions]) -> Iterable[type[PipelineOptions]]:
    sub: type[PipelineOptions]
    for sub in cls.__subclasses__():
        yield sub
        yield from _all_subclasses(sub)
