"""`lit-store`: looks into a store, checks it, and says what one will cost."""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from pipelines.store.estimate import EstimateConfig, estimate
from pipelines.store.findings import DamageError, Findings, Problem
from pipelines.store.meter import size_text
from pipelines.store.page import write_page
from pipelines.store.report import report
from pipelines.store.text import as_text, clean
from pipelines.store.thumbnail_file import MOST_BYTES, write_thumbnails
from pipelines.store.verify import verify
from schemas.exit_status import exit_status
from schemas.storage import Folder, read_storage_options
from schemas.store import Store

DESCRIPTION = """Looks into a store made by lit-embed; nothing in it is changed.

  lit-store inspect store/ --html store.html
  lit-store verify store/
  lit-store plan --images 400_000_000 --embedding-dim 768 --images-per-second 2500

Exit status: 0 fine, 1 a bug of ours, 2 usage or refused, 3 verify found damage.
"""


@dataclass(frozen=True, kw_only=True)
class _OfStore:
    """What the commands that open a store need."""

    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Folder made by lit-embed, or any fsspec URL."""
    tower_id: str | None = None
    """One tower; default all."""
    storage_options: str | None = None
    """JSON file of fsspec options by protocol."""

    def open(self) -> Store:
        """The store, whole or not; raises ValueError where there is none at all."""
        folder = Folder(self.store, read_storage_options(self.storage_options))
        if not any(folder.exists(name) for name in ("plan.parquet", "pairs", "images")):
            raise ValueError(f"STORE: must be a folder made by lit-embed, found no store at {self.store}.")
        return Store(folder)


@dataclass(frozen=True, kw_only=True)
class InspectConfig(_OfStore):
    """Says what a store holds: towers, counts, failures, norms, repeats, neighbours. Reads every part once."""

    html: str | None = None
    """Also write a page that needs nothing beside it to this file."""
    thumbnails: bool = True
    """Show pictures of the neighbours on the page, read from the inputs that the store's plan names."""


@dataclass(frozen=True, kw_only=True)
class ThumbnailsConfig(_OfStore):
    """Writes small pictures of given images, read from the inputs that the store's plan names."""

    ids: str
    """File of ids, one a line, or JSON lines of id and unit: with the unit, other parts are not searched."""
    output: str
    """Parquet file to write: id, jpeg."""
    max_input_bytes: int = MOST_BYTES
    """How much of the inputs may be read; images that would need more are left out."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(_OfStore):
    """Reads every byte and holds it against the checksums, digests, ids and norms. Status 3 when damaged."""


Command = (
    Annotated[InspectConfig, tyro.conf.subcommand("inspect")]
    | Annotated[ThumbnailsConfig, tyro.conf.subcommand("thumbnails")]
    | Annotated[VerifyConfig, tyro.conf.subcommand("verify")]
    | Annotated[EstimateConfig, tyro.conf.subcommand("plan")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""

    def work() -> int:
        config: Any = tyro.cli(
            Command,
            args=list(sys.argv[1:] if argv is None else argv),
            prog="lit-store",
            description=DESCRIPTION,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        return COMMANDS[type(config)](config)

    return exit_status("lit-store", work)


def run_inspect(config: InspectConfig) -> int:
    """Prints the report, and writes the page when one is asked for."""
    store = config.open()
    try:
        made = report(store, config.tower_id)
    except DamageError as damage:
        raise ValueError(f"{damage} lit-store verify names everything that is damaged.") from None
    print(as_text(made.sections))
    if config.html is not None:
        options = read_storage_options(config.storage_options)
        note = write_page(config.html, store, made, config.thumbnails, options)
        print(f"\nwritten to {config.html} ({note})")
    return 0


def run_thumbnails(config: ThumbnailsConfig) -> int:
    """Writes the file, and says how many pictures could be had."""
    store = config.open()
    known = store.tower_ids()
    if config.tower_id is None and len(known) != 1:
        raise ValueError(
            f"--tower-id: must be given unless the store has one finished tower, found {len(known)}."
        )
    tower_id = config.tower_id or known[0]
    options = read_storage_options(config.storage_options)
    print(write_thumbnails(store, tower_id, config.ids, config.output, config.max_input_bytes, options))
    return 0


def run_verify(config: VerifyConfig) -> int:
    """Prints a line per problem as it is found, then what to do."""
    findings = verify(config.open(), config.tower_id, _print_problem)
    for note in findings.notes:
        print(f"note     {note}")
    print(verdict(config.store, findings))
    return 3 if findings.problems else 0


def run_plan(config: EstimateConfig) -> int:
    """Prints what N images will cost."""
    print(estimate(config))
    return 0


COMMANDS: dict[type, Callable[[Any], int]] = {
    InspectConfig: run_inspect,
    ThumbnailsConfig: run_thumbnails,
    VerifyConfig: run_verify,
    EstimateConfig: run_plan,
}


def verdict(store: str, findings: Findings) -> str:
    """The last lines of `verify`: what was looked at, what came of it, what to do."""
    looked = (
        f"{findings.parts:,} parts, {size_text(findings.bytes)}, {findings.records:,} records, "
        f"{findings.images:,} images of {', '.join(findings.towers)}"
    )
    if not findings.problems:
        return f"sound    {looked}: every checksum, digest, id and norm holds"
    count = len(findings.problems)
    return "\n".join(
        [
            f"damaged  {looked}: {count:,} problem{'s' * (count > 1)}",
            f"\nTo mend it, delete these files in {shlex.quote(store)}",
            *(f"  {clean(file)}" for file in findings.mend()),
            "and run the lit-embed command of the tower again: parts that are whole are kept, only what is missing",
            "is made. Its options stand in the tower's run.json; the inputs must still be as they were.",
        ]
    )


def _print_problem(problem: Problem) -> None:
    print(f"problem  {clean(str(problem), 500)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
