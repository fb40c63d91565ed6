"""`lit-embed` in a process of its own, with the moments at which its steps and its images were done.

    python -m benchmarks.launch STARTED FLAGS...

is what `launch` runs: the command's own code in every line, with notes of the time around its steps.
"""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any
from unittest.mock import patch

MARK = "benchmark "  # before the line that the parent reads
COMPILING = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "trace",
    "/jax/core/compile/backend_compile_duration": "compile",  # or read from the compilation cache
}
STEPS = ("describe_tower", "agree_plan", "load_tower", "Embedder")  # as `pipelines` calls them


@dataclass(frozen=True)
class Launch:
    """What one command took; seconds since its process was asked for.

    Attributes:
        done: when each image's vectors were in hand, in their order.
        ended: when the process was gone.
        steps: seconds by step; steps of different threads may overlap.
        processor: seconds of all cores.
    """

    done: tuple[float, ...]
    ended: float
    steps: Mapping[str, float]
    processor: float

    def rate(self, batch: int) -> float:
        """Images/s from the end of the first batch to the end of the last: what a long run has."""
        return (len(self.done) - batch) / (self.done[-1] - self.done[0])


def launch(flags: Sequence[str], environment: Mapping[str, str] | None = None) -> Launch:
    """Runs `lit-embed FLAGS` and waits for it; raises as `watched`."""
    return watched("benchmarks.launch", flags, environment)


def watched(module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Launch:
    """Runs `python -m MODULE STARTED ARGUMENTS`, which prints its notes as `main` does.

    Raises:
        RuntimeError: it did not end with status 0.
    """
    started = time.time()
    command = [sys.executable, "-m", module, repr(started), *arguments]
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(environment or {})}, check=False
    )
    seconds = time.time() - started
    if ended.returncode:
        said = ended.stderr[-2000:]
        raise RuntimeError(f"{' '.join(command)} must end with status 0, found {ended.returncode}:\n{said}")
    line = next(line for line in ended.stdout.splitlines() if line.startswith(MARK))
    found = json.loads(line.removeprefix(MARK))
    return Launch(tuple(found["done"]), seconds, found["steps"], found["processor"])


def main(started: float, flags: Sequence[str]) -> int:
    """The command, watched; prints what `launch` reads."""
    from jax import monitoring

    from pipelines import embed, graph

    steps: dict[str, float] = defaultdict(float)
    steps["imports"] = time.time() - started

    def compiling(event: str, duration_secs: float, **_: str | int) -> None:
        _add(steps, COMPILING.get(event), duration_secs)

    monitoring.register_event_duration_secs_listener(compiling)
    for name in STEPS:
        module = embed if hasattr(embed, name) else graph
        setattr(module, name, _timed(getattr(module, name), name, steps))
    done: list[float] = []

    class Beating(graph.Heartbeat):
        """Notes every image as its vectors come back."""

        def beat(self, seen: int) -> None:
            done.append(time.time() - started)
            super().beat(seen)

    with patch.object(graph, "Heartbeat", Beating):
        status = embed.main(flags)
    print(MARK + json.dumps({"done": done, "steps": steps, "processor": time.process_time()}))
    return status


def _timed(call: Callable[..., Any], name: str, steps: dict[str, float]) -> Callable[..., Any]:
    @wraps(call)
    def timed(*args: Any, **settings: Any) -> Any:
        before = time.time()
        try:
            return call(*args, **settings)
        finally:
            _add(steps, name, time.time() - before)

    return timed


def _add(steps: dict[str, float], name: str | None, seconds: float) -> None:
    if name is not None:
        steps[name] += seconds


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
