"""Reads the few pickle opcodes a torch state dict is made of; calls nothing, imports nothing.

Pickle is a program for a stack machine. This one knows plain containers, numbers and strings, and turns each imported
name into whatever the caller's visible table says. Every other name and opcode is refused by name.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

# A tensor takes about 40 opcodes, so this is some 50,000 tensors; it bounds what a hostile stream can build.
MAX_OPCODES = 2_000_000

Call = Callable[..., Any]

_MARK = object()
_LITERALS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_WITH_VALUE = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(stream: BinaryIO, names: Mapping[str, Any], persistent: Call | None = None) -> Any:
    """The value one pickle describes; `stream` is left behind its STOP.

    Args:
        stream: positioned at the pickle.
        names: what stands for each importable name, such as `{"collections OrderedDict": ...}`. A callable is called
            where the pickle calls the name.
        persistent: turns the argument of a persistent id into its value.

    Raises:
        ValueError: the stream is broken, too long, or uses a name or an opcode that is not known here.
    """
    machine = _Machine(names, persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_OPCODES:
                raise ValueError(f"the pickle must have at most {MAX_OPCODES} opcodes, found more.")
            machine.step(opcode.name, argument)
    except _Refused:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, UnicodeError) as error:
        raise ValueError(f"the pickle must be whole and well formed, found {error}.") from error
    return machine.result()


class _Refused(ValueError):
    """A name or opcode outside the subset."""


class _Machine:
    """The stack, the marks in it and the memo."""

    def __init__(self, names: Mapping[str, Any], persistent: Call | None) -> None:
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        if len(self.stack) != 1:
            raise ValueError(f"the pickle must leave one value, found {len(self.stack)}.")
        return self.stack[0]

    def step(self, opcode: str, argument: Any) -> None:
        """Carries out one opcode."""
        if opcode in _WITH_VALUE:
            self.stack.append(argument)
        elif opcode in _LITERALS:
            self.stack.append(_LITERALS[opcode]())
        elif opcode in _SHORT_TUPLES:
            self.stack.append(tuple(self.pop_last(_SHORT_TUPLES[opcode])))
        elif (action := getattr(self, f"op_{opcode.lower()}", None)) is not None:
            action(argument)
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            raise _Refused(
                f"a weight file must hold only tensors; this one uses the pickle opcode {opcode}, which is refused. "
                "Save the state dict alone, best as .safetensors."
            )

    def pop_last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("an opcode that needs more values than there are")
        items, self.stack[-count:] = self.stack[-count:], []
        return items

    def pop_to_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def op_mark(self, _: None) -> None:
        self.stack.append(_MARK)

    def op_tuple(self, _: None) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def op_binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    op_long_binput = op_binput

    def op_memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    op_long_binget = op_binget

    def op_append(self, _: None) -> None:
        self.extend(self.pop_last(1))

    def op_appends(self, _: None) -> None:
        self.extend(self.pop_to_mark())

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("an append to something that is no list")
        self.stack[-1].extend(items)

    def op_setitem(self, _: None) -> None:
        self.update(self.pop_last(2))

    def op_setitems(self, _: None) -> None:
        self.update(self.pop_to_mark())

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("an item set in something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):
                raise ValueError(f"a dict key of type {type(key).__name__}")
            target[key] = value

    def op_global(self, name: str) -> None:
        self.stack.append(self.lookup(name))

    def op_stack_global(self, _: None) -> None:
        module, name = self.pop_last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("an import whose name is no text")
        self.stack.append(self.lookup(f"{module} {name}"))

    def lookup(self, name: str) -> Any:
        if name not in self.names:
            raise _Refused(
                f"a weight file must hold only tensors; this one asks to import {name[:100]!r}, which is "
                "refused, since it could run code. Save the state dict alone, best as .safetensors."
            )
        return self.names[name]

    def op_reduce(self, _: None) -> None:
        function, arguments = self.pop_last(2)
        if not callable(function) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that cannot be called")
        self.stack.append(function(*arguments))

    def op_build(self, _: None) -> None:
        """Drops attributes: a state dict carries `_metadata`, which says nothing about its tensors."""
        self.stack.pop()

    def op_binpersid(self, _: None) -> None:
        if self.persistent is None:
            raise ValueError("a persistent id where none belongs")
        self.stack.append(self.persistent(self.stack.pop()))
