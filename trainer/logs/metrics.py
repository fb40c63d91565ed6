"""Numbers out: one line for a person, and the same to every sink."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.logs.memory import peak_memory
from trainer.logs.sinks import Sink, finite

GIB = 2**30


class MetricsLog:
    """Puts rates, memory and progress beside what was measured at a step, and hands it on.

    Args:
        first_step: steps done already.
        total_steps: steps the run is to make.
        batch_size: pairs a step sees, in all processes together.
        tokens_per_pair: tokens the text tower reads for a pair, padding included; None where it reads features.
        sinks: get each record.
        aloud: whether to print a line as well; of several processes one does.
    """

    def __init__(
        self,
        first_step: int,
        total_steps: int,
        batch_size: int,
        tokens_per_pair: int | None = None,
        sinks: Sequence[Sink] = (),
        aloud: bool = True,
    ) -> None:
        self._total, self._batch_size, self._tokens = total_steps, batch_size, tokens_per_pair
        self._sinks, self._aloud = sinks, aloud
        self._last_step, self._last_time, self._waited = first_step, time.perf_counter(), 0.0
        self._first_step, self._paused = first_step, 0.0

    def waited(self, seconds: float) -> None:
        """Add time the training loop spent waiting for a batch."""
        self._waited += seconds

    def paused(self, seconds: float) -> None:
        """Add time in which no step was made, as in an evaluation: in no rate, but the ETA expects more of it."""
        self._paused += seconds
        self._last_time += seconds

    def write(self, step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Write the metrics of one step (from 1) together with rates since the last call; return it all."""
        now = time.perf_counter()
        seconds, steps = max(now - self._last_time, 1e-9), step - self._last_step
        rate = steps * self._batch_size / seconds
        record = {
            "step": step,
            "samples_seen": step * self._batch_size,
            **metrics,
            "samples_per_second": rate,
            **({} if self._tokens is None else {"tokens_per_second": rate * self._tokens}),
            "data_wait_share": self._waited / seconds,
            "memory_bytes": peak_memory(),
        }
        paused = self._paused / max(step - self._first_step, 1)
        eta = (self._total - step) * (seconds / max(steps, 1) + paused)
        self._last_step, self._last_time, self._waited = step, now, 0.0
        for sink in self._sinks:
            sink.write(step, record)
        if self._aloud:
            print(console_line(record, self._total, eta), flush=True)
        return finite(record)

    def close(self) -> None:
        """Finish what the sinks write."""
        for sink in self._sinks:
            sink.close()


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
    parts += [_gradients(record), f"lr {record['lr']:.2e}", f"{record['samples_per_second']:,.0f} pairs/s"]
    if "tokens_per_second" in record:
        parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    return " | ".join(
        [
            *parts,
            f"data wait {record['data_wait_share']:.1%}",
            f"memory {record['memory_bytes'] / GIB:.2f} GiB",
            f"{record['samples_seen']:,} pairs seen",
            f"ETA {hours}:{minutes:02d}:{seconds:02d}",
        ]
    )


def _gradients(record: Mapping[str, float]) -> str:
    parts = [f"grad {record['grad_norm']:.3g}"]
    if "grad_norm_backbone" in record:
        parts.append(f"(backbone {record['grad_norm_backbone']:.3g}, head {record['grad_norm_head']:.3g})")
    return " ".join(parts)
