"""A run kept on object storage: copied out whole, fetched again where the local copy is gone."""

import json
import shutil

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from schemas.storage import Folder
from trainer.remote_run import COMPLETE, Mirror, fetch, is_remote, working_folder

URL = "memory://remote-run-test/run"


@pytest.fixture(autouse=True)
def empty():
    fs = MemoryFileSystem()
    if fs.exists("/remote-run-test"):
        fs.rm("/remote-run-test", recursive=True)


@pytest.mark.parametrize("protocol", ["gs", "s3"])
def test_the_same_on_object_storage(protocol, local, tmp_path, request):
    """Against emulators on this machine, where the extra test-remote is installed."""
    options = {protocol: request.getfixturevalue(protocol)}
    url = f"{protocol}://lit-precompute-test/{tmp_path.name}/run"
    Mirror(url, local, options).close()
    fetch(url, tmp_path / "elsewhere", options)
    assert files(tmp_path / "elsewhere") == {
        "config.json": "{}",
        "checkpoints/3/params/data": "params of 3",
        "checkpoints/6/params/data": "params of 6",
    }
    folder = Folder(url, options).child("checkpoints").child("6")
    folder.fs.rm_file(folder.at(COMPLETE))
    shutil.rmtree(local / "checkpoints" / "3")
    fetch(url, tmp_path / "other", options)
    assert not (tmp_path / "other" / "checkpoints" / "6").exists()
    Mirror(url, local, options).close()
    assert folder.exists(COMPLETE)
    assert Folder(url, options).child("checkpoints").folders() == ["6"]


@pytest.fixture
def local(tmp_path):
    """A run after step 6, whose checkpoint 7 is being written."""
    folder = tmp_path / "local"
    for step in ("3", "6", "7.orbax-checkpoint-tmp"):
        (folder / "checkpoints" / step / "params").mkdir(parents=True)
        (folder / "checkpoints" / step / "params" / "data").write_text(f"params of {step}")
    (folder / "config.json").write_text("{}")
    (folder / "metrics.tmp").write_text("half")
    return folder


def mirror(local):
    Mirror(URL, local).close()


def files(root):
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_what_is_whole_goes_out_and_comes_back(local, tmp_path):
    mirror(local)
    fetch(URL, tmp_path / "elsewhere")
    assert files(tmp_path / "elsewhere") == {
        "config.json": "{}",
        "checkpoints/3/params/data": "params of 3",
        "checkpoints/6/params/data": "params of 6",
    }
    listed = json.loads(Folder(URL).child("checkpoints").child("6").read(COMPLETE))
    assert listed == {"params/data": len("params of 6")}


def test_a_checkpoint_that_was_cut_off_does_not_count(local, tmp_path):
    mirror(local)
    folder = Folder(URL).child("checkpoints").child("6")
    folder.fs.rm_file(folder.at(COMPLETE))
    fetch(URL, tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "checkpoints" / "3").is_dir()
    assert not (tmp_path / "elsewhere" / "checkpoints" / "6").exists()
    mirror(local)  # which whoever goes on completes
    assert folder.exists(COMPLETE)


def test_what_is_no_longer_kept_here_goes_there(local):
    mirror(local)
    shutil.rmtree(local / "checkpoints" / "3")
    mirror(local)
    assert Folder(URL).child("checkpoints").folders() == ["6"]


def test_an_older_local_copy_is_brought_up_to_date_and_a_newer_one_left_alone(local, tmp_path):
    mirror(local)
    older = tmp_path / "older"
    shutil.copytree(local, older)
    shutil.rmtree(older / "checkpoints" / "6")
    (older / "config.json").write_text("old")
    fetch(URL, older)
    assert files(older)["config.json"] == "{}"
    assert "checkpoints/6/params/data" in files(older)
    (older / "config.json").write_text("newer")
    fetch(URL, older)
    assert files(older)["config.json"] == "newer"


def test_trouble_with_the_storage_is_raised(local, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("no")

    monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
    with pytest.raises(OSError, match="no"):
        mirror(local)


def test_paths(tmp_path):
    assert is_remote("gs://bucket/run")
    assert not is_remote("/home/run")
    assert working_folder("s3://b/run/", tmp_path) == working_folder("s3://b/run", tmp_path)
    assert working_folder("s3://b/run", tmp_path) != working_folder("s3://b/run2", tmp_path)
