"""Input, weights, receipts and store in memory, on gs:// and on s3://: the same tables as on the local disk."""

import json
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lit_precompute.attempt import Attempt, died
from lit_precompute.lease import Lease
from lit_precompute.publish import publish, remove, remove_folder, replace
from schemas.storage import Folder, filesystem
from schemas.store import open_store
from tests.conftest import _install_stand_in
from tests.pipelines.stumbling_proxy import FAULTS, StumblingProxy

Rows = list[dict[str, Any]]
BUCKET = "lit-precompute-test"


@dataclass(frozen=True)
class Place:
    """Somewhere to keep files.

    Attributes:
        url: a folder of this test's own.
        options: fsspec options by protocol.
    """

    url: str
    options: dict[str, dict[str, Any]]

    def folder(self, name: str = "folder") -> Folder:
        return Folder(f"{self.url}/{name}", self.options)

    def put(self, source: Path, name: str) -> str:
        fs, path = filesystem(f"{self.url}/{name}", self.options)
        fs.pipe_file(path, source.read_bytes())
        return f"{self.url}/{name}"


@pytest.fixture(params=["memory", "gs", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    name = f"{tmp_path.parent.name}-{tmp_path.name}"  # of this test alone
    if request.param == "memory":
        return Place(f"memory://{name}", {})
    return Place(
        f"{request.param}://{BUCKET}/{name}", {request.param: request.getfixturevalue(request.param)}
    )


@pytest.fixture(scope="module")
def squares(
    tmp_path_factory: pytest.TempPathFactory, colour_rows: Rows, write_rows: Callable[..., Path]
) -> list[Path]:
    """Read only."""
    rows = [dict(row) for row in colour_rows]
    rows[9]["key"] = rows[2]["key"]  # an id taken in an earlier unit
    rows[5]["image"] = b"no image"
    folder = tmp_path_factory.mktemp("input")
    return [write_rows(folder / f"{part}.parquet", rows[4 * part : 4 * part + 4]) for part in range(3)]


@pytest.fixture
def stored_tower(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Adds `--tower stored`: the stand-in tower with its features scaled by the checkpoint's one number."""
    return _install_stored(monkeypatch)


def _install_stored(patch: pytest.MonkeyPatch) -> list[int]:
    from dataclasses import replace as changed

    from lit_precompute import towers
    from lit_precompute.towers.tower import RandomWeights

    calls = _install_stand_in(patch)

    def build(config: Any, weights: Any) -> Any:
        tower = towers.TOWERS["stand-in"](config, RandomWeights(0))
        info = changed(tower.info, tower="stored", weights=weights.sha256)
        scale = weights.tensors["scale"]
        return changed(tower, info=info, forward=lambda params, pixels: scale * tower.forward(params, pixels))

    patch.setitem(towers.TOWERS, "stored", build)
    return calls


def embed(source: str, checkpoint: str, store: str, *more: str) -> int:
    from pipelines.embed import main

    flags = "--format parquet --label-column label --unit-bytes 1 --tower stored --tower-id t --batch-size 4"
    places = ["--input", source, "--checkpoint", checkpoint, "--output", store]
    return main([*places, *flags.split(), *more])


def contents(folder: Folder) -> dict[str, Any]:
    """Every file of a store by name: rows for Parquet, else None; what the places of files decide left out."""
    fs, found = folder.fs, {}
    for path in sorted(fs.find(folder.root)):
        name = path.removeprefix(folder.root).strip("/")
        found[name] = None
        if name.endswith(".parquet"):
            with fs.open(path, "rb") as file:
                table = pq.read_table(file)
            found[name] = table.drop_columns([c for c in ("path", "version") if c in table.column_names])
            found[name] = found[name].drop_columns(
                [c for c in ("bytes", "sha256") if c in table.column_names]
            )
            found[name] = found[name].to_pylist()
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    folder = tmp_path_factory.mktemp("weights")
    np.savez(folder / "scale.npz", scale=np.float32(2.0))
    return folder / "scale.npz"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, squares: list[Path], weights: Path) -> Folder:
    """The store a run on the local disk makes. Read only."""
    store = str(tmp_path_factory.mktemp("local") / "store")
    with pytest.MonkeyPatch.context() as patch:
        _install_stored(patch)
        assert embed(str(squares[0].parent), str(weights), store) == 0
    return Folder(store)


def test_a_store_elsewhere_equals_the_local_one_and_is_trained_on(
    place: Place,
    local: Folder,
    squares: list[Path],
    weights: Path,
    stored_tower: list[int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in squares:
        place.put(path, f"input/{path.name}")
    checkpoint = place.put(weights, "scale.npz")
    options = tmp_path / "options.json"
    options.write_text(json.dumps(place.options))
    store, more = f"{place.url}/store", ("--storage-options", str(options))

    assert embed(f"{place.url}/input", checkpoint, store, *more) == 0
    made = place.folder("store")
    assert contents(made) == contents(local)
    assert not made.exists("images/t/_receipts")
    ours, theirs = (
        open_store(path, options).images("t").manifest
        for path, options in ((store, place.options), (local.path, {}))
    )
    assert (ours.space_id, ours.content_id, ours.counts) == (
        theirs.space_id,
        theirs.content_id,
        theirs.counts,
    )

    stored_tower.clear()
    assert embed(f"{place.url}/input", checkpoint, store, *more) == 0  # nothing left to do
    remove(made.child("images").child("t"), "manifest.json")
    remove(made.child("images").child("t"), "embeddings-g000-00001.parquet")
    assert embed(f"{place.url}/input", checkpoint, store, *more) == 0
    assert len(stored_tower) == 1  # the other units' parts were found
    assert contents(made) == contents(local)

    _train_and_evaluate(store, more, tmp_path)
    printed = capsys.readouterr()
    assert "secret" not in (printed.out + printed.err + made.read("images/t/run.json").decode()).replace(
        str(tmp_path), ""
    )


@pytest.mark.usefixtures("stored_tower")
@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_server_that_fails_one_request_in_ten_costs_a_bounded_number_of_requests(
    scheme: str,
    request: pytest.FixtureRequest,
    local: Folder,
    squares: list[Path],
    weights: Path,
    tmp_path: Path,
) -> None:
    """429, 503, connections dropped before the request was heard and after it was carried out."""
    server = request.getfixturevalue(scheme)
    with StumblingProxy(server["endpoint_url"]) as proxy:
        name = f"{tmp_path.parent.name}-{tmp_path.name}"
        place = Place(f"{scheme}://{BUCKET}/{name}", {scheme: {**server, "endpoint_url": proxy.url}})
        for path in squares:
            place.put(path, f"input/{path.name}")
        checkpoint = place.put(weights, "scale.npz")
        options = tmp_path / "options.json"
        options.write_text(json.dumps(place.options))

        def requests(store: str) -> int:
            before = proxy.requests
            arguments = (f"{place.url}/input", checkpoint, f"{place.url}/{store}")
            assert embed(*arguments, "--storage-options", str(options)) == 0
            return proxy.requests - before

        undisturbed = requests("undisturbed")
        proxy.percent, proxy.seed = 10, 1
        disturbed = requests("disturbed")
        proxy.percent = 0
        assert contents(place.folder("disturbed")) == contents(local)
    assert set(proxy.faults) == set(FAULTS)
    assert 0.04 * disturbed < proxy.faults.total() < 0.2 * disturbed
    assert disturbed < 1.5 * undisturbed


def _train_and_evaluate(store: str, more: tuple[str, ...], tmp_path: Path) -> None:
    from trainer import evaluate, train

    tiny = "--text-width 16 --text-depth 1 --text-heads 2 --text-mlp 16 --vocab-size 64 --max-text-length 6"
    usual = f"--batch-size 4 --steps 2 --seed 1 --no-tensorboard {tiny}"
    spool = ("--spool-dir", f"{tmp_path}/spool")
    assert train.main(["--store", store, "--output", f"{tmp_path}/run", *usual.split(), *spool, *more]) == 0
    command = ["retrieval", "--run", f"{tmp_path}/run", "--store", store]
    assert evaluate.main([*command, "--output", f"{tmp_path}/report", *more]) == 0


def test_the_first_of_many_wins(place: Place) -> None:
    folder = place.folder()
    start, won = threading.Barrier(6), []

    def attempt(name: str) -> None:
        start.wait()
        if publish(folder, "part", name.encode() * 1000):
            won.append(name)

    if "memory" not in place.url:  # which is not atomic between threads, and for tests alone
        threads = [threading.Thread(target=attempt, args=(str(n),)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert folder.read("part") == won[0].encode() * 1000
    publish(folder, "part", b"first")
    before = folder.read("part")
    assert not publish(folder, "part", b"late")
    assert folder.read("part") == before


def test_what_others_write_is_seen_at_once(place: Place) -> None:
    ours, scheme = place.folder(), place.url.partition("://")[0]
    assert (ours.sizes(), ours.folders(), ours.is_folder(), ours.size("a")) == ({}, [], False, None)
    theirs = fsspec.filesystem(scheme, skip_instance_cache=True, **place.options.get(scheme, {}))
    replace(ours, "a", b"1")
    assert ours.sizes() == {"a": 1}
    theirs.pipe_file(ours.at("b"), b"22")
    theirs.pipe_file(ours.at("a"), b"333")
    theirs.pipe_file(ours.at("below/c"), b"")
    assert ours.size("b") == 2
    assert ours.exists("b")
    assert ours.exists("below")
    assert ours.read("a") == b"333"
    assert ours.sizes() == {"a": 3, "b": 2}
    assert ours.folders() == ["below"]
    theirs.rm_file(ours.at("b"))
    assert not ours.exists("b")
    remove(ours, "b")
    remove_folder(ours.child("below"))
    assert not ours.exists("below")
    remove_folder(ours)
    remove_folder(ours)
    assert not ours.is_folder()


def test_one_launch_at_a_time(place: Place) -> None:
    folder = place.folder()
    with Lease(folder), pytest.raises(ValueError, match="only one launch may work here"), Lease(folder):
        pass
    with Lease(folder):
        pass
    assert folder.sizes() == {}


def test_the_mark_of_a_dead_attempt_is_found_from_another_machine(place: Place) -> None:
    with Attempt(place.folder(), "g000-00001") as first:
        assert not first.after_death
    assert place.folder().sizes() == {}
    Attempt(place.folder(), "g000-00001").__enter__()  # and the process dies
    assert died(place.folder()) == ["g000-00001"]
    with Attempt(place.folder(), "g000-00001") as second, Attempt(place.folder(), "g000-00002") as other:
        assert second.after_death
        assert not other.after_death
    assert died(place.folder()) == []


class StumblingFileSystem(MemoryFileSystem):
    """Fails a share of the calls, before or after it did what was asked; which, the seed decides."""

    protocol = "stumbling"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    seed = 0
    percent = 0
    broken: Callable[[str, str], bool] = staticmethod(lambda method, path: False)
    calls: Counter[tuple[str, str]] = Counter()  # noqa: RUF012
    stumbles = 0
    lock = threading.Lock()
    inside = threading.local()

    @classmethod
    def around(cls, method: str) -> None:
        real = getattr(MemoryFileSystem, method)

        def call(self: Any, path: str, *arguments: Any, **named: Any) -> Any:
            if getattr(cls.inside, "busy", False):  # one call of ours makes others within
                return real(self, path, *arguments, **named)
            before, after = cls.draw(method, str(path))
            if before:
                raise ConnectionResetError("the connection dropped")
            cls.inside.busy = True
            try:
                value = real(self, path, *arguments, **named)
            finally:
                cls.inside.busy = False
            if after:
                raise RuntimeError("503: the answer was lost")
            return value

        setattr(cls, method, call)

    @classmethod
    def draw(cls, method: str, path: str) -> tuple[bool, bool]:
        with cls.lock:
            cls.calls[method, path] += 1
            number = zlib.crc32(f"{cls.seed} {method} {path} {cls.calls[method, path]}".encode())
            broken, fails = cls.broken(method, path), number % 100 < cls.percent
            cls.stumbles += broken or fails
        before = number // 100 % 2 == 0
        return broken or (fails and before), fails and not before


for _method in ("cat_file", "pipe_file", "info", "ls", "find", "open", "rm_file", "rm"):
    StumblingFileSystem.around(_method)


@pytest.fixture
def stumbling(monkeypatch: pytest.MonkeyPatch) -> type[StumblingFileSystem]:
    fsspec.register_implementation("stumbling", StumblingFileSystem, clobber=True)
    monkeypatch.setattr("schemas.retries.FIRST_WAIT", 0.001)
    for name, value in {"store": {}, "pseudo_dirs": [""], "calls": Counter(), "stumbles": 0}.items():
        monkeypatch.setattr(StumblingFileSystem, name, value)
    for name in ("seed", "percent", "broken"):
        monkeypatch.setattr(StumblingFileSystem, name, vars(StumblingFileSystem)[name])
    return StumblingFileSystem


@pytest.mark.usefixtures("stored_tower")
@pytest.mark.parametrize("seed", [1, 2])
def test_storage_that_fails_one_call_in_five_costs_nothing_but_time(
    seed: int, stumbling: type[StumblingFileSystem], local: Folder, squares: list[Path], weights: Path
) -> None:
    place = Place("stumbling://place", {})
    for path in squares:
        place.put(path, f"input/{path.name}")
    checkpoint = place.put(weights, "scale.npz")
    stumbling.calls.clear()
    stumbling.seed, stumbling.percent = seed, 20
    assert embed("stumbling://place/input", checkpoint, "stumbling://place/store") == 0
    total = stumbling.calls.total()
    assert 0.1 * total < stumbling.stumbles < 0.35 * total
    stumbling.percent = 0
    assert contents(place.folder("store")) == contents(local)


@pytest.mark.usefixtures("stored_tower")
def test_storage_that_stays_broken_ends_the_unit_within_bounds_and_the_next_run_mends_it(
    stumbling: type[StumblingFileSystem],
    local: Folder,
    squares: list[Path],
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = Place("stumbling://place", {})
    monkeypatch.setattr("lit_precompute.embed_unit.READ_ATTEMPTS", 2)
    part = "embeddings-g000-00001.parquet"
    stumbling.broken = staticmethod(lambda method, path: method == "pipe_file" and path.endswith(part))
    arguments = (str(squares[0].parent), str(weights), "stumbling://place/store")
    assert embed(*arguments) == 3
    assert "unit g000-00001: OSError" in capsys.readouterr().out
    assert sum(n for (method, path), n in stumbling.calls.items() if path.endswith(part)) < 60
    stumbling.broken = staticmethod(lambda method, path: False)
    assert embed(*arguments) == 0
    assert contents(place.folder("store")) == contents(local)


def test_training_reads_a_remote_store_in_processes_of_its_own_and_names_a_damaged_shard(
    place: Place, colour_store: Path, tmp_path: Path
) -> None:
    from trainer.data.spool import spool_images
    from trainer.data.stores import open_stores

    for path in (path for path in colour_store.rglob("*") if path.is_file()):
        place.put(path, f"colours/{path.relative_to(colour_store)}")
    (ours,) = open_stores([f"{place.url}/colours"], None, place.options)
    (theirs,) = open_stores([str(colour_store)], None, {})
    folder, name = ours.images.folder, ours.images.parts[1].name
    whole, workers = folder.read(name), None if "memory" in place.url else 2

    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    replace(folder, name, bytes(damaged))
    with pytest.raises(ValueError, match=rf"{name}: its bytes must have sha256"):
        spool_images(ours.images, ours.source, tmp_path / "spool", workers)
    remove(folder, name)
    with pytest.raises(ValueError, match=rf"{name}: missing"):
        spool_images(ours.images, ours.source, tmp_path / "spool", workers)
    replace(folder, name, whole)
    found = spool_images(ours.images, ours.source, tmp_path / "spool", workers)
    expected = spool_images(theirs.images, theirs.source, tmp_path / "expected", 1)
    assert found.facts == expected.facts
    for column in expected.arrays:
        np.testing.assert_array_equal(found[column], expected[column])
