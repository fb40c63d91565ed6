"""Writes archives of tensors opcode by opcode, as torch would write them, so that no test needs torch or pickle."""

import io
import struct
import zipfile

import numpy as np

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PROTOCOL = b"\x80\x02M\xe9\x03."


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def ints(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(storage, key, length, shape, strides, offset=0):
    """`_rebuild_tensor_v2(persistent_load(("storage", type, key, "cpu", length)), offset, shape, strides, ...)`."""
    persistent = b"(" + text("storage") + storage + text(key) + text("cpu") + number(length) + b"tQ"
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    arguments = b"(" + persistent + number(offset) + ints(shape) + ints(strides) + hooks + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


FLOAT = b"ctorch\nFloatStorage\n"
BFLOAT = b"ctorch\nBFloat16Storage\n"


def state_dict(entries):
    items = b"".join(text(name) + value for name, value in entries.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u."


def system(little=True):
    return b"\x80\x02}" + text("little_endian") + (b"\x88" if little else b"\x89") + b"s."


def legacy(body, storages, system_info=None):
    keys = b"\x80\x02](" + b"".join(map(text, storages)) + b"e."
    data = b"".join(struct.pack("<q", len(array)) + array.tobytes() for array in storages.values())
    return MAGIC + PROTOCOL + (system() if system_info is None else system_info) + body + keys + data


def zipped(body, storages, byteorder=b"little"):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("model/data.pkl", body)
        archive.writestr("model/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"model/data/{key}", array.tobytes())
    return stream.getvalue()


KINDS = {"float32": FLOAT, "bfloat16": BFLOAT, "int64": b"ctorch\nLongStorage\n"}


def torch_bytes(arrays, layout=zipped):
    """An archive of whole arrays, by name, one storage each."""
    entries, storages = {}, {}
    for key, (name, array) in enumerate(arrays.items()):
        array = np.ascontiguousarray(array)
        strides = [stride // array.itemsize for stride in array.strides]
        entries[name] = tensor(KINDS[str(array.dtype)], str(key), array.size, array.shape, strides)
        storages[str(key)] = array.reshape(-1)
    return layout(state_dict(entries), storages)
