"""A loaded tower kept busy: batches of one padded shape in, float32 vectors out."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lit_precompute.compiling import compiler_options
from lit_precompute.towers import Tower

T = TypeVar("T")

# Two batches on the device: one computes while the next is being filled. More only costs memory.
IN_FLIGHT = 2


class Embedder:
    """Runs a tower over a stream of images, compiled once, spread over the local devices.

    Args:
        tower: a loaded tower.
        batch_size: images per forward pass; rounded up to a multiple of the number of local devices.
    """

    def __init__(self, tower: Tower, batch_size: int) -> None:
        self.tower = tower
        mesh = Mesh(np.array(jax.local_devices()), ("batch",))
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self._rows = NamedSharding(mesh, PartitionSpec("batch"))
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._params = jax.device_put(tower.params, everywhere)
        dtype = tower.info.architecture.get("compute_dtype", "float32")
        self._forward = jax.jit(
            tower.forward,
            in_shardings=(everywhere, self._rows),
            out_shardings=self._rows,
            compiler_options=compiler_options(jax.local_devices()[0].platform, dtype),
        )

    def stream(self, images: Iterable[tuple[T, np.ndarray]]) -> Iterator[tuple[T, np.ndarray]]:
        """Embeds images in order, whatever names they carry.

        Args:
            images: pairs of anything and uint8 [S, S, 3].

        Yields:
            The same anything, in the same order, with float32 [D]: the vector before normalisation. What is
            yielded does not depend on the batch size.
        """
        waiting: deque[tuple[list[T], jax.Array]] = deque()
        names: list[T] = []
        batch: np.ndarray | None = None
        for name, pixels in images:
            if batch is None:  # a fresh array each time: the one before may still be on its way to the device
                batch = np.zeros((self.batch_size, *pixels.shape), np.uint8)
            batch[len(names)] = pixels
            names.append(name)
            if len(names) == self.batch_size:
                waiting.append((names, self._dispatch(batch)))
                names, batch = [], None
                if len(waiting) == IN_FLIGHT:
                    yield from self._collect(*waiting.popleft())
        if batch is not None:
            waiting.append((names, self._dispatch(batch)))
        while waiting:
            yield from self._collect(*waiting.popleft())

    def stream_views(self, images: Iterable[tuple[T, np.ndarray]]) -> Iterator[tuple[T, np.ndarray]]:
        """Embeds all views of images, in order; a view takes the place of an image in a batch.

        Args:
            images: pairs of anything and uint8 [V, S, S, 3], V of one or more and the same for all.

        Yields:
            The same anything with float32 [V, D].
        """
        views = ((name, len(pixels), view) for name, pixels in images for view in pixels)
        found: list[np.ndarray] = []
        for (name, count), vector in self.stream(((name, count), view) for name, count, view in views):
            found.append(vector)
            if len(found) == count:
                yield name, np.stack(found)
                found = []

    def _dispatch(self, batch: np.ndarray) -> jax.Array:
        return self._forward(self._params, jax.device_put(batch, self._rows))

    @staticmethod
    def _collect(names: list[T], vectors: jax.Array) -> Iterator[tuple[T, np.ndarray]]:
        yield from zip(names, np.asarray(vectors, dtype=np.float32)[: len(names)], strict=True)
