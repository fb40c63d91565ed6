import hashlib
import io
import json
import os
import struct
import zipfile

import fsspec
import ml_dtypes
import numpy as np
import pytest

from schemas.weights import bare_name, params_subtree, read_weights

TENSORS = {
    "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/bias": np.array([1.5, -2.0], np.float16),
    "count": np.array(7, np.int64),
    "none": np.zeros((0, 4), np.float32),
}


def write(path, data):
    path.write_bytes(data)
    return str(path)


def npz_bytes(tensors, compressed=False):
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **tensors)
    return stream.getvalue()


def safetensors_bytes(entries, data=b"", header_length=None):
    """A file with this header, whatever it says."""
    header = json.dumps(entries).encode() if isinstance(entries, dict) else entries
    return struct.pack("<Q", len(header) if header_length is None else header_length) + header + data


def check_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_gives_back_what_was_saved(tmp_path, compressed):
    data = npz_bytes(TENSORS, compressed)
    weights = read_weights(write(tmp_path / "w.bin", data))  # told by content, not by name
    check_same(weights.tensors, TENSORS)
    assert (weights.format, weights.source) == ("npz", "w.bin")
    assert weights.sha256 == hashlib.sha256(data).hexdigest()


def test_npz_keeps_fortran_order(tmp_path):
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    check_same(read_weights(write(tmp_path / "w.npz", npz_bytes({"a": array}))).tensors, {"a": array})


def test_two_byte_voids_are_bfloat16(golden_dir):
    found = read_weights(str(golden_dir / "weights/bf16_void.npz")).tensors
    with np.load(golden_dir / "weights/bf16_void.expected_f32.npz") as expected:
        assert set(params_subtree(found)) == set(expected.files)
        for name in expected.files:
            np.testing.assert_array_equal(params_subtree(found)[name].astype(np.float32), expected[name])
    assert {array.dtype.name for array in found.values()} == {"bfloat16"}


def test_safetensors(tmp_path):
    half = np.array([[1.0, 2.5]], ml_dtypes.bfloat16)
    entries = {
        "__metadata__": {"format": "pt"},
        "late": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        "early": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]},
    }
    late = np.array([3.0, 4.0], np.float32)
    path = write(tmp_path / "w.safetensors", safetensors_bytes(entries, half.tobytes() + late.tobytes()))
    weights = read_weights(path)
    check_same(weights.tensors, {"early": half, "late": late})
    assert weights.format == "safetensors"


def test_tensors_are_read_only(tmp_path):
    weights = read_weights(write(tmp_path / "w.npz", npz_bytes(TENSORS)))
    with pytest.raises(ValueError, match="read-only"):
        weights.tensors["a/kernel"][0, 0] = 1


def resident(kind):
    """MB of this process that are of a kind, such as RssAnon."""
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith(kind)).split()[1]) / 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="counts resident pages as Linux does")
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_a_local_file_takes_no_memory_before_it_is_used(tmp_path, kind):
    data = np.random.default_rng(0).bytes(64 << 20)
    if kind == "npz":
        content = npz_bytes({name: np.frombuffer(data, np.float32) for name in ("a", "b")})
    else:
        size = len(data)
        spans = {"a": [0, size], "b": [size, 2 * size]}
        entries = {
            n: {"dtype": "F32", "shape": [size // 4], "data_offsets": span} for n, span in spans.items()
        }
        content = safetensors_bytes(entries, data * 2)
    path = write(tmp_path / "w.bin", content)
    del content
    before = resident("VmRSS")
    weights = read_weights(path)
    assert resident("VmRSS") - before < 48  # of 128 in the file, the reading buffers among them
    assert weights.tensors["b"].tobytes() == data


def test_a_file_elsewhere_is_held_once(tmp_path):
    with fsspec.open("memory://weights/views.npz", "wb") as file:
        file.write(npz_bytes({"a": np.zeros(1000), "b": np.ones(1000)}))
    a, b = read_weights("memory://weights/views.npz").tensors.values()
    assert not a.flags.owndata
    assert 0 < b.__array_interface__["data"][0] - a.__array_interface__["data"][0] < 10_000


def test_the_name_in_a_members_own_header_may_differ_in_length(tmp_path):
    """Some writers put an extra field there that the directory at the end does not have."""
    data = npz_bytes({"abc": np.arange(3.0)})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = archive.start_dir
    directory = data[start:].replace(struct.pack("<I", start), struct.pack("<I", start + 4))
    head = data[:26] + struct.pack("<HH", len("abc.npy"), 4) + b"abc.npy" + b"\xff\xff\0\0"
    old = struct.unpack_from("<HH", data, 26)
    moved = head + data[30 + sum(old) : start] + directory
    shift = len(head) - 30 - sum(old)
    moved = moved.replace(struct.pack("<I", start + 4), struct.pack("<I", start + shift))
    check_same(read_weights(write(tmp_path / "w.npz", moved)).tensors, {"abc": np.arange(3.0)})


def test_any_filesystem():
    with fsspec.open("memory://weights/w.npz", "wb") as file:
        file.write(npz_bytes(TENSORS))
    weights = read_weights("memory://weights/w.npz")
    check_same(weights.tensors, TENSORS)
    assert weights.source == "w.npz"


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_weights(str(tmp_path / "absent.npz"))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/w.npz", "w.npz"),
        ("https://user:pass@host/a/w.npz?token=secret", "w.npz"),
        ("w.npz", "w.npz"),
        ("/data/odd?name.npz", "odd?name.npz"),
    ],
)
def test_bare_name_shows_no_credentials(path, name):
    assert bare_name(path) == name


def test_params_come_before_optimizer_and_whole_file():
    zero, one, two = (np.array(value) for value in range(3))
    assert params_subtree({"params/a": one, "opt/target/a": two, "chrono": zero}) == {"a": one}
    assert params_subtree({"opt/target/a": two, "opt/state/step": zero}) == {"a": two}
    assert params_subtree({"a": one}) == {"a": one}


def npz_member(name, npy):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, npy)
    return stream.getvalue()


def npy_header(text):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


PICKLED = io.BytesIO()
np.save(PICKLED, np.array([{}], dtype=object), allow_pickle=True)

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HOSTILE = {
    "empty": (b"", "empty file"),
    "html": (b"<!doctype html><p>sign in</p>", "doctype"),
    "one byte": (b"P", "must be an .npz"),
    "npz cut": (npz_bytes(TENSORS)[:-30], "zip archive"),
    "npz cut at the front": (npz_bytes(TENSORS)[40:], "must be an .npz"),
    "npz flipped byte": (npz_bytes({"a": np.zeros(99)}).replace(b"\0" * 8, b"\1" * 8, 1), "damaged"),
    "npz of objects": (npz_member("a.npy", PICKLED.getvalue()), "must be numbers"),
    "npz of text": (npz_bytes({"a": np.array("hello")}), "must be numbers"),
    "npz with a script": (npz_member("a.py", b"print()"), "only .npy"),
    "npz without npy": (npz_member("a.npy", b"hello"), "array 'a'"),
    "npy claims a terabyte": (
        npz_member("a.npy", npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (250000000000,)}")),
        "needs 1000000000000 bytes, found 0",
    ),
    "npy negative": (
        npz_member(
            "a.npy", npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1)}") + b"abcd"
        ),
        "another .npy header",
    ),
    "npy header nested": (npz_member("a.npy", npy_header("(" * 9000)), "another .npy header"),
    "npy header longer": (npz_member("a.npy", npy_header("{}")[:-2]), "header declares 2 bytes"),
    "npy of many dimensions": (
        npz_member(
            "a.npy", npy_header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({'1, ' * 99})}}") + b"a"
        ),
        "damaged",
    ),
    "zip bomb": (npz_bytes({"a": np.zeros(40_000_000)}, compressed=True), "unpack"),
    "safetensors cut": (safetensors_bytes({"a": F32}, b"\0" * 4), "take bytes 0 to 8 of the 4"),
    "safetensors longer": (safetensors_bytes({"a": F32}, b"\0" * 12), "all 12 bytes"),
    "safetensors huge header": (safetensors_bytes({"a": F32}, header_length=1 << 60), "header declares"),
    "safetensors bad json": (safetensors_bytes(b"{]"), "JSON"),
    "safetensors nested": (safetensors_bytes(b'{"a":' + b"[" * 100_000), "JSON"),
    "safetensors twice": (safetensors_bytes(b'{"a":1,"a":2}'), "twice"),
    "safetensors huge shape": (safetensors_bytes({"a": F32 | {"shape": [1 << 40] * 9}}, b"\0" * 8), "bytes"),
    "safetensors negative": (
        safetensors_bytes({"a": F32 | {"data_offsets": [-8, 0]}}, b"\0" * 8),
        "data_offsets",
    ),
    "safetensors overlap": (safetensors_bytes({"a": F32, "b": F32}, b"\0" * 8), "tensor 'b'"),
    "safetensors dtype": (safetensors_bytes({"a": F32 | {"dtype": "F2"}}, b"\0" * 8), "one of F64"),
    "safetensors not a tensor": (safetensors_bytes({"a": [1]}), "tensor 'a'"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_broken_files_are_refused_by_name(tmp_path, kind):
    data, message = HOSTILE[kind]
    with pytest.raises(ValueError, match=message) as caught:
        read_weights(write(tmp_path / "broken.bin", data))
    assert str(caught.value).startswith("broken.bin: ")


def test_no_cut_of_a_file_gives_anything_but_value_error(tmp_path):
    whole = npz_bytes({"a": np.arange(20.0)}), safetensors_bytes({"a": F32}, b"\0" * 8)
    for data in whole:
        for length in range(len(data)):
            with pytest.raises(ValueError, match=r"cut\.bin"):
                read_weights(write(tmp_path / "cut.bin", data[:length]))
