"""Which parts of a text tower move: all of it, its last blocks, or the head alone.

A part is named by the path of its parameters, "backbone/layer_11/query/kernel", with regular expressions that must
match the whole path.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax

_BLOCK = re.compile(r"(?i)(?:encoder)?(?:layers?|blocks?)_?(\d+)")
# What a caption meets before the first block. Whatever else is no block stands behind the last.
_BEFORE = re.compile(r"(?i).*embed.*|word|token_type|pos(ition)?.*|relative.*|distance|shared|wte|wpe")
_LAST = re.compile(r"last-([1-9]\d*)")


def check_train(train: str) -> None:
    """Check that `train` is "all", "head" or "last-K".

    Raises:
        ValueError: it is none of them.
    """
    if train not in ("all", "head") and not _LAST.fullmatch(train):
        raise ValueError(f"train: must be all, head, or last-K such as last-2, found {train!r}.")


def frozen_by(train: str, params: Any) -> tuple[str, ...]:
    """The patterns of what stays still.

    Args:
        train: "all"; "last-K": the last K blocks, what stands behind them (a last norm, a pooling head) and the head;
            "head".
        params: the tree {"backbone": ..., "head": ..., ...}; only paths are read.

    Returns:
        Patterns that match whole paths.

    Raises:
        ValueError: the backbone has fewer than K blocks, or none that can be told.
    """
    check_train(train)
    if train == "all":
        return ()
    if train == "head":
        return ("backbone/.*",) if "backbone" in params else ()
    paths = [path for path in paths_of(params) if path.startswith("backbone/")]
    blocks = {path: _block(path) for path in paths}
    depth = 1 + max((number for number in blocks.values() if number is not None), default=-1)
    last = int(train.removeprefix("last-"))
    if last > depth:
        raise ValueError(
            f"train: last-K must name at most the backbone's {depth} blocks, found {train}. Set --train all to move"
            " all of it."
        )
    still = [path for path, number in blocks.items() if _stands_still(path, number, depth - last)]
    return tuple(re.escape(path) for path in still)


def _stands_still(path: str, block: int | None, first: int) -> bool:
    if block is not None:
        return block < first
    return any(_BEFORE.fullmatch(part) for part in path.split("/")[1:])


def _block(path: str) -> int | None:
    """The number of the block a path lies in; None outside of blocks."""
    found = (_BLOCK.fullmatch(part) for part in path.split("/"))
    return next((int(match[1]) for match in found if match), None)


def hold_still(params: Any, frozen: Sequence[str]) -> Any:
    """The same tree, whose leaves that match a pattern get no gradient: what leads to them alone is not computed."""
    if not frozen:
        return params
    still = re.compile("|".join(f"(?:{pattern})" for pattern in frozen))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.lax.stop_gradient(leaf) if still.fullmatch(joined(path)) else leaf, params
    )


def read_rules(name: str, rules: Iterable[str]) -> tuple[tuple[str, float], ...]:
    """Read PATTERN=FACTOR rules.

    Args:
        name: of the flag, for an error.
        rules: such as "backbone/layer_1[01]/.*=0.5".

    Raises:
        ValueError: a rule that is none.
    """
    found = []
    for rule in rules:
        pattern, equals, factor = rule.rpartition("=")
        try:
            re.compile(pattern)
            number = float(factor)
        except (re.error, ValueError):
            number = -1.0
        if not equals or not number >= 0:
            raise ValueError(
                f"{name}: must be PATTERN=FACTOR, a regular expression of whole paths and a number from 0, such as"
                f" backbone/.*=0.1; found {rule!r}."
            )
        found.append((pattern, number))
    return tuple(found)


def paths_of(params: Any) -> list[str]:
    """The path of every leaf."""
    return [joined(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def joined(path: Any) -> str:
    """A leaf's path as the rules see it: "backbone/layer_0/query/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
