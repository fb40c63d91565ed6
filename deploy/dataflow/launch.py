"""What a flex template starts: `lit-embed`, with `--flags` taken apart as a command line."""

import shlex
import sys
from collections.abc import Sequence


def arguments(parameters: Sequence[str]) -> list[str]:
    """The command's arguments.

    A template's parameters are all of the form `--name=value`: one that was left empty is left out, and
    `--flags=...` stands for the flags in it.

    >>> arguments(["--input=gs://b/in", "--split=", "--flags=--accept-damaged --views 2", "--runner=DataflowRunner"])
    ['--input=gs://b/in', '--accept-damaged', '--views', '2', '--runner=DataflowRunner']
    """
    found: list[str] = []
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if name == "--flags":
            found += shlex.split(value)
        elif value or not equals:
            found.append(parameter)
    return found


if __name__ == "__main__":
    from pipelines.embed import main

    sys.exit(main(arguments(sys.argv[1:])))
