"""What stands in a store, for comparing one with another."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from schemas.manifest import ImagesManifest
from schemas.store import open_store


def tables_of(store: Path) -> dict[str, Any]:
    """Every file of a store by name: tables for Parquet, bytes otherwise; run.json, which holds times, apart."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in store.rglob("*") if p.is_file() and p.name != "run.json"):
        name = str(path.relative_to(store))
        found[name] = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else path.read_bytes()
    return found


def manifest_of(store: Path, tower_id: str = "t") -> ImagesManifest:
    return ImagesManifest.from_json((store / "images" / tower_id / "manifest.json").read_bytes())


def rows_of(store: Path, tower_id: str = "t") -> dict[str, tuple[bytes, str]]:
    """Vector and caption by id, as a reader gets them."""
    found = {}
    for part in open_store(str(store)).images(tower_id).iter_joined(["captions"]):
        for id, vector, pair in zip(
            part.ids.to_pylist(), part.embeddings[:, 0], part.pairs.to_pylist(), strict=True
        ):
            assert id not in found
            found[id] = (vector.tobytes(), pair["captions"][0]["text"])
    return found
