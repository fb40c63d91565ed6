"""Runs our commands in this process, each shown as one would type it."""

import shlex
import sys
from collections.abc import Callable, Sequence

Main = Callable[[Sequence[str] | None], int]

WIDTH = 100


class CommandFailed(Exception):
    """A command ended with another status than 0; it has said why.

    Attributes:
        status: its exit status.
    """

    def __init__(self, name: str, status: int) -> None:
        super().__init__(f"{name} ended with status {status}; its message is above.")
        self.status = status


def run_command(name: str, main: Main, arguments: Sequence[str]) -> str:
    """Prints a command, runs it, and gives back the line that was printed.

    Raises:
        CommandFailed: it did not end well.
    """
    line = command_line(name, arguments)
    print(f"\n$ {line}\n", flush=True)
    status = main(list(arguments))
    sys.stderr.flush()
    if status:
        raise CommandFailed(name, status)
    return line


def command_line(name: str, arguments: Sequence[str]) -> str:
    """A command as a shell takes it, broken between flags where it grows long.

    >>> command_line("lit-eval", ["retrieval", "--run", "my run"])
    "lit-eval retrieval --run 'my run'"
    """
    lines, line = [], name
    for group in _with_their_values(arguments):
        words = shlex.join(group)
        if len(line) + 1 + len(words) > WIDTH:
            lines.append(line + " \\")
            line = "    " + words
        else:
            line += " " + words
    return "\n".join([*lines, line])


def _with_their_values(arguments: Sequence[str]) -> list[list[str]]:
    """Flags together with what follows them, so that no line ends between the two."""
    groups: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("-") or not groups:
            groups.append([])
        groups[-1].append(argument)
    return groups
