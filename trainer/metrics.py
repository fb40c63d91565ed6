"""Numbers out: one line for a person, JSON lines and TensorBoard for later."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsLog:
    """Writes what was measured at a step to the console, `metrics.jsonl` and `tensorboard/`.

    Args:
        folder: the run's folder.
        first_step: steps done already; lines and events of later steps are left over from a run that was cut
            off after its last checkpoint, and are dropped.
        total_steps: steps the run is to make.
        batch_size: pairs a step sees.
        tensorboard: whether to write TensorBoard events.
    """

    def __init__(
        self, folder: Path, first_step: int, total_steps: int, batch_size: int, tensorboard: bool = True
    ) -> None:
        self._total, self._batch_size = total_steps, batch_size
        self._path = folder / "metrics.jsonl"
        _drop_lines_after(self._path, first_step)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._events = _tensorboard(folder / "tensorboard", first_step) if tensorboard else None
        self._last_step, self._last_time, self._waited = first_step, time.perf_counter(), 0.0

    def waited(self, seconds: float) -> None:
        """Add time the training loop spent waiting for a batch."""
        self._waited += seconds

    def write(self, step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Write the metrics of one step (from 1) together with rates since the last call; return it all."""
        now = time.perf_counter()
        seconds, steps = max(now - self._last_time, 1e-9), step - self._last_step
        record = {
            "step": step,
            "samples_seen": step * self._batch_size,
            **metrics,
            "samples_per_second": steps * self._batch_size / seconds,
            "data_wait_share": self._waited / seconds,
        }
        eta = (self._total - step) * seconds / max(steps, 1)
        self._last_step, self._last_time, self._waited = step, now, 0.0
        # NaN is not JSON: a value that is not finite is written as null.
        clean = {name: value if math.isfinite(value) else None for name, value in record.items()}
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in record.items():
                if name != "step" and math.isfinite(value):
                    self._events.add_scalar(f"train/{name}", value, step)
        print(console_line(record, self._total, eta), flush=True)
        return clean

    def last_record(self) -> dict[str, Any]:
        """The last line written, by this run or the one it goes on with; empty before the first."""
        lines = self._path.read_text(encoding="utf-8").splitlines()
        return json.loads(lines[-1]) if lines else {}

    def close(self) -> None:
        """Finish the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def console_line(record: Mapping[str, float], total_steps: int, eta_seconds: float) -> str:
    """One line of what matters while training runs."""
    minutes, seconds = divmod(round(eta_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"step {record['step']:,}/{total_steps:,}", f"loss {record['loss']:.4f}"]
    if math.isfinite(record.get("i2t_r1", math.nan)):
        parts.append(f"batch recall@1 {record['i2t_r1']:.1%} {record['t2i_r1']:.1%}")
    parts.append(f"scale {record['logit_scale']:.2f}")
    if "logit_bias" in record:
        parts.append(f"bias {record['logit_bias']:.2f}")
    return " | ".join(
        [
            *parts,
            f"grad {record['grad_norm']:.3g}",
            f"lr {record['lr']:.2e}",
            f"{record['samples_per_second']:,.0f} pairs/s",
            f"data wait {record['data_wait_share']:.1%}",
            f"{record['samples_seen']:,} pairs seen",
            f"ETA {hours}:{minutes:02d}:{seconds:02d}",
        ]
    )


def _drop_lines_after(path: Path, step: int) -> None:
    """Keep the whole lines of steps up to `step`; rewritten aside, so that a kill loses nothing."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue  # the last line of a run that was killed while writing it
    aside = path.with_suffix(".tmp")
    aside.write_text("".join(kept), encoding="utf-8")
    aside.replace(path)


def _tensorboard(folder: Path, first_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        print("TensorBoard events are not written: install tensorboardX, or give --no-tensorboard.")
        return None
    return SummaryWriter(str(folder), purge_step=first_step + 1)
