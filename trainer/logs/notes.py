"""What is done with each step's metrics: looked at one step late, logged every so often, acted upon when bad."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.config import TrainConfig
from trainer.logs.diagnosis import BatchFacts, likely_causes, sits_at_chance
from trainer.logs.metrics import MetricsLog
from trainer.optim.optimizer import warmup_of
from trainer.step import Metrics


class Diverged(Exception):
    """The loss or its gradient is no longer a number."""


class Notes:
    """Looks at the metrics of each step while the device is busy with the next one.

    Args:
        config: the resolved one.
        log: where metrics go.
        epochs: how many passes over the data a number of steps is.
        ids: the ids of a step's batch (step from 0).
        facts: what the pairs of a step's batch have in common (step from 0).
        output: the run's folder.
        speaks: whether this process writes for all.
    """

    def __init__(
        self,
        config: TrainConfig,
        log: MetricsLog,
        epochs: Callable[[int], float],
        ids: Callable[[int], list[str]],
        facts: Callable[[int], BatchFacts],
        output: Path,
        speaks: bool = True,
    ) -> None:
        self._config, self._log, self._epochs = config, log, epochs
        self._ids, self._facts, self._output, self._speaks = ids, facts, output, speaks
        self._pending: tuple[int, Metrics] | None = None
        # A tower still at chance is told so after its warm-up, and again after twice as many steps.
        self._diagnose_from = 2 * warmup_of(config.optimizer, config.steps) + 20
        self.last: dict[str, Any] = {}

    def later(self, done: int, metrics: Metrics) -> None:
        """Take the metrics of step `done` (from 1), and look at those taken before."""
        self.flush()
        self._pending = (done, metrics)

    def flush(self) -> None:
        """Wait for the step last taken and look at its metrics.

        Raises:
            Diverged: its loss or gradient is no number.
        """
        if self._pending is None:
            return
        done, metrics = self._pending
        self._pending = None
        found = {name: float(value) for name, value in metrics.items()}
        if not (math.isfinite(found["loss"]) and math.isfinite(found["grad_norm"])):
            self._stop(done, found)
        if done % self._config.log_every == 0 or done in (1, self._config.steps):
            factor = found.pop("lr_factor")
            found["lr"] = factor * self._config.optimizer.peak_rate
            found["epoch"] = self._epochs(done)
            self.last = self._log.write(done, found)
            self._diagnose(done, found)

    def _diagnose(self, done: int, found: dict[str, float]) -> None:
        config = self._config
        if not self._speaks or done < self._diagnose_from:
            return
        sign = sits_at_chance(config.loss.loss, config.batch_size, found)
        if sign is None:
            return
        self._diagnose_from = 2 * done
        causes = likely_causes(
            self._facts(done - 1), found, config.loss.duplicates, config.optimizer.peak_rate
        )
        print(f"diagnosis: {sign}. {'; '.join(causes)}.", flush=True)

    def _stop(self, done: int, found: dict[str, float]) -> None:
        path = self._output / f"diverged-step-{done}.json"
        if self._speaks:
            record = {"step": done, "loss": str(found["loss"]), "grad_norm": str(found["grad_norm"])}
            text = json.dumps({**record, "ids": self._ids(done - 1)}, indent=2, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")
        raise Diverged(
            f"loss and gradient must be finite, found loss {found['loss']} and gradient norm"
            f" {found['grad_norm']} at step {done}. The ids of that batch are in {path}; the last good checkpoint"
            " is kept. Try a smaller --learning-rate, or look at those images and captions."
        )
