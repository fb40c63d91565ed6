"""`lit-embed` as a user runs it: what stands in the store afterwards, whatever happened on the way."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lit_precompute.decode import DecodeLimits, decode
from lit_precompute.preprocess import Preprocess
from schemas.manifest import ImagesManifest
from schemas.store import open_store

REPO = Path(__file__).resolve().parents[2]
Rows = list[dict[str, Any]]


def files_of(store: Path) -> dict[str, Any]:
    """Every file of a store by name: tables for Parquet, bytes otherwise; run.json, which holds times, apart."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in store.rglob("*") if p.is_file() and p.name != "run.json"):
        name = str(path.relative_to(store))
        found[name] = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else path.read_bytes()
    return found


def manifest_of(store: Path, tower_id: str = "t") -> ImagesManifest:
    return ImagesManifest.from_json((store / "images" / tower_id / "manifest.json").read_bytes())


def expected_features(image: bytes, resize: str = "crop") -> np.ndarray:
    """The stand-in tower's words about an image, worked out here."""
    pixels = Preprocess("pillow", 8, resize)(decode(image, DecodeLimits()))
    red, green, blue = pixels.astype(np.float64).mean((0, 1))
    angle = np.arctan2(np.sqrt(3) / 2 * (green - blue), red - (green + blue) / 2)
    turns = np.arange(1, 5) * angle
    return np.concatenate([np.cos(turns), np.sin(turns)])


@pytest.fixture
def squares(tmp_path: Path, colour_rows: Rows, write_rows: Callable[..., Path]) -> Path:
    for part in range(3):
        write_rows(tmp_path / "input" / f"squares-{part}.parquet", colour_rows[4 * part : 4 * part + 4])
    return tmp_path / "input"


def arguments(source: Path, store: Path, *more: str) -> list[str]:
    return [
        *("--input", str(source), "--format", "parquet", "--label-column", "label", "--unit-bytes", "1"),
        *("--tower-id", "t", "--batch-size", "5", "--output", str(store), *more),
    ]


def test_every_image_has_its_own_vector_and_caption(
    squares: Path,
    tmp_path: Path,
    colour_rows: Rows,
    embed: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = tmp_path / "store"
    assert embed(*arguments(squares, store, "--dtype", "float32")) == 0
    images = open_store(str(store)).images("t")
    images.check()
    joined = list(images.iter_joined(["captions", "labels", "width"]))
    rows = {row["key"]: row for row in colour_rows}
    assert [id for part in joined for id in part.ids.to_pylist()] == list(rows)
    for part in joined:
        for place, id in enumerate(part.ids.to_pylist()):
            row, pair = rows[id], part.pairs.slice(place, 1).to_pylist()[0]
            assert pair["id"] == id
            assert pair["captions"] == [{"text": row["caption"], "kind": "caption", "lang": None}]
            assert (pair["labels"], pair["width"]) == ([row["label"]], 16)
            assert part.image_sha256[place].tobytes() == hashlib.sha256(row["image"]).digest()
            np.testing.assert_allclose(part.embeddings[place, 0], expected_features(row["image"]), atol=1e-6)
    printed = capsys.readouterr().out
    assert "images     12 seen = 12 embedded + 0 failed + 0 with an id taken before" in printed
    assert "captions   12 of 12 images" in printed
    assert f"store      {store} (tower t): complete" in printed
    assert "images/s" in printed
    assert not (store / "images" / "t" / "_receipts").exists()


def test_batches_are_of_one_shape_and_full(
    squares: Path, tmp_path: Path, stand_in_tower: list[int], embed: Any
) -> None:
    assert embed(*arguments(squares, tmp_path / "store", "--unit-bytes", "100000")) == 0
    assert stand_in_tower == [5, 5, 5]  # 12 images in one unit


def test_the_same_store_whatever_the_batch_size(
    squares: Path, tmp_path: Path, embed: Callable[..., int]
) -> None:
    assert embed(*arguments(squares, tmp_path / "one", "--batch-size", "1")) == 0
    assert embed(*arguments(squares, tmp_path / "two", "--batch-size", "7", "--decode-threads", "5")) == 0
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_second_run_does_nothing(
    squares: Path, tmp_path: Path, stand_in_tower: list[int], embed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(*arguments(squares, tmp_path / "store")) == 0
    before = files_of(tmp_path / "store")
    stand_in_tower.clear()
    capsys.readouterr()
    assert embed(*arguments(squares, tmp_path / "store")) == 0
    assert stand_in_tower == []
    assert files_of(tmp_path / "store") == before
    assert "12 embedded" in capsys.readouterr().out


def test_a_second_tower_adds_a_folder_and_leaves_the_pairs(squares: Path, tmp_path: Path, embed: Any) -> None:
    store = tmp_path / "store"
    assert embed(*arguments(squares, store)) == 0
    before = files_of(store)
    assert embed(*arguments(squares, store, "--tower-id", "full", "--resize", "full")) == 0
    after = files_of(store)
    assert {name: after[name] for name in before} == before
    assert {Path(name).parts[:2] for name in set(after) - set(before)} == {("images", "full")}
    assert open_store(str(store)).tower_ids() == ["full", "t"]
    assert manifest_of(store).space_id != manifest_of(store, "full").space_id
    assert manifest_of(store).pairs == manifest_of(store, "full").pairs


def test_equal_options_in_another_folder_give_equal_digests(
    squares: Path, tmp_path: Path, embed: Any
) -> None:
    for name in ("one", "two"):
        assert embed(*arguments(squares, tmp_path / name)) == 0
    assert manifest_of(tmp_path / "one") == manifest_of(tmp_path / "two")


def test_another_job_in_the_same_folder_is_refused(
    squares: Path, tmp_path: Path, embed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(*arguments(squares, tmp_path / "store")) == 0
    before = files_of(tmp_path / "store")
    assert embed(*arguments(squares, tmp_path / "store", "--dtype", "float32", "--resize", "full")) == 2
    message = capsys.readouterr().err
    assert "dtype: the store has 'float16', this command gives 'float32'" in message
    assert "tower.preprocessing.resize: the store has 'crop', this command gives 'full'" in message
    assert "--tower-id" in message
    assert files_of(tmp_path / "store") == before


def test_changed_input_is_refused_and_named(
    squares: Path,
    tmp_path: Path,
    embed: Any,
    colour_rows: Rows,
    write_rows: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert embed(*arguments(squares, tmp_path / "store")) == 0
    write_rows(squares / "squares-1.parquet", colour_rows[:1])
    (squares / "squares-2.parquet").unlink()
    write_rows(squares / "squares-9.parquet", colour_rows[:1])
    assert embed(*arguments(squares, tmp_path / "store")) == 2
    message = capsys.readouterr().err
    assert "squares-1.parquet: size and version" in message
    assert "squares-2.parquet: planned, no longer there" in message
    assert "squares-9.parquet: not in the plan" in message


def test_a_second_tower_refuses_other_images_under_the_same_ids(
    squares: Path,
    tmp_path: Path,
    embed: Any,
    colour_rows: Rows,
    write_rows: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Size and time can be faked; the digest of the image can not."""
    store, file = tmp_path / "store", squares / "squares-1.parquet"
    assert embed(*arguments(squares, store)) == 0
    info = file.stat()
    swapped = [dict(row) for row in colour_rows[4:8]]
    swapped[1]["image"], swapped[2]["image"] = swapped[2]["image"], swapped[1]["image"]
    write_rows(file, swapped)
    file.write_bytes(file.read_bytes().ljust(info.st_size, b"\0")[: info.st_size])
    if file.stat().st_size != info.st_size or pq.ParquetFile(file).metadata.num_rows != 4:
        pytest.fail("the test's own file must keep its size")
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert embed(*arguments(squares, store, "--tower-id", "full", "--resize", "full")) == 2
    assert "pairs-g000-00001.parquet row 1: image of 'square-05' must be what the first tower saw" in (
        capsys.readouterr().out
    )
    assert not (store / "images" / "full" / "manifest.json").exists()


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_second_tower_says_that_a_pairs_part_is_damaged(
    squares: Path, tmp_path: Path, embed: Any, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert embed(*arguments(squares, store)) == 0
    part = store / "pairs" / "pairs-g000-00001.parquet"
    data = bytearray(part.read_bytes())
    data[40:90] = bytes(50)  # inside the first column's page
    part.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    assert embed(*arguments(squares, store, "--tower-id", "full", "--resize", "full")) == 2
    assert "pairs-g000-00001.parquet: must be the whole part" in capsys.readouterr().out


def test_bad_records_cost_themselves_alone(
    tmp_path: Path, colour_rows: Rows, write_rows: Any, embed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [dict(row) for row in colour_rows]
    rows[1]["image"] = rows[1]["image"][:40]
    rows[3]["image"] = b"<html>"
    rows[4]["image"] = None
    rows[5]["key"] = " "
    rows[6]["caption"] = None
    rows[8]["key"] = "square-07"
    write_rows(tmp_path / "input" / "x.parquet", rows)
    store = tmp_path / "store"
    assert embed(*arguments(tmp_path / "input", store)) == 0
    manifest = manifest_of(store)
    assert manifest.counts == {
        "seen": 12, "embedded": 7, "failed": 4, "duplicate": 1, "distinct_images": 7
    }  # fmt: skip
    assert manifest.failures == {"empty_id": 1, "missing": 1, "not_an_image": 1, "truncated": 1}
    failures = pq.read_table(store / "images" / "t" / "failures.parquet").to_pylist()
    assert [(f["id"], f["stage"], f["reason"], f["locator"]) for f in failures] == [
        ("square-01", "decode", "truncated", "x.parquet#1"),
        ("square-03", "decode", "not_an_image", "x.parquet#3"),
        ("square-04", "read", "missing", "x.parquet#4"),
        (None, "id", "empty_id", "x.parquet#5"),
    ]
    excluded = pq.read_table(store / "images" / "t" / "excluded.parquet").to_pylist()
    assert [(e["id"], e["part"], e["locator"]) for e in excluded] == [("square-07", None, "x.parquet#8")]
    (joined,) = open_store(str(store)).images("t").iter_joined(["captions"])
    kept = ["square-00", "square-02", "square-06", "square-07", "square-09", "square-10", "square-11"]
    assert joined.ids.to_pylist() == kept
    captions = {row["id"]: row["captions"] for row in joined.pairs.to_pylist()}
    assert captions["square-06"] == []
    assert captions["square-07"][0]["text"] == colour_rows[7]["caption"]  # the first row keeps the id
    assert "failed     empty_id 1, missing 1, not_an_image 1, truncated 1" in capsys.readouterr().out
    in_pairs = pq.read_table(store / "pairs" / "pairs-g000-00000.parquet").to_pylist()
    assert len(in_pairs) == 10  # failed images keep their texts; no id, no place
    assert {row["id"]: row["width"] for row in in_pairs}["square-01"] is None


def test_an_id_of_an_earlier_unit_keeps_it(
    tmp_path: Path, colour_rows: Rows, write_rows: Any, embed: Any
) -> None:
    rows = [dict(row) for row in colour_rows]
    rows[9]["key"] = rows[2]["key"]  # unit 2 and unit 0
    rows[5]["key"] = rows[1]["key"]  # unit 1 and unit 0, and this one fails
    rows[5]["image"] = b"x"
    for part in range(3):
        write_rows(tmp_path / "input" / f"{part}.parquet", rows[4 * part : 4 * part + 4])
    store = tmp_path / "store"
    assert embed(*arguments(tmp_path / "input", store, "--dtype", "float32")) == 0
    assert manifest_of(store).counts == {
        "seen": 12, "embedded": 10, "failed": 0, "duplicate": 2, "distinct_images": 10
    }  # fmt: skip
    excluded = pq.read_table(store / "images" / "t" / "excluded.parquet").to_pylist()
    assert [(e["id"], e["part"], e["kept_in"]) for e in excluded] == [
        (rows[1]["key"], "pairs-g000-00001.parquet", "pairs-g000-00000.parquet"),
        (rows[2]["key"], "pairs-g000-00002.parquet", "pairs-g000-00000.parquet"),
    ]
    joined = list(open_store(str(store)).images("t").iter_joined(["captions"]))
    found = {id: part for part in joined for id in part.ids.to_pylist()}
    assert [len(part.ids) for part in joined] == [4, 3, 3]
    place = found[rows[2]["key"]].ids.to_pylist().index(rows[2]["key"])
    np.testing.assert_allclose(
        found[rows[2]["key"]].embeddings[place, 0], expected_features(rows[2]["image"]), atol=1e-6
    )


def test_three_formats_give_the_same_vectors(
    tmp_path: Path, colour_rows: Rows, write_rows: Any, embed: Any
) -> None:
    write_rows(tmp_path / "parquet" / "x.parquet", colour_rows)
    (tmp_path / "folder").mkdir()
    (tmp_path / "tar").mkdir()
    with tarfile.open(tmp_path / "tar" / "x.tar", "w") as tar:
        for row in colour_rows:
            members = {
                ".png": row["image"],
                ".txt": row["caption"].encode(),
                ".cls": str(row["label"]).encode(),
            }
            for suffix, data in members.items():
                (tmp_path / "folder" / (row["key"] + suffix)).write_bytes(data)
                info = tarfile.TarInfo(row["key"] + suffix)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    found = {}
    for format, source in (("parquet", "parquet"), ("webdataset", "tar"), ("folder", "folder")):
        store = tmp_path / f"store-{format}"
        flags = [
            "--input",
            str(tmp_path / source),
            "--format",
            format,
            "--tower-id",
            "t",
            "--output",
            str(store),
        ]
        assert embed(*flags) == 0
        found[format] = [
            (id, part.embeddings[n, 0].tolist(), part.pairs["captions"][n].as_py()[0]["text"])
            for part in open_store(str(store)).images("t").iter_joined(["captions"])
            for n, id in enumerate(part.ids.to_pylist())
        ]
    assert found["parquet"] == found["webdataset"] == found["folder"]
    assert len(found["folder"]) == 12


def test_a_cut_off_tar_keeps_its_good_prefix(
    tmp_path: Path, colour_rows: Rows, embed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for row in colour_rows:
            info = tarfile.TarInfo(row["key"] + ".png")
            info.size = len(row["image"])
            tar.addfile(info, io.BytesIO(row["image"]))
    data = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(data[: 1024 * 5 + 512 + 10])  # inside the sixth image
    flags = ["--input", str(tmp_path / "x.tar"), "--format", "webdataset", "--tower-id", "t"]
    store = tmp_path / "store"
    assert embed(*flags, "--output", str(store)) == 3
    printed = capsys.readouterr().out
    assert "x.tar" in printed
    assert "--accept-damaged" in printed
    assert not (store / "images" / "t" / "manifest.json").exists()
    assert embed(*flags, "--output", str(store)) == 3  # no other result without being told
    assert embed(*flags, "--output", str(store), "--accept-damaged") == 0
    assert manifest_of(store).damaged == ["g000-00000"]
    (joined,) = open_store(str(store)).images("t").iter_joined()
    assert joined.ids.to_pylist() == [f"square-{n:02}" for n in range(5)]


def test_too_many_failures_stop_the_job(
    tmp_path: Path, colour_rows: Rows, write_rows: Any, embed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [dict(colour_rows[n % 12], key=str(n)) for n in range(1000)]
    for row in rows[::5]:
        row["image"] = b"no image"
    write_rows(tmp_path / "input" / "x.parquet", rows)
    flags = arguments(tmp_path / "input", tmp_path / "store")
    assert embed(*flags) == 4
    assert "--max-failure-rate" in capsys.readouterr().out
    assert embed(*flags, "--max-failure-rate", "0.2") == 0
    assert manifest_of(tmp_path / "store").counts == {
        "seen": 1000,
        "embedded": 800,
        "failed": 200,
        "duplicate": 0,
        "distinct_images": 12,
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "nowhere/*.parquet"], "nowhere"),
        (["--image-column", "picture"], "picture"),
        (["--tower", "no-such"], "--tower: must be one of"),
        (["--runer", "FnApiRunner"], "--runer: unknown; did you mean --runner"),
        (["--runner", "DaskRunner"], "DaskRunner is refused"),
        (["--checkpoint", "missing.npz"], "missing.npz"),
        (["--tower-id", "A/B"], "tower_id: must be"),
    ],
)
def test_refusals_say_what_to_do_and_write_nothing(
    squares: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.embed import main

    store = tmp_path / "store"
    base = arguments(squares, store, "--tower", "efficientnet-lite0", "--checkpoint", "random:0")
    assert main([*base, *flags]) == 2
    assert message in capsys.readouterr().err
    assert not store.exists()


def test_parts_cut_short_or_gone_are_made_again(squares: Path, tmp_path: Path, embed: Any) -> None:
    assert embed(*arguments(squares, tmp_path / "whole")) == 0
    store = tmp_path / "store"
    assert embed(*arguments(squares, store)) == 0
    folder = store / "images" / "t"
    (folder / "manifest.json").unlink()  # as if the run had stopped before the end
    (folder / "embeddings-g000-00000.parquet").unlink()
    part = folder / "embeddings-g000-00001.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    assert embed(*arguments(squares, store)) == 0
    assert files_of(store) == files_of(tmp_path / "whole")


def test_a_standing_part_is_adopted_not_computed_again(
    squares: Path, tmp_path: Path, stand_in_tower: list[int], embed: Any
) -> None:
    store = tmp_path / "store"
    assert embed(*arguments(squares, store)) == 0
    before = files_of(store)
    (store / "images" / "t" / "manifest.json").unlink()
    stand_in_tower.clear()
    assert embed(*arguments(squares, store)) == 0
    assert stand_in_tower == []
    assert files_of(store) == before


def test_planning_starts_no_backend(squares: Path, tmp_path: Path) -> None:
    """Workers may fork after the launcher has planned; a JAX backend would not survive that."""
    code = (
        "import sys\n"
        "from jax._src import xla_bridge\n"
        "import pipelines.embed as embed\n"
        "embed._work = lambda *a: print('backends', xla_bridge.backends_are_initialized())\n"
        "embed.main(sys.argv[1:])\n"
    )
    flags = arguments(
        squares, tmp_path / "store", "--tower", "efficientnet-lite0", "--checkpoint", "random:0"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], capture_output=True, text=True, cwd=REPO, check=False
    )
    assert "backends False" in done.stdout, done.stderr


def test_run_json_keeps_what_depends_on_time_and_machine(squares: Path, tmp_path: Path, embed: Any) -> None:
    assert embed(*arguments(squares, tmp_path / "store")) == 0
    facts = json.loads((tmp_path / "store" / "images" / "t" / "run.json").read_text())
    assert facts["started"] <= facts["ended"]
    assert facts["options"]["source"]["format"] == "parquet"
    assert set(facts["versions"]) == {"jax", "pyarrow", "pillow"}


def test_credentials_never_reach_the_store(
    squares: Path,
    tmp_path: Path,
    embed: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    secret = f"local://me:hunter2@{squares}"
    assert embed(*arguments(Path("X"), tmp_path / "store", "--input", secret)) in (0, 2)
    assert embed(*arguments(squares, tmp_path / "store", "--input", f"{squares}::{secret}")) in (0, 2)
    assert embed(*arguments(squares, tmp_path / "store")) == 0
    for path in (path for path in (tmp_path / "store").rglob("*") if path.is_file()):
        assert b"hunter" not in path.read_bytes(), path
    said = capsys.readouterr()
    assert "hunter" not in said.out + said.err


def test_images_larger_than_the_limits_are_never_decoded(tmp_path: Path, write_rows: Any, embed: Any) -> None:
    file = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(file, "PNG")
    write_rows(tmp_path / "input" / "x.parquet", [{"key": "bomb", "image": file.getvalue(), "caption": "b"}])
    flags = ["--input", str(tmp_path / "input"), "--format", "parquet", "--tower-id", "t"]
    assert embed(*flags, "--output", str(tmp_path / "store")) == 0
    assert manifest_of(tmp_path / "store").failures == {"too_many_pixels": 1}


def test_a_second_launch_on_the_same_folder_is_refused(
    squares: Path, tmp_path: Path, embed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from lit_precompute.lease import Lease
    from schemas.storage import Folder

    store = tmp_path / "store"
    with Lease(Folder(str(store / "images" / "t"))):
        assert embed(*arguments(squares, store)) == 2
        assert "only one launch may work here at a time" in capsys.readouterr().err
        assert not (store / "plan.parquet").exists()
    assert embed(*arguments(squares, store)) == 0


def test_underscores_and_hyphens_are_the_same_flag(squares: Path, tmp_path: Path, embed: Any) -> None:
    flags = [flag.replace("-", "_").replace("__", "--", 1) for flag in arguments(squares, Path("STORE"))]
    flags[flags.index("STORE")] = str(tmp_path / "store")
    assert "--unit_bytes" in flags
    flags[flags.index(str(squares).replace("-", "_"))] = str(squares)
    assert embed(*flags) == 0
