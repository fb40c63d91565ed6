import hashlib
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from lit_precompute.config import TowerConfig
from lit_precompute.towers import load_tower
from schemas.model_folder import is_folder, read_folder
from tests.schemas.torch_writer import legacy, torch_bytes, zipped


@pytest.fixture
def folder(golden_dir, tmp_path):
    """A copy of a micro CLIP."""
    return shutil.copytree(golden_dir / "hf/image_clip_quickgelu", tmp_path / "micro")


def shard(folder, parts=3):
    """The folder's one weight file cut into several, with their index."""
    tensors = dict(read_folder(str(folder)).tensors)
    names, places = sorted(tensors), {}
    for part in range(parts):
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        chosen = {name: np.ascontiguousarray(tensors[name]) for name in names[part::parts]}
        save_file(chosen, folder / file)
        places |= dict.fromkeys(chosen, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return index


def test_one_file(folder):
    found = read_folder(str(folder))
    data = (folder / "model.safetensors").read_bytes()
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert (found.source, found.format) == ("micro", "safetensors")
    assert found.config["model_type"] == "clip_vision_model"
    assert found.processor["resample"] == 3
    assert not any(array.flags.writeable for array in found.tensors.values())


def test_several_files_give_the_same_tensors(folder):
    whole = load_tower(TowerConfig("clip", str(folder)))
    shard(folder)
    parts = load_tower(TowerConfig("clip", str(folder) + "/"))
    for name, array in whole.params.items():
        np.testing.assert_array_equal(parts.params[name], array)
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in sorted(folder.glob("model-*"))]
    assert parts.info.weights == hashlib.sha256(b"".join(digests)).hexdigest()


def torch_tensors(folder):
    """The folder's tensors with the counted positions that archives of their time carry, and its safetensors gone."""
    tensors = dict(read_folder(str(folder)).tensors)
    (folder / "model.safetensors").unlink()
    return tensors | {"vision_model.embeddings.position_ids": np.arange(5)[None]}


@pytest.mark.parametrize("layout", [legacy, zipped])
def test_a_torch_archive_of_the_hub(folder, layout):
    expected = load_tower(TowerConfig("clip", str(folder)))
    data = torch_bytes(torch_tensors(folder), layout)
    (folder / "pytorch_model.bin").write_bytes(data)
    found = load_tower(TowerConfig("clip", str(folder)))
    assert found.info.weights == hashlib.sha256(data).hexdigest()
    assert read_folder(str(folder)).format == "torch"
    assert sorted(found.params) == sorted(expected.params)
    for name, array in expected.params.items():
        np.testing.assert_array_equal(found.params[name], array)


def test_several_torch_archives(folder):
    expected = load_tower(TowerConfig("clip", str(folder)))
    tensors, places = torch_tensors(folder), {}
    for part in range(2):
        file = f"pytorch_model-{part + 1:05}-of-00002.bin"
        chosen = {name: tensors[name] for name in sorted(tensors)[part::2]}
        (folder / file).write_bytes(torch_bytes(chosen))
        places |= dict.fromkeys(chosen, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    found = load_tower(TowerConfig("clip", str(folder)))
    for name, array in expected.params.items():
        np.testing.assert_array_equal(found.params[name], array)


def test_safetensors_go_before_a_torch_archive(folder):
    (folder / "pytorch_model.bin").write_bytes(b"another model")
    assert read_folder(str(folder)).format == "safetensors"


def test_a_torch_archive_under_the_name_of_safetensors(folder):
    (folder / "model.safetensors").write_bytes(torch_bytes({"a": np.zeros(1, np.float32)}))
    with pytest.raises(ValueError, match=r"model\.safetensors: must be a safetensors file, found torch"):
        read_folder(str(folder))


def test_missing_parts_are_all_named(folder):
    shard(folder)
    (folder / "model-00001-of-00003.safetensors").unlink()
    (folder / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00001-of-00003\.safetensors; model-00003-of-00003\.safe"):
        read_folder(str(folder))


def test_an_index_that_does_not_fit_its_files(folder):
    index = shard(folder)
    places = index["weight_map"]
    places["extra.weight"] = places.pop("visual_projection.weight")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError, match=r"extra\.weight \(not in .*; visual_projection\.weight \(in .*not listed"
    ):
        read_folder(str(folder))


@pytest.mark.parametrize("place", ["../elsewhere.safetensors", "", 3, "/etc/passwd"])
def test_an_index_names_files_of_its_own_folder_only(folder, place):
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": place}}))
    with pytest.raises(ValueError, match="files of the same folder"):
        read_folder(str(folder))


@pytest.mark.parametrize(
    ("name", "message"), [("config.json", "must hold config.json"), ("model.safetensors", "found")]
)
def test_a_folder_without_its_parts(folder, name, message):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=message) as caught:
        read_folder(str(folder))
    assert "preprocessor_config.json" in str(caught.value)  # what there is is listed


def test_a_folder_without_preprocessing(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"micro: must hold preprocessor_config\.json, found none"):
        load_tower(TowerConfig("clip", str(folder)))


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000])
def test_broken_json(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"micro: config\.json must be"):
        read_folder(str(folder))


@pytest.mark.parametrize("keep", [0, 4, 500, 100_000])
def test_a_cut_weight_file(folder, keep):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        read_folder(str(folder))


def test_another_filesystem(folder):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/models/micro", recursive=True)
    there = load_tower(TowerConfig("clip", "memory://models/micro/"))
    assert there.info == load_tower(TowerConfig("clip", str(folder))).info


def test_what_is_a_folder(folder):
    assert is_folder(str(folder))
    assert is_folder("gs://bucket/model/")
    assert is_folder("hf://org/model@main")
    assert not is_folder(str(folder / "config.json"))
    assert not is_folder("hf://org/model/weights.npz")
    assert not is_folder("gs://bucket/model.npz")
    assert not is_folder("random:0")
