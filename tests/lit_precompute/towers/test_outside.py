"""A tower of another package, from the page that shows how, through the command."""

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lit_precompute.config import TowerConfig
from lit_precompute.towers import load_tower

PAGE = Path(__file__).resolve().parents[3] / "docs" / "adding-a-tower.md"
SIDE, DIM = 32, 4


@pytest.fixture
def my_towers(monkeypatch, tmp_path):
    """The module of the page, importable, beside a network that means over the picture and mixes the colours."""
    _, code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my_towers.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    yield write_network(tmp_path / "network.onnx")
    sys.modules.pop("my_towers", None)


def write_network(path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    mixing = np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32)
    numbers = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
            onnx.helper.make_node("Flatten", ["mean"], ["flat"]),
            onnx.helper.make_node("MatMul", ["flat", "mixing"], ["vectors"]),
        ],
        "colours",
        [onnx.helper.make_tensor_value_info("images", numbers, ["B", 3, SIDE, SIDE])],
        [onnx.helper.make_tensor_value_info("vectors", numbers, ["B", DIM])],
        [onnx.numpy_helper.from_array(mixing, "mixing")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path, mixing


def test_an_onnx_network_through_the_command(my_towers, tmp_path, colour_rows, write_rows):
    from pipelines.embed import main

    network, mixing = my_towers
    source = write_rows(tmp_path / "rows.parquet", colour_rows)
    arguments = [
        "--input",
        source,
        "--format",
        "parquet",
        "--output",
        tmp_path / "store",
        "--dtype",
        "float32",
    ]
    arguments += ["--tower", "my_towers:build", "--checkpoint", network, "--batch-size", "5"]
    assert main([*map(str, arguments)]) == 0
    (folder,) = (tmp_path / "store" / "images").iterdir()
    assert folder.name.startswith("my_towers-")
    (part,) = folder.glob("embeddings-*.parquet")
    rows = pq.read_table(part).to_pylist()
    assert [row["id"] for row in rows] == [row["key"] for row in colour_rows]
    for row, given in zip(rows, colour_rows, strict=True):
        colour = np.asarray(Image.open(io.BytesIO(given["image"])))[0, 0] / 255
        np.testing.assert_allclose(row["embedding"], colour @ mixing, atol=1e-5)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["tower"]["architecture"]["family"] == "onnx"


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        ("my_towers:absent", "must be a function that can be imported"),
        ("no_such_package.towers:build", "No module named 'no_such_package'"),
        ("my_towers:SIDE", "can be imported"),
        ("my towers:build", "package.module:function"),
        ("my_towers:np", "must be a function, found module"),
    ],
)
def test_names_that_lead_nowhere(my_towers, tower, message):
    with pytest.raises(ValueError, match=message):
        load_tower(TowerConfig(tower, str(my_towers[0])))


def test_what_is_built_must_be_a_tower(my_towers, tmp_path):
    (tmp_path / "code" / "odd_towers.py").write_text("def build(config, checkpoint):\n    return config\n")
    with pytest.raises(ValueError, match="odd_towers must build a Tower, found TowerConfig"):
        load_tower(TowerConfig("odd_towers:build", None))
    with pytest.raises(ValueError, match="must name the file"):
        load_tower(TowerConfig("my_towers:build"))
    with pytest.raises(ValueError, match=r"--compute-dtype: .* must be computed in float32"):
        load_tower(TowerConfig("my_towers:build", str(my_towers[0]), compute_dtype="bfloat16"))
