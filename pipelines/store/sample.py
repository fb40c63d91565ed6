"""A sample of a store's images drawn by hash of their ids, and how alike they are."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.store.text import Shown
from schemas.digests import key64
from schemas.store import JoinedPart

SIZE = 2000  # 2,000 x 768 float32 are 6 MB; all cosines between them take a tenth of a second
QUERIES = 6
NEIGHBOURS = 3


@dataclass(frozen=True)
class Neighbours:
    """An image and those of the sample that lie nearest: (cosine, image), nearest first."""

    query: Shown
    nearest: list[tuple[float, Shown]]


class Sample:
    """The images whose ids hash lowest: the same ones however the store is cut into parts, and on every machine."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._keys = np.zeros(0, np.uint64)
        self._shown: list[Shown] = []
        self._vectors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._shown)

    def add(self, unit: str, part: JoinedPart) -> None:
        """Takes from a part what belongs into the sample; images without a direction never do."""
        ids = part.ids.to_pylist()
        vectors = part.embeddings[:, 0]
        usable = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
        keys = np.fromiter((key64(id.encode()) for id in ids), np.uint64, len(ids))
        bound = self._keys[-1] if len(self._keys) == self._size else np.uint64(2**64 - 1)
        rows = np.flatnonzero(usable & (keys <= bound))
        rows = rows[np.argsort(keys[rows], kind="stable")][: self._size]
        captions = part.pairs.column("captions").take(pa.array(rows)).to_pylist()
        new = [
            Shown(unit, ids[row], part.image_sha256[row].tobytes(), tuple(c["text"] or "" for c in own))
            for row, own in zip(rows.tolist(), captions, strict=True)
        ]
        self._merge(keys[rows], new, vectors[rows].astype(np.float32))

    def _merge(self, keys: np.ndarray, shown: list[Shown], vectors: np.ndarray) -> None:
        everything = np.concatenate([self._keys, keys])
        order = np.argsort(everything, kind="stable")[: self._size]
        both = self._shown + shown
        self._keys, self._shown = everything[order], [both[place] for place in order.tolist()]
        own = vectors if self._vectors is None else np.concatenate([self._vectors, vectors])
        self._vectors = own[order]

    def directions(self) -> np.ndarray:
        """float32 [n, D], rows of length 1."""
        if self._vectors is None:
            return np.zeros((0, 1), np.float32)
        wide = self._vectors.astype(np.float64)
        return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)

    def mean_cosine(self) -> float | None:
        """Mean cosine of all pairs of different images: (‖Σ u‖² − n) / (n (n − 1)); None below two images."""
        directions = self.directions().astype(np.float64)
        count = len(directions)
        if count < 2:
            return None
        total = directions.sum(axis=0)
        return float((total @ total - np.sum(directions**2)) / (count * (count - 1)))

    def neighbours(self, queries: int = QUERIES, nearest: int = NEIGHBOURS) -> list[Neighbours]:
        """The nearest images of the sample for its first few."""
        directions = self.directions()
        if len(directions) < 2:
            return []
        found = []
        for place in range(min(queries, len(directions))):
            cosines = directions @ directions[place]
            order = np.argsort(-cosines, kind="stable")
            others = order[order != place][:nearest].tolist()
            pairs = [(float(cosines[other]), self._shown[other]) for other in others]
            found.append(Neighbours(self._shown[place], pairs))
        return found
