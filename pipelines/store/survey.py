"""One pass over a tower's vectors and captions: what can be counted in bounded memory."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.store.histogram import Histogram
from pipelines.store.keys import KeyLedger, Repeats
from pipelines.store.meter import Meter
from pipelines.store.sample import Sample
from schemas.digests import caption_key, image_keys
from schemas.store import ImagesFolder, JoinedPart

COLUMNS = ("captions", "labels", "label_names")
MOST_CAPTIONS = 20  # an image with more is counted as having this many
MOST_LABELS = 50_000  # different labels that are counted; more would not be classes
GROUPS = 3  # groups of equal things that are shown
EXAMPLES = 3


@dataclass
class Flaw:
    """Vectors of one kind that should not be: how many, and the ids of the first."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, ids: pa.StringArray, rows: np.ndarray) -> None:
        self.count += len(rows)
        for row in rows[: EXAMPLES - len(self.examples)].tolist():
            self.examples.append(ids[row].as_py())


@dataclass(frozen=True)
class Survey:
    """What one pass found.

    Attributes:
        images: that have a vector and are not excluded.
        captions: images by number of captions, `MOST_CAPTIONS` or more together.
        labels: images by label (class index, or class name).
        other_labels: images with labels beyond the first `MOST_LABELS` different ones.
        norms: L2 norms of the stored vectors, all views.
        flaws: "not finite", "zero", "constant" (all components alike) vectors.
        equal_images, equal_captions, equal_vectors: by sha256, by wording, by bytes of view 0.
        sample: images drawn by hash of their ids.
    """

    images: int
    captions: np.ndarray
    labels: Counter[str]
    other_labels: int
    norms: Histogram
    flaws: dict[str, Flaw]
    equal_images: Repeats
    equal_captions: Repeats
    equal_vectors: Repeats
    sample: Sample


def survey(images: ImagesFolder, meter: Meter) -> Survey:
    """Reads every part of a tower and of its pairs once.

    Raises:
        ValueError: a part is damaged; it is named.
    """
    meter.total += sum(part.bytes for part in images.parts)
    with ExitStack() as files:
        ledgers = {name: files.enter_context(KeyLedger()) for name in ("image", "caption", "vector")}
        counting = _Counting()
        for number, (entry, part) in enumerate(zip(images.parts, images.iter_joined(COLUMNS), strict=True)):
            counting.add(part)
            counting.sample.add(entry.unit, part)
            _note_keys(ledgers, number, part)
            meter.add(entry.bytes)
        repeats = {name: ledger.repeats(GROUPS) for name, ledger in ledgers.items()}
    return Survey(
        counting.images,
        counting.captions,
        counting.labels,
        counting.other_labels,
        counting.norms,
        counting.flaws,
        repeats["image"],
        repeats["caption"],
        repeats["vector"],
        counting.sample,
    )


class _Counting:
    """What grows with every part."""

    def __init__(self) -> None:
        self.images = 0
        self.captions = np.zeros(MOST_CAPTIONS + 1, np.int64)
        self.labels: Counter[str] = Counter()
        self.other_labels = 0
        self.norms = Histogram()
        self.flaws = {"not finite": Flaw(), "zero": Flaw(), "constant": Flaw()}
        self.sample = Sample()

    def add(self, part: JoinedPart) -> None:
        self.images += len(part.ids)
        lengths = pc.list_value_length(part.pairs.column("captions")).to_numpy()
        self.captions += np.bincount(np.minimum(lengths, MOST_CAPTIONS), minlength=MOST_CAPTIONS + 1)
        for name in ("labels", "label_names"):
            self._count_labels(pc.value_counts(pc.list_flatten(part.pairs.column(name))).to_pylist())
        for view in range(part.embeddings.shape[1]):
            self._look_at(part.ids, part.embeddings[:, view])

    def _count_labels(self, counts: Iterable[dict[str, object]]) -> None:
        for one in counts:
            label, count = str(one["values"]), int(str(one["counts"]))
            if label in self.labels or len(self.labels) < MOST_LABELS:
                self.labels[label] += count
            else:
                self.other_labels += count

    def _look_at(self, ids: pa.StringArray, stored: np.ndarray) -> None:
        """Flaws and norms of float16 or float32 [n, D]."""
        finite = np.isfinite(stored).all(axis=1)
        zero = ~stored.any(axis=1)
        constant = finite & ~zero & (stored == stored[:, :1]).all(axis=1)
        for name, rows in (("not finite", ~finite), ("zero", zero), ("constant", constant)):
            self.flaws[name].note(ids, np.flatnonzero(rows))
        self.norms.add(np.linalg.norm(stored[finite].astype(np.float32), axis=1))


def _note_keys(ledgers: dict[str, KeyLedger], number: int, part: JoinedPart) -> None:
    rows = np.arange(len(part.ids))
    ledgers["image"].add(number, image_keys(part.image_sha256), 0, rows)
    vectors = np.ascontiguousarray(part.embeddings[:, 0])
    hashes = (hashlib.blake2b(vector, digest_size=8).digest() for vector in vectors)
    ledgers["vector"].add(number, np.frombuffer(b"".join(hashes), "<u8"), 0, rows)
    captions = part.pairs.column("captions").combine_chunks()
    texts = captions.flatten().field("text").to_pylist()
    keys = np.fromiter((caption_key(text or "") for text in texts), np.uint64, len(texts))
    ledgers["caption"].add(number, keys, 0, np.asarray(pc.list_parent_indices(captions)))
