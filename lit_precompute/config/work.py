"""How the work is done, and what one record may cost: none of it changes a vector."""

import re
from dataclasses import dataclass

from schemas.failures import REASONS, TRANSIENT


@dataclass(frozen=True)
class LimitsConfig:
    """What one record may cost."""

    max_pixels: int = 50_000_000
    """Pixels an image's header may declare; more is refused before decoding (50 MP ≈ 150 MB decoded)."""
    max_bytes: int = 64 << 20
    """Bytes an encoded image may have."""
    decode_timeout: float = 60.0
    """Seconds an image may take to decode; then it is tried once more in a process of its own, and given up."""
    max_failure_rate: float = 0.1
    """Share of failed records above which the run stops with status 4 (judged after 1,000 records)."""
    accept_damaged: bool = False
    """Finish although an input broke off, keeping the records before the break."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_failure_rate <= 1:
            raise ValueError(f"--max-failure-rate: must be 0 to 1, found {self.max_failure_rate}.")
        if not 0 < self.decode_timeout < float("inf"):
            raise ValueError(
                f"--decode-timeout: must be a number of seconds above 0, found {self.decode_timeout}."
            )


@dataclass(frozen=True)
class WorkConfig:
    """How the work is done; none of it changes a vector."""

    batch_size: int = 64
    """Images per forward pass; short batches are padded to it, so the tower compiles once."""
    decode_threads: int = 2
    """Threads that decode and resize while the tower computes."""
    unit_bytes: int = 64 << 20
    """About how much input is one unit of work: what a stopped run loses at most."""
    storage_options: str | None = None
    """JSON file of fsspec options by protocol; reaches the workers, never the store."""
    takeover: bool = False
    """Take the folder over from a launch elsewhere that has been silent for two minutes."""
    retry_failed: bool = False
    """Of a finished store, try records again that failed for a reason that may pass; what is recovered is added."""
    retry_reasons: tuple[str, ...] = TRANSIENT
    """Which failures --retry-failed tries again."""
    append: bool = False
    """Add inputs that the store does not have yet; what it has is neither renumbered nor done again."""
    accept_touched: bool = False
    """Go on with inputs that carry another time (or version) than planned, once their records are found equal to
    those in the store."""
    dedup_exact: bool = False
    """Embed images of equal bytes once within a unit, and give every record of them that vector."""
    shard_range: str | None = None
    """A:B, only the units from A up to B (not B itself): several machines each do a range of one plan, then the
    command without this flag finishes the store."""
    dry_run: bool = False
    """Print the plan, the shapes and what it will take, measured on some records; nothing is written."""

    def __post_init__(self) -> None:
        self.units_of(0)
        for other, advice in (
            ("append", "Append first; when that is complete, retry what failed."),
            ("shard_range", "A retry reads the units that have failures, and is one launch."),
        ):
            if self.retry_failed and getattr(self, other):
                raise ValueError(
                    f"--retry-failed: must not be given with --{other.replace('_', '-')}, found both. {advice}"
                )
        if unknown := sorted(set(self.retry_reasons) - set(REASONS)):
            raise ValueError(
                f"--retry-reasons: must be of {', '.join(REASONS)}, found {', '.join(unknown)}. "
                "failures.parquet names the reasons that there are."
            )
        for name in ("batch_size", "decode_threads", "unit_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"--{name.replace('_', '-')}: must be at least 1, found {getattr(self, name)}."
                )

    def units_of(self, count: int) -> range:
        """Places in the plan of the units this launch does, of `count` in all."""
        if self.shard_range is None:
            return range(count)
        match = re.fullmatch(r"(\d*):(\d*)", self.shard_range.strip())
        first, last = (int(match[1] or 0), int(match[2]) if match[2] else None) if match else (0, 0)
        if match is None or (last is not None and first >= last):
            raise ValueError(
                f"--shard-range: must be A:B with A below B, such as 0:100 or 100:, found {self.shard_range!r}."
            )
        return range(min(first, count), count if last is None else min(last, count))
