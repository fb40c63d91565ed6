"""Opening a store: which towers it holds, and pairs matched with embeddings by id."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.embeddings import embeddings_schema, vectors
from schemas.manifest import (
    ImagesManifest,
    PairsManifest,
    PartEntry,
    contents_by_generation,
    generation_of,
    parts_from_table,
)
from schemas.pairs import PAIRS_SCHEMA
from schemas.storage import Folder, StorageOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JoinedPart:
    """One part of embeddings with the pairs of the same ids.

    Attributes:
        part: file name of the embeddings part.
        ids: [n], one per image that has a vector and is not excluded.
        image_sha256: uint8 [n, 32].
        embeddings: float16 or float32 [n, V, D] as stored, not normalised.
        pairs: n rows; row i belongs to `ids[i]`. Always has the column `id`.
    """

    part: str
    ids: pa.StringArray
    image_sha256: np.ndarray
    embeddings: np.ndarray
    pairs: pa.Table


class PairsFolder:
    """`pairs/` of a finished store."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        if not folder.exists("manifest.json"):
            raise ValueError(
                f"{folder.path}: must hold manifest.json, not found: the store is unfinished. Run lit-embed again."
            )
        self.manifest = PairsManifest.from_json(folder.read("manifest.json"), f"{folder.path}/manifest.json")
        self.parts = parts_from_table(folder.read_table(f"parts{self.manifest.tables}.parquet"))

    def read(self, part: str, columns: Sequence[str] | None = None, verified: bool = False) -> pa.Table:
        """A part, or some columns of it; `verified` also holds its bytes against the digest in `parts.parquet`."""
        return self.folder.read_table(part, PAIRS_SCHEMA, columns, self._digests[part] if verified else None)

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {part.name: part.sha256 for part in self.parts}


class ImagesFolder:
    """`images/<tower_id>/` of a finished store.

    Attributes:
        lacking: units of the pairs that were appended since the folder was finished; it serves those before.
    """

    def __init__(self, folder: Folder, pairs: PairsFolder) -> None:
        self.folder = folder
        self.pairs = pairs
        self.manifest = ImagesManifest.from_json(folder.read("manifest.json"), f"{folder.path}/manifest.json")
        self.parts: list[PartEntry] = parts_from_table(
            folder.read_table(f"parts{self.manifest.tables}.parquet")
        )
        lacking = _appended_since(self.manifest.pairs, pairs)
        if lacking is None:
            raise ValueError(
                f"{folder.path}: was made from pairs {self.manifest.pairs[:12]}…, "
                f"found {pairs.manifest.content[:12]}…. The pairs changed since; embed again."
            )
        self.lacking = lacking
        if lacking:
            log.warning("%s", self.lacking_text())

    def lacking_text(self) -> str:
        """What to say of a folder that lacks appended units."""
        return (
            f"{self.folder.path}: lacks {len(self.lacking):,} of {len(self.pairs.parts):,} units, which were appended "
            f"since ({self.lacking[0]} and on). Run lit-embed with --append for this tower to complete it."
        )

    def check(self) -> None:
        """Raises ValueError naming every part that is missing or whose size is not the manifest's."""
        problems = []
        for folder, parts in ((self.folder, self.parts), (self.pairs.folder, self.pairs.parts)):
            sizes = folder.sizes()
            for part in parts:
                if part.name not in sizes:
                    problems.append(f"{part.name}: missing")
                elif sizes[part.name] != part.bytes:
                    problems.append(
                        f"{part.name}: must have {part.bytes:,} bytes, found {sizes[part.name]:,}"
                    )
        if problems:
            shown = "; ".join(problems[:10]) + (
                f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
            )
            raise ValueError(f"{self.folder.path}: parts are damaged ({shown}). Restore them or embed again.")

    @cached_property
    def excluded(self) -> dict[str, set[str]]:
        """Ids to leave out, by pairs part: rows whose id an earlier unit holds."""
        table = self.folder.read_table(f"excluded{self.manifest.tables}.parquet")
        excluded: dict[str, set[str]] = {}
        for row in table.filter(pc.is_valid(table["part"])).select(["id", "part"]).to_pylist():
            excluded.setdefault(row["part"], set()).add(row["id"])
        return excluded

    def iter_joined(self, columns: Sequence[str] = ()) -> Iterator[JoinedPart]:
        """Every part in plan order, embeddings matched with pairs by id, exclusions applied.

        Args:
            columns: columns of `PAIRS_SCHEMA` wanted beside `id`.

        Raises:
            ValueError: a part is damaged, or an id's image differs between the two sides; the part is named.
        """
        for part in self.parts:
            yield self.joined(part, columns)

    def joined(self, part: PartEntry, columns: Sequence[str] = (), verified: bool = False) -> JoinedPart:
        """One part, as `iter_joined` gives it.

        Args:
            part: one of `parts`.
            columns: as in `iter_joined`.
            verified: also hold the bytes of both files against the digests in `parts.parquet`.
        """
        schema = embeddings_schema(self.manifest.embedding_dim, self.manifest.dtype)
        wanted = ["id", *(name for name in columns if name != "id")]
        images = self.folder.read_table(part.name, schema, sha256=part.sha256 if verified else None)
        assert part.pairs_part is not None
        pairs = self.pairs.read(part.pairs_part, ["image_sha256", *wanted], verified)
        excluded = self.excluded.get(part.pairs_part, ())
        return _join(part, images, pairs, excluded, self.manifest.views, wanted)


class Store:
    """A folder of pairs and, per locked tower, of image embeddings."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.path = folder.path

    def tower_ids(self) -> list[str]:
        """Names of the finished towers, sorted."""
        images = self.folder.child("images")
        return [name for name in images.folders() if images.exists(f"{name}/manifest.json")]

    @cached_property
    def pairs(self) -> PairsFolder:
        return PairsFolder(self.folder.child("pairs"))

    def images(self, tower_id: str) -> ImagesFolder:
        """Opens one tower's folder; raises ValueError listing the known ones when it is not there or unfinished."""
        known = self.tower_ids()
        if tower_id not in known:
            unfinished = self.folder.exists(f"images/{tower_id}")
            found = "an unfinished folder: run lit-embed again" if unfinished else "none"
            raise ValueError(
                f"--tower-id: {self.path} must hold a finished tower {tower_id!r}, found {found}. "
                f"Known: {', '.join(known) or 'none'}."
            )
        return ImagesFolder(self.folder.child("images").child(tower_id), self.pairs)


def open_store(path: str, storage_options: StorageOptions | None = None) -> Store:
    """Opens a store for reading.

    >>> open_store("nowhere")
    Traceback (most recent call last):
    ValueError: --store: must be a folder made by lit-embed, found nothing at nowhere.
    """
    folder = Folder(path, storage_options)
    if not folder.is_folder():
        raise ValueError(f"--store: must be a folder made by lit-embed, found nothing at {path}.")
    if not folder.exists("pairs/manifest.json"):
        raise ValueError(
            f"--store: {path} must be a finished store (pairs/manifest.json), not found. Run lit-embed again."
        )
    return Store(folder)


def _appended_since(content: str, pairs: PairsFolder) -> list[str] | None:
    """Units of pairs behind those of a content digest; None when the digest is of something else."""
    if content == pairs.manifest.content:
        return []
    generations = contents_by_generation(pairs.parts)
    if content not in generations or pairs.manifest.content not in generations:
        return None
    return [part.unit for part in pairs.parts if generation_of(part.unit) > generations[content]]


def _join(
    part: PartEntry,
    images: pa.Table,
    pairs: pa.Table,
    excluded: Collection[str],
    views: int,
    wanted: list[str],
) -> JoinedPart:
    """Matches the rows of one embeddings part with its pairs part by id."""
    ids = images.column("id").combine_chunks()
    firsts = np.arange(0, len(images), views)  # rows of view 0; all V views of an image stand together
    view_numbers = images.column("view").to_numpy()
    if len(images) % views or not np.array_equal(view_numbers, np.tile(np.arange(views), len(firsts))):
        raise ValueError(
            f"{part.name}: must hold views 0 to {views - 1} of every image, in order; found otherwise."
        )
    ids = ids.take(pa.array(firsts))
    if excluded:
        kept = np.flatnonzero(
            ~pc.is_in(ids, value_set=pa.array(sorted(excluded))).to_numpy(zero_copy_only=False)
        )
        firsts, ids = firsts[kept], ids.take(pa.array(kept))
    where = pc.index_in(ids, value_set=pairs.column("id").combine_chunks())
    if where.null_count:
        missing = ids.filter(pc.is_null(where))[0].as_py()
        raise ValueError(f"{part.name}: id {missing!r} must be in {part.pairs_part}, not found. Embed again.")
    pairs = pairs.take(where)
    ours = images.column("image_sha256").combine_chunks().take(pa.array(firsts))
    theirs = pairs.column("image_sha256").combine_chunks()  # null where only a later run could read the image
    same = pc.or_(pc.is_null(theirs), pc.fill_null(pc.equal(theirs, ours), False))
    if not pc.all(same).as_py() and len(ids):
        first = ids.filter(pc.invert(same))[0].as_py()
        raise ValueError(
            f"{part.name}: the image of id {first!r} differs from the one in {part.pairs_part}. Embed again."
        )
    digest_bytes = np.frombuffer(b"".join(ours.to_pylist()), np.uint8).reshape(-1, 32)
    embeddings = vectors(images.column("embedding"))
    embeddings = embeddings.reshape(-1, views, embeddings.shape[-1])
    if len(firsts) != len(embeddings):
        embeddings = embeddings[firsts // views]
    return JoinedPart(part.name, ids, digest_bytes, embeddings, pairs.select(wanted))
