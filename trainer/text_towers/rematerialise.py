"""Keeping only what enters a block, and computing the rest again for the gradient."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn

BLOCKS = ("Block", "Layer")  # what the towers call the modules that are repeated along their depth


@contextlib.contextmanager
def rematerialising(wanted: bool = True) -> Iterator[None]:
    """While entered, every block of a text tower that is traced keeps its input alone for the backward pass.

    The values are the same to the last bit; the price is a second forward pass of each block.

    Args:
        wanted: False leaves everything as it is.
    """
    if not wanted:
        yield
        return
    inside = False

    def intercept(
        call_next: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
    ) -> Any:
        nonlocal inside
        if inside or context.method_name != "__call__" or type(context.module).__name__ not in BLOCKS:
            return call_next(*args, **kwargs)

        def call(module: nn.Module, *args: Any) -> Any:
            nonlocal inside
            inside = True
            try:
                return module(*args, **kwargs)
            finally:
                inside = False

        return nn.remat(call)(context.module, *args)

    with nn.intercept_methods(intercept):
        yield
