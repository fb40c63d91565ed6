"""Whether the input is still what the store was planned with, and what the user allows where it is not."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lit_precompute.config import EmbedConfig, source_facts
from lit_precompute.differences import differences
from lit_precompute.lease import Lease
from lit_precompute.plan import PLAN_FILE, Plan, extend_plan, make_plan, publish_plan, read_plan, write_plan
from lit_precompute.sources import SOURCES, folder, tfds
from lit_precompute.sources.listing import Listing, list_inputs
from lit_precompute.touched import compare_touched
from lit_precompute.units import Slice, bare_name
from schemas.storage import Folder, StorageOptions

log = logging.getLogger(__name__)

# Which of the files under --input are read at all.
COUNTED = {"folder": folder.files_that_count, "tfds": tfds.files_that_count}
SHOWN = 10  # differences named; the rest are counted


@dataclass(frozen=True)
class Agreement:
    """The plan to work on.

    Attributes:
        plan: with whatever was appended or accepted now.
        standing: the one in the store; None when there is none yet.
    """

    plan: Plan
    standing: Plan | None


def agree_plan(config: EmbedConfig, options: StorageOptions) -> Agreement:
    """The store's plan when it still holds, grown or mended as the user allows; a new one for a new store.

    Nothing is written; `settle` does that.

    Raises:
        ValueError: inputs or source options are not those of the store's plan; each difference is named.
        OSError: storage trouble.
    """
    store = Folder(config.output, options)
    if not store.exists(PLAN_FILE):
        return Agreement(make_plan(config.source, config.work.unit_bytes, options), None)
    plan = read_plan(store)
    listing = list_inputs(config.source.input, SOURCES[config.source.format].SUFFIXES, options)
    found = _Found.of(config, plan, listing, options)
    _refuse(config, plan, found)
    grown = plan
    if found.touched:
        grown = _accept(config, store, plan, found.touched, options)
    if found.surplus:
        added = replace(listing, files=tuple(found.surplus), walked=())
        grown = extend_plan(grown, added, config.source, config.work.unit_bytes, options)
    return Agreement(grown, plan)


def settle(store: Folder, agreement: Agreement, takeover: bool = False) -> Plan:
    """Writes the plan where it is new or has changed; gives the one to work on.

    Raises:
        ValueError: another launch changed the plan in between.
    """
    if agreement.standing is None:
        return publish_plan(store, agreement.plan)
    if agreement.plan != agreement.standing:
        with Lease(store, takeover):
            if read_plan(store) != agreement.standing:
                raise ValueError(f"{store.path}: another launch has just changed the plan. Run again.")
            write_plan(store, agreement.plan)
    return agreement.plan


@dataclass(frozen=True)
class _Found:
    """How the files that are there differ from those planned.

    Attributes:
        vanished: planned and not among the inputs.
        surplus: among the inputs and not planned.
        changed: of another size.
        touched: of the size planned and another version.
        stuck: belonging to records that are planned already, so that they can not be appended.
    """

    vanished: list[Slice]
    surplus: list[Slice]
    changed: list[tuple[Slice, Slice]]
    touched: list[tuple[Slice, Slice]]
    stuck: list[Slice]

    @classmethod
    def of(cls, config: EmbedConfig, plan: Plan, listing: Listing, options: StorageOptions) -> "_Found":
        is_folder = config.source.format == "folder"
        files: Sequence[Slice] = listing.files
        if config.source.format in COUNTED:  # else every file does
            files = COUNTED[config.source.format](listing, config.source, options)
        present = {file.path: file for file in files}
        planned = {part.path: part for unit in plan.units for part in unit.slices}
        both = [(planned[path], present[path]) for path in sorted(planned.keys() & present.keys())]
        differing = [
            (then, now)
            for then, now in both
            if (then.size, then.version) != (now.size, now.version)
            and (then.size, plan.accepted.get(then.path)) != (now.size, now.version)
        ]
        surplus = [present[path] for path in sorted(present.keys() - planned.keys())]
        if config.source.limit is not None:  # the plan ends where the limit was reached
            surplus = [file for file in surplus if file.path < max(planned, default="")]
        stuck = folder.beside_planned(surplus, planned.values()) if is_folder else []
        stuck_paths = {file.path for file in stuck}
        return cls(
            [planned[path] for path in sorted(planned.keys() - present.keys())],
            [file for file in surplus if file.path not in stuck_paths],
            [(then, now) for then, now in differing if then.size != now.size],
            [(then, now) for then, now in differing if then.size == now.size],
            stuck,
        )


def _refuse(config: EmbedConfig, plan: Plan, found: _Found) -> None:
    """Raises ValueError with every difference that the user did not allow."""
    may_append, may_touch = config.work.append, config.work.accept_touched
    differing = differences(source_facts(config.source), plan.source)
    if not may_append:
        differing += [f"{bare_name(file.path)}: planned, no longer there" for file in found.vanished]
        differing += [f"{bare_name(file.path)}: not in the plan" for file in found.surplus]
    differing += [f"{bare_name(file.path)}: not in the plan, beside an image that is" for file in found.stuck]
    differing += [_changed(*pair) for pair in found.changed]
    if not may_touch:
        differing += [_changed(*pair) for pair in found.touched]
    if not differing:
        return
    advice = ["Restore it to go on, or write to another --output."]
    if found.surplus and not may_append:
        advice.append("--append adds inputs that are not in the plan.")
    if found.touched and not may_touch:
        advice.append("--accept-touched compares what carries another time with what the store holds.")
    shown = [f"  {line}" for line in differing[:SHOWN]]
    if len(differing) > SHOWN:
        shown.append(f"  and {len(differing) - SHOWN:,} more")
    raise ValueError(
        f"{config.output}: the input must be the one the store was planned with, found\n"
        + "\n".join([*shown, " ".join(advice)])
    )


def _changed(then: Slice, now: Slice) -> str:
    return (
        f"{bare_name(then.path)}: size and version {(then.size, then.version)} when planned, "
        f"found {(now.size, now.version)}"
    )


def _accept(
    config: EmbedConfig,
    store: Folder,
    plan: Plan,
    touched: Sequence[tuple[Slice, Slice]],
    options: StorageOptions,
) -> Plan:
    """The plan with the later versions of touched files, once their records equal those in the store."""
    paths = {then.path for then, _ in touched}
    units = [unit for unit in plan.units if not paths.isdisjoint(part.path for part in unit.slices)]
    log.warning("comparing %d files that carry another time than planned", len(touched))
    _demand_equal(config, compare_touched(config, store.child("pairs"), units, options))
    return replace(plan, accepted={**plan.accepted, **{now.path: now.version for _, now in touched}})


def _demand_equal(config: EmbedConfig, problems: Iterable[str]) -> None:
    if found := list(problems):
        more = [f"  and {len(found) - SHOWN:,} more"] if len(found) > SHOWN else []
        raise ValueError(
            f"{config.output}: --accept-touched: the records must be those in the store, found\n"
            + "\n".join([*(f"  {line}" for line in found[:SHOWN]), *more])
            + "\nThe content changed; restore it, or write to another --output."
        )
