"""Commands shown as one would type them."""

import shlex

import pytest

from demo.commands import WIDTH, CommandFailed, command_line, run_command


def test_a_long_line_breaks_between_flags_and_reads_back() -> None:
    arguments = ["retrieval", *(word for n in range(12) for word in (f"--flag-{n}", f"a value {n}"))]
    line = command_line("lit-eval", arguments)
    assert all(len(part) <= WIDTH + 2 for part in line.splitlines())
    assert not any(part.endswith(f"--flag-{n} \\") for part in line.splitlines() for n in range(12))
    assert shlex.split(line.replace("\\\n", "")) == ["lit-eval", *arguments]


def test_status_ends_the_walk(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("lit-x", lambda arguments: 0, ["--a", "1"]) == "lit-x --a 1"
    assert "$ lit-x --a 1" in capsys.readouterr().out
    with pytest.raises(CommandFailed, match="lit-x ended with status 3") as failure:
        run_command("lit-x", lambda arguments: 3, [])
    assert failure.value.status == 3
