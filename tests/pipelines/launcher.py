"""`lit-embed` in processes of their own that are started quickly, and may be killed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]

# Imports once, then forks for each command (no JAX backend is up before the fork): a launch costs a second, not ten.
SERVER = """
import json, os, sys
import pytest
from tests import conftest
from tests.quick_beam import quicken
import pipelines.embed
quicken()
order = {}
conftest._install_stand_in(pytest.MonkeyPatch())
exec(os.environ["PREPARE"])
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.environ["OUTPUT"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        status = 1
        try:
            status = pipelines.embed.main(order["arguments"])
        finally:
            sys.stdout.flush()
            os._exit(status)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


TOWER = ("--tower", "stand-in", "--checkpoint", "random:0")


class Launcher:
    """Starts `lit-embed` with `--tower stand-in`, and tells how it ended; use with `with`.

    Args:
        folder: for what is printed.
        prepare: run before the first command; `order` holds what `start` was given beside the arguments.
        path: further folders of modules, for processes that those start too.
        variables: of the environment.
    """

    def __init__(
        self, folder: Path, prepare: str = "", path: tuple[Path, ...] = (), **variables: str
    ) -> None:
        self._output = folder / "output"
        environment = {
            "PYTHONPATH": os.pathsep.join(map(str, (*path, REPO))),
            "JAX_PLATFORMS": "cpu",
            "PREPARE": prepare,
            "OUTPUT": str(self._output),
        }
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment | variables,
        )
        assert self._line() == "ready"

    def start(self, *arguments: str, **order: Any) -> int:
        """Starts a command; gives its process's number."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({"arguments": [*arguments, *TOWER], **order}) + "\n")
        self._server.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """The exit status; that of a killed process is -9."""
        return os.waitstatus_to_exitcode(int(self._line()))

    def run(self, *arguments: str, **order: Any) -> int:
        self.start(*arguments, **order)
        return self.wait()

    @property
    def output(self) -> str:
        """What the last command printed."""
        return self._output.read_text()

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(30)

    def _line(self) -> str:
        assert self._server.stdout is not None
        line = self._server.stdout.readline().strip()
        assert line, "the server of launches ended"
        return line
