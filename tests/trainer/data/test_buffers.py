"""An array is written over only when nobody looks at it any more, JAX included."""

import jax
import numpy as np

from trainer.data.buffers import Buffers

SHAPE, DTYPE = (1 << 18,), np.dtype(np.float32)


def test_an_array_nobody_holds_is_given_out_again():
    buffers = Buffers()
    first = buffers.empty(SHAPE, DTYPE).ctypes.data
    assert buffers.empty(SHAPE, DTYPE).ctypes.data == first
    assert buffers.empty((3,), DTYPE).shape == (3,)


def test_an_array_or_a_view_that_is_held_is_left_alone():
    buffers = Buffers()
    held = buffers.empty(SHAPE, DTYPE)
    view = buffers.empty(SHAPE, DTYPE)[5:].reshape(-1)
    third = buffers.empty(SHAPE, DTYPE)
    assert len({held.ctypes.data, view.base.ctypes.data, third.ctypes.data}) == 3


def test_what_jax_reads_is_not_written_over():
    """On CPU JAX may share the memory of a NumPy array."""
    buffers = Buffers()
    product = jax.jit(lambda x: (x[:, None] * x[None, :1024]).sum(axis=1))
    results, shared = [], []
    for step in range(6):
        array = buffers.empty(SHAPE, DTYPE)
        array[:] = step
        shared.append(jax.device_put(array) if step % 2 else None)
        results.append(product(array if shared[-1] is None else shared[-1]))
        del array
    for step, result in enumerate(results):
        np.testing.assert_array_equal(result, np.full(SHAPE, step * step * 1024.0))
        if shared[step] is not None:
            np.testing.assert_array_equal(shared[step], np.full(SHAPE, step))
