"""How two requests differ, field by field, in words."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.digests import canonical_json


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any], ignore: Sequence[str] = ()) -> list[str]:
    """A line for each field in which a command and a store differ; fields of fields are joined by dots.

    >>> differences({"a": {"b": 1}}, {"a": {"b": 2}})
    ['a.b: the store has 2, this command gives 1']
    """
    ours, theirs = _flat(wanted), _flat(found)
    return [
        f"{name}: the store has {theirs.get(name)!r}, this command gives {ours.get(name)!r}"
        for name in sorted(set(ours) | set(theirs))
        if name not in ignore and ours.get(name) != theirs.get(name)
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= _flat(inner, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.loads(canonical_json(inner))
    return flat
