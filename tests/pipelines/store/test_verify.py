"""`lit-store verify`: a sound store passes; whatever is changed in one is found, named, and mended as it says."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_precompute.parts import FOOTER, encode_table
from pipelines.store.command import main
from pipelines.store.verify import verify
from schemas.digests import sha256_json, table_digest
from schemas.embeddings import vectors
from schemas.manifest import ImagesManifest, PartEntry, content_digest, parts_from_table, parts_to_table
from schemas.storage import Folder
from schemas.store import Store

EMBEDDINGS = "images/stand-in/embeddings-g000-00001.parquet"
PAIRS = "pairs/pairs-g000-00001.parquet"
OWN = "images/stand-in/manifest.json"
Change = Callable[[pa.Table], pa.Table]


@pytest.fixture
def store(colour_store: Path, tmp_path: Path) -> Path:
    return shutil.copytree(colour_store, tmp_path / "store")


def found(store: Path, tower_id: str | None = None) -> list[str]:
    return [str(problem) for problem in verify(Store(Folder(str(store))), tower_id).problems]


def write_part(path: Path, change: Change, honest_footer: bool = True) -> None:
    """Writes a part again with other rows, and a footer that says so or the one it had."""
    table = pq.read_table(path)
    footer = json.loads(table.schema.metadata[FOOTER])
    table = change(table.replace_schema_metadata(None))
    if honest_footer:
        footer |= {"rows": len(table), "content": table_digest(table)}
    pq.write_table(table.replace_schema_metadata({FOOTER: json.dumps(footer).encode()}), path)


def relist(store: Path) -> None:
    """Makes parts lists and manifests agree with the parts again, as someone would who hides a change."""
    for folder in (store / "pairs", store / "images" / "stand-in"):
        parts = [_entry(folder, part) for part in _parts(folder)]
        (folder / "parts.parquet").write_bytes(encode_table(parts_to_table(parts)))
    pairs = content_digest(_parts(store / "pairs"))
    excluded = pq.read_table(store / "images/stand-in/excluded.parquet")
    content = content_digest(_parts(store / "images/stand-in"), pairs, table_digest(excluded))
    edit(store / "pairs/manifest.json", content=pairs)
    edit(store / OWN, pairs=pairs, content_id=content)


def _parts(folder: Path) -> list[PartEntry]:
    return parts_from_table(pq.read_table(folder / "parts.parquet"))


def _entry(folder: Path, part: PartEntry) -> PartEntry:
    data = (folder / part.name).read_bytes()
    table = pq.read_table(folder / part.name).replace_schema_metadata(None)
    return dataclasses.replace(
        part,
        rows=len(table),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        content=table_digest(table),
    )


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def with_vectors(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def apply(table: pa.Table) -> pa.Table:
        changed = change(vectors(table["embedding"]).copy())
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(changed.reshape(-1)), type=table.schema.field("embedding").type
        )
        return table.set_column(4, table.schema.field("embedding"), column)

    return apply


def set_column(name: str, change: Callable[[list[Any]], list[Any]]) -> Change:
    def apply(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        field = table.schema.field(name)
        return table.set_column(place, field, pa.array(change(table[name].to_pylist()), field.type))

    return apply


def swap(rows: Any) -> Any:
    rows[[0, 1]] = rows[[1, 0]]
    return rows


def put(place: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [value if n == place else one for n, one in enumerate(values)]


def test_a_sound_store_passes(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(store)]) == 0
    printed = capsys.readouterr()
    assert "sound" in printed.out
    assert "6 parts" in printed.out
    assert "12 records" in printed.out
    assert "12 images" in printed.out
    assert printed.err == ""


def test_one_flipped_byte_anywhere_in_a_part_is_found(store: Path) -> None:
    whole = (store / EMBEDDINGS).read_bytes()
    for place in range(0, len(whole), 97):
        (store / EMBEDDINGS).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        problems = found(store)
        assert problems, place
        assert all(problem.startswith(f"{EMBEDDINGS}: ") for problem in problems), problems
        assert "sha256 must be" in problems[0]


def test_a_part_cut_short_and_a_part_gone(store: Path) -> None:
    data = (store / EMBEDDINGS).read_bytes()
    (store / EMBEDDINGS).write_bytes(data[:-20])
    (store / "pairs/pairs-g000-00002.parquet").unlink()
    problems = found(store)
    assert f"{EMBEDDINGS}: must have {len(data):,} bytes, found {len(data) - 20:,}" in problems
    assert any(one.startswith(f"{EMBEDDINGS}: must be a whole Parquet file") for one in problems)
    assert "pairs/pairs-g000-00002.parquet: must exist, not found" in problems
    assert len(problems) == 3


def test_swapped_vectors_are_found_by_the_content_even_when_the_file_is_listed_anew(store: Path) -> None:
    write_part(store / EMBEDDINGS, with_vectors(swap), honest_footer=False)
    assert any("bytes, found" in one for one in found(store))
    parts = _parts(store / "images/stand-in")
    data = (store / EMBEDDINGS).read_bytes()
    parts[1] = dataclasses.replace(parts[1], bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    (store / "images/stand-in/parts.parquet").write_bytes(encode_table(parts_to_table(parts)))
    (problem,) = found(store)
    assert problem.startswith(f"{EMBEDDINGS}: content must be")
    parts[1] = _entry(store / "images/stand-in", parts[1])
    (store / "images/stand-in/parts.parquet").write_bytes(encode_table(parts_to_table(parts)))
    problems = found(store)
    assert any(one.startswith(f"{OWN}: content_id must be") for one in problems)
    assert any(one.startswith(f"{EMBEDDINGS}: footer: content must be") for one in problems)


# Whoever made these took care that sizes, digests, footers and manifests agree: only the rows tell.
HIDDEN = {
    "nan": (
        EMBEDDINGS,
        with_vectors(lambda v: np.where(np.arange(4)[:, None] == 2, np.nan, v).astype(np.float32)),
        f"{EMBEDDINGS}: vectors must be finite, found 1 that are not, id 'square-06' first",
    ),
    "infinity": (
        EMBEDDINGS,
        lambda table: set_column("norm", put(1, np.inf))(
            with_vectors(lambda v: np.where(np.arange(4)[:, None] == 1, np.inf, v).astype(np.float32))(table)
        ),
        f"{EMBEDDINGS}: vectors must be finite, found 1 that are not, id 'square-05' first",
    ),
    "zero": (
        EMBEDDINGS,
        lambda table: set_column("norm", put(3, 0.0))(
            with_vectors(lambda v: v * (np.arange(4) != 3)[:, None].astype(np.float32))(table)
        ),
        f"{EMBEDDINGS}: vectors must not be zero, found 1, id 'square-07' first",
    ),
    "norm": (
        EMBEDDINGS,
        set_column("norm", put(0, 2.001)),
        f"{EMBEDDINGS}: norms must be those of the vectors, found 1 that are not, id 'square-04' first: "
        "norm 2.001, vector of length 2",
    ),
    "twice in a part": (
        EMBEDDINGS,
        lambda table: pa.concat_tables([table, table.slice(3, 1)]),
        f"{EMBEDDINGS}: ids must stand once, found 1 repeated, 'square-07' first",
    ),
    "id without pairs": (
        EMBEDDINGS,
        set_column("id", put(0, "stranger")),
        f"{EMBEDDINGS}: ids must be in pairs-g000-00001.parquet, found 1 that are not, 'stranger' first",
    ),
    "other image": (
        PAIRS,
        set_column("image_sha256", put(2, b"\x07" * 32)),
        f"{EMBEDDINGS}: images must be those of pairs-g000-00001.parquet, found 1 of another sha256, "
        "id 'square-06' first",
    ),
    "bad id": (
        PAIRS,
        set_column("id", put(1, "a\nb")),
        f"{PAIRS}: ids must be valid, found 1 that are not, 'a\\nb' first",
    ),
    "view": (
        EMBEDDINGS,
        set_column("view", put(1, 1)),
        f"{EMBEDDINGS}: must hold views 0 to 0 of every image once, together; found otherwise",
    ),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_rows_that_can_not_be_are_found_however_well_hidden(store: Path, case: str) -> None:
    file, change, expected = HIDDEN[case]
    write_part(store / file, change)
    relist(store)
    problems = found(store)
    assert expected in problems
    assert {one.split(":")[0] for one in problems} <= {EMBEDDINGS, PAIRS, OWN}


def test_a_norm_within_float16_rounding_passes(embed: Any, colour_store: Path, tmp_path: Path) -> None:
    flags = ["--input", f"{colour_store.parent}/input", "--format", "parquet", "--tower-id", "half"]
    assert embed(*flags, "--output", f"{tmp_path}/store") == 0
    assert found(tmp_path / "store") == []
    part = tmp_path / "store/images/half/embeddings-g000-00000.parquet"
    write_part(part, set_column("norm", lambda norms: [norm * (1 + 2**-9) for norm in norms]))
    assert any("norms must be those" in problem for problem in found(tmp_path / "store"))


def test_an_id_that_two_parts_hold_is_found(store: Path) -> None:
    """Each part is sound by itself; only the whole store tells."""
    for file in (EMBEDDINGS, PAIRS):
        write_part(store / file, set_column("id", put(0, "square-01")))
    relist(store)
    assert found(store) == [
        "images/stand-in/excluded.parquet: must leave id 'square-01' in one part, found it in "
        "embeddings-g000-00000.parquet, embeddings-g000-00001.parquet"
    ]


def test_an_id_that_was_excluded_is_no_problem_until_the_exclusion_goes(
    embed: Any, colour_rows: list[dict[str, Any]], write_rows: Any, tmp_path: Path
) -> None:
    rows = [dict(row) for row in colour_rows[:8]]
    rows[5]["key"] = rows[1]["key"]
    rows[6] |= {"key": rows[2]["key"], "image": b"x"}
    rows[3]["image"] = b"x"
    for part in range(2):
        write_rows(tmp_path / "input" / f"{part}.parquet", rows[4 * part : 4 * part + 4])
    flags = ["--input", f"{tmp_path}/input", "--format", "parquet", "--tower-id", "t", "--unit-bytes", "1"]
    store = tmp_path / "store"
    assert embed(*flags, "--output", str(store)) == 0
    assert found(store) == []
    excluded = pq.read_table(store / "images/t/excluded.parquet")
    assert len(excluded) == 2
    (store / "images/t/excluded.parquet").write_bytes(encode_table(excluded.slice(0, 0)))
    problems = found(store)
    assert any("must leave id 'square-01' in one part" in one for one in problems)
    assert any("content_id must be" in one for one in problems)
    assert any("counts.duplicate must be 0 by its files, found 2" in one for one in problems)


@pytest.mark.parametrize(
    ("file", "fields", "expected"),
    [
        (OWN, {"content_id": "0" * 64}, "content_id must be"),
        (OWN, {"run_id": "0" * 64}, "run_id must be"),
        (OWN, {"space_id": "0" * 64}, "space_id must be the digest of its tower's facts"),
        (OWN, {"tower_id": "other"}, "tower_id must be stand-in by its files, found other"),
        (OWN, {"pairs": "0" * 64}, "pairs must be"),
        (OWN, {"plan": "0" * 64}, "plan must be"),
        (OWN, {"parts": 2}, "parts must be 3 by its files, found 2"),
        (OWN, {"views": 2}, "run_id must be"),
        (
            OWN,
            {"counts": {"seen": 13, "embedded": 13, "failed": 0, "duplicate": 0}},
            "counts.embedded must be 12",
        ),
        (
            OWN,
            {"counts": {"seen": 13, "embedded": 12, "failed": 0, "duplicate": 0}},
            "counts.seen must be 12",
        ),
        (
            OWN,
            {"counts": {"seen": 13, "embedded": 12, "failed": 1, "duplicate": 0}},
            "counts.failed must be 0",
        ),
        (OWN, {"failures": {"empty": 1}}, "failures must be {} by its files, found {'empty': 1}"),
        (OWN, {"version": 9}, "reads version 1, found 9"),
        ("pairs/manifest.json", {"content": "0" * 64}, "content must be"),
        ("pairs/manifest.json", {"plan": "0" * 64}, "plan must be"),
        ("pairs/manifest.json", {"parts": 4}, "parts must be 3"),
        (
            "pairs/manifest.json",
            {"counts": {"records": 99}},
            "counts.records must be 12 by its files, found 99",
        ),
        ("pairs/manifest.json", {"format": "other"}, "format must be"),
    ],
)
def test_an_edited_manifest_is_found(store: Path, file: str, fields: dict[str, Any], expected: str) -> None:
    edit(store / file, **fields)
    assert any(one.startswith(f"{file}: ") and expected in one for one in found(store)), found(store)


def test_an_edited_tower_is_found_even_when_its_digests_were_made_anew(store: Path) -> None:
    manifest = ImagesManifest.from_json((store / OWN).read_bytes())
    tower = dataclasses.replace(manifest.tower, weights="f" * 64)
    identity = {"plan": manifest.plan, "dtype": manifest.dtype, "views": manifest.views}
    run_id = sha256_json({**identity, "space_id": tower.space_id})
    edit(store / OWN, tower=tower.to_json(), space_id=tower.space_id, run_id=run_id)
    assert [one.split(":")[2] for one in found(store)] == [
        f" run_id must be {run_id[:12]}…, found {manifest.run_id[:12]}…"
    ] * 3


@pytest.mark.parametrize(
    "file",
    [
        "plan.parquet",
        "pairs/parts.parquet",
        "pairs/manifest.json",
        "images/stand-in/parts.parquet",
        "images/stand-in/excluded.parquet",
        "images/stand-in/failures.parquet",
        "images/stand-in/manifest.json",
    ],
)
def test_every_other_file_is_read_too(store: Path, file: str) -> None:
    (store / file).write_bytes(b"PAR1 and then nothing")
    assert any(one.startswith(f"{file}: must be readable") or "must list" in one for one in found(store))
    if file != OWN:  # without it there is no finished tower
        (store / file).unlink()
        assert any(
            (one.startswith(f"{file}: ") and "not found" in one.lower()) or "No such" in one
            for one in found(store)
        )


def test_a_file_that_no_list_names_is_no_damage(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(store / EMBEDDINGS, store / "images/stand-in/embeddings-g009-00000.parquet")
    assert main(["verify", str(store)]) == 0
    assert "embeddings-g009-00000.parquet: stands there and is not listed" in capsys.readouterr().out


def test_trouble_with_the_storage_is_not_called_damage(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Folder.read

    def read(folder: Folder, name: str) -> bytes:
        if name == "embeddings-g000-00001.parquet":
            raise ConnectionResetError(104, "Connection reset by peer")
        return real(folder, name)

    monkeypatch.setattr(Folder, "read", read)
    assert main(["verify", str(store)]) == 2
    printed = capsys.readouterr()
    assert "Connection reset" in printed.err
    assert "delete" not in printed.out + printed.err


def test_usage(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(["verify", str(store), "--tower_id", "other"]) == 2
    assert "must hold a finished tower 'other', found stand-in" in capsys.readouterr().err
    (store / OWN).unlink()
    assert main(["verify", str(store)]) == 2
    assert "must hold a finished tower, found none" in capsys.readouterr().err


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "embeddings part flipped": lambda store: _flip(store / EMBEDDINGS, 200),
    "embeddings part gone": lambda store: (store / EMBEDDINGS).unlink(),
    "norms written by hand": lambda store: write_part(store / EMBEDDINGS, set_column("norm", put(0, 9.0))),
    "pairs part flipped": lambda store: _flip(store / PAIRS, 200),
    "pairs part cut short": lambda store: (store / PAIRS).write_bytes((store / PAIRS).read_bytes()[:-9]),
    "pairs of another image": lambda store: (
        write_part(store / PAIRS, set_column("image_sha256", put(2, b"\x07" * 32))),
        relist(store),
    ),
    "manifest edited": lambda store: edit(store / OWN, content_id="0" * 64),
    "exclusions gone": lambda store: (store / "images/stand-in/excluded.parquet").unlink(),
    "pairs manifest edited": lambda store: edit(store / "pairs/manifest.json", content="0" * 64),
    "plan cut short": lambda store: (store / "plan.parquet").write_bytes(b"PAR1"),
}


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x55
    path.write_bytes(data)


def _tables(store: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(store)): pq.read_table(path).to_pylist()
        for path in store.rglob("*.parquet")
        if path.name != "parts.parquet"  # sizes of files may differ
    } | {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("manifest.json")}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_mended_by_deleting_what_it_says_and_embedding_again(
    case: str,
    store: Path,
    colour_store: Path,
    stand_in_tower: list[int],
    embed: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    DAMAGE[case](store)
    capsys.readouterr()
    assert main(["verify", str(store)]) == 3
    printed = capsys.readouterr().out
    assert "lit-embed" in printed
    listed = [
        line.strip() for line in printed[printed.index("delete") :].splitlines() if line.startswith("  ")
    ]
    assert OWN in listed
    assert (EMBEDDINGS in listed) == case.startswith(("embeddings", "norms", "pairs of"))
    assert (PAIRS in listed) == case.startswith(("pairs part", "pairs of"))
    for file in listed:
        (store / file).unlink(missing_ok=True)
    again = [
        *("--input", f"{colour_store.parent}/input", "--format", "parquet", "--label-column", "label"),
        *("--tower-id", "stand-in", "--dtype", "float32", "--unit-bytes", "1", "--output", str(store)),
    ]
    stand_in_tower.clear()
    assert embed(*again) == 0
    assert len(stand_in_tower) == case.startswith(
        ("embeddings", "norms", "pairs part", "pairs of")
    )  # one unit of three, or none
    assert _tables(store) == _tables(colour_store)
    assert main(["verify", str(store)]) == 0


def test_a_flipped_byte_needs_no_more_than_the_manifest_deleted(
    store: Path, colour_store: Path, stand_in_tower: list[int], embed: Any
) -> None:
    place = pq.ParquetFile(store / EMBEDDINGS).metadata.row_group(0).column(4).data_page_offset
    _flip(store / EMBEDDINGS, place + 60)  # inside the vectors
    (store / OWN).unlink()
    again = [
        *("--input", f"{colour_store.parent}/input", "--format", "parquet", "--label-column", "label"),
        *("--tower-id", "stand-in", "--dtype", "float32", "--unit-bytes", "1", "--output", str(store)),
    ]
    stand_in_tower.clear()
    assert embed(*again) == 0
    assert len(stand_in_tower) == 1
    assert found(store) == []
    assert _tables(store) == _tables(colour_store)
