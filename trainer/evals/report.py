"""Evaluation reports: one JSON file, written whole or not at all, with its provenance."""

import json
import math
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("lit-precompute", "jax", "jaxlib", "flax", "numpy", "pyarrow")


def standard_error(fraction: float, n: int) -> float:
    """Binomial standard error √(p(1-p)/n) of a fraction of n items, taken as independent."""
    return math.sqrt(fraction * (1 - fraction) / n)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that figures could depend on; only those installed."""
    return {"python": platform.python_version()} | dict(_installed())


def check_output(path: str) -> None:
    """Raises ValueError if a report cannot be written at path; to be asked before the work, not after."""
    if "://" in path:
        raise ValueError(
            f"--output: must be a local file, found {path}. Leave it out and a run on object storage keeps its reports "
            "there; or copy the file afterwards."
        )
    if Path(path).is_dir():
        raise ValueError(
            f"--output: must be a file to write, found the folder {path}. Try {path.rstrip('/')}/report.json"
        )
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output: its folder must exist or be made; {error}") from error


def write_report(report: Mapping[str, Any], path: str) -> None:
    """Writes JSON beside path under a temporary name, then renames: a reader sees the old file or the new one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def show(
    title: str,
    rows: Mapping[str, Mapping[str, float]],
    errors: Mapping[str, Mapping[str, float]],
    notes: Sequence[str] = (),
) -> str:
    """A small table in percent: one line a row, one column a figure, with its standard error where there is one.

    Args:
        title: the line above.
        rows: {row name: {column: fraction}}, the same columns in each row.
        errors: {row name: {column: standard error}}; columns may be missing.
        notes: lines below.
    """
    columns = list(next(iter(rows.values())))
    lines = [title, " " * 14 + "".join(f"{name:>16}" for name in columns)]
    for name, figures in rows.items():
        cells = [_percent(figures[column], errors[name].get(column)) for column in columns]
        lines.append(f"{name:<14}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines + [f"Note: {note}" for note in notes])


def _percent(fraction: float, error: float | None) -> str:
    return f"{100 * fraction:.1f} %" if error is None else f"{100 * fraction:.1f} ± {100 * error:.1f} %"


def _installed() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
