"""How a run of `lit-embed` ended, in numbers, words and an exit status."""

from dataclasses import dataclass
from typing import Literal

Status = Literal[
    "complete", "incomplete", "damaged", "refused", "too_many_failures", "handed_over", "range_done"
]
EXIT_STATUS: dict[Status, int] = {
    "complete": 0,
    "refused": 2,
    "incomplete": 3,
    "damaged": 3,
    "too_many_failures": 4,
    "handed_over": 0,
    "range_done": 0,
}


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: one of `EXIT_STATUS`.
        counts: seen, embedded, failed, duplicate.
        failures: failed records by reason.
        captions: captions, records_with_captions, and captions left out by reason.
        problems: one line per unit that is missing, damaged or refused, and one for an engine that gave up.
        store, tower_id: where to look.
        seconds: wall-clock time of the work in this run, start-up of the workers included; 0 when there was none.
        seen_now: records read by this run.
    """

    status: Status
    counts: dict[str, int]
    failures: dict[str, int]
    captions: dict[str, int]
    problems: list[str]
    store: str
    tower_id: str
    seconds: float = 0.0
    seen_now: int = 0

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.status]

    def summary(self) -> str:
        """The last lines a user sees."""
        if self.status == "handed_over":
            return f"store      {self.store} (tower {self.tower_id}): {_ADVICE[self.status]}"
        counts = self.counts
        lines = [
            f"images     {counts['seen']:,} seen = {counts['embedded']:,} embedded + {counts['failed']:,} failed "
            f"+ {counts['duplicate']:,} with an id taken before"
        ]
        if self.failures:
            by_reason = sorted(self.failures.items(), key=lambda item: (-item[1], item[0]))
            lines.append("failed     " + ", ".join(f"{reason} {count:,}" for reason, count in by_reason))
        if (again := counts["embedded"] - counts.get("distinct_images", counts["embedded"])) > 0:
            lines.append(f"repeated   {again:,} of those embedded have the bytes of another image")
        lines.append(_captions_line(self.captions))
        if self.seen_now and self.seconds:
            rate = self.seen_now / self.seconds
            lines.append(
                f"speed      {rate:,.1f} images/s ({self.seen_now:,} in {self.seconds:,.1f} s, with start-up)"
            )
        lines += [f"problem    {problem}" for problem in self.problems[:20]]
        if len(self.problems) > 20:
            lines.append(f"problem    and {len(self.problems) - 20:,} more")
        lines.append(f"store      {self.store} (tower {self.tower_id}): {_ADVICE[self.status]}")
        return "\n".join(lines)


def _captions_line(captions: dict[str, int]) -> str:
    left_out = {
        name.removeprefix("left_out_"): n for name, n in captions.items() if name.startswith("left_out_")
    }
    line = (
        f"captions   {captions.get('captions', 0):,} of {captions.get('records_with_captions', 0):,} images"
    )
    if left_out:
        line += "; left out: " + ", ".join(f"{name} {count:,}" for name, count in sorted(left_out.items()))
    return line


_ADVICE: dict[Status, str] = {
    "complete": "complete",
    "range_done": "these units are done. When all ranges are, the command without --shard-range finishes the store.",
    "incomplete": "incomplete. Run the same command again: only what is missing is done.",
    "damaged": "damaged input. Restore it and run again, or keep what was read with --accept-damaged.",
    "refused": "refused.",
    "handed_over": "template written. The job that is launched from it finishes the store.",
    "too_many_failures": "stopped: too many failures. Look at them, then raise --max-failure-rate to go on.",
}
