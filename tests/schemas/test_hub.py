import shutil
import sys
from fnmatch import fnmatch

import pytest

from lit_precompute.config import TowerConfig
from lit_precompute.towers import load_tower
from schemas.hub import download, is_hub_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(golden_dir, tmp_path, monkeypatch):
    """A local cache that holds `org/micro`, and no network."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    model = tmp_path / "hub/models--org--micro"
    shutil.copytree(golden_dir / "hf/image_clip_quickgelu", model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    for name in ("main", "v1"):
        (model / "refs" / name).write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return model / "snapshots" / COMMIT


@pytest.mark.parametrize("revision", ["", "@main", "@v1", f"@{COMMIT}"])
def test_a_model_of_the_cache(hub, revision):
    assert download(f"hf://org/micro{revision}") == hub
    tower = load_tower(TowerConfig("clip", f"hf://org/micro{revision}"))
    assert tower.info == load_tower(TowerConfig("clip", str(hub))).info


@pytest.mark.parametrize(
    "present", ["model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"]
)
def test_torch_archives_are_fetched_only_where_there_is_nothing_else(tmp_path, monkeypatch, present):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(model, revision, token, allow_patterns):
        asked.append(allow_patterns)
        if any(fnmatch(present, pattern) for pattern in allow_patterns):
            (tmp_path / present).touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert download("hf://org/model") == tmp_path
    assert (tmp_path / present).exists()
    assert len(asked) == (2 if present.endswith(".bin") else 1)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("address", ["hf://org/absent", "hf://org/micro@v9"])
def test_what_is_not_there(address):
    with pytest.raises(FileNotFoundError, match=f"{address}: must be a model .*HF_TOKEN"):
        load_tower(TowerConfig("clip", address))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="needs the package huggingface_hub"):
        load_tower(TowerConfig("clip", "hf://org/micro"))


def test_addresses():
    assert is_hub_model("hf://org/model")
    assert is_hub_model("hf://org/model-1.5_b@refs/pr/3")
    for other in (
        "hf://model",
        "hf://org/model/file.npz",
        "hf://org/model@v1/file.npz",
        "org/model",
        "hf://",
    ):
        assert not is_hub_model(other)
