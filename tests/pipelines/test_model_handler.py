"""The tower through `RunInference`: the vectors of `lit-embed`, and no image condemned for another."""

import pickle
import re
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that

from lit_precompute import towers
from lit_precompute.config import LimitsConfig, TowerConfig
from lit_precompute.decode import DecodeLimits, decode
from pipelines import model_handler
from pipelines.model_handler import Failed, ImageTowerModelHandler
from schemas.store import open_store

PAGE = Path(__file__).resolve().parents[2] / "docs" / "beam-model-handler.md"
TOWER = TowerConfig("stand-in", "random:0")
Rows = list[dict[str, Any]]
Vectors = dict[str, np.ndarray]


@pytest.fixture
def stored(colour_store: Path) -> Vectors:
    """What `lit-embed` stored of the twelve squares."""
    parts = open_store(str(colour_store)).images("stand-in").iter_joined()
    return {id: part.embeddings[n, 0] for part in parts for n, id in enumerate(part.ids.to_pylist())}


def infer(handler: ImageTowerModelHandler, images: Iterable[Any]) -> list[Any]:
    model = handler.load_model()
    return [result.inference for result in handler.run_inference(list(images), model)]


def through_beam(elements: list[tuple[str, Any]], check: Callable[[list[Any]], None], *flags: str) -> Any:
    options = PipelineOptions(["--runner=FnApiRunner", *flags])
    handler = KeyedModelHandler(ImageTowerModelHandler(TOWER, batch_size=5))
    with beam.Pipeline(options=options) as pipeline:
        results = pipeline | beam.Create(elements) | beam.Reshuffle() | RunInference(handler)
        assert_that(results, check)
    return pipeline.result


def test_equals_lit_embed(colour_rows: Rows, stored: Vectors, stand_in_tower: list[int]) -> None:
    def check(results: list[tuple[str, PredictionResult]]) -> None:
        assert len(results) == 12
        for id, result in results:
            assert type(result.inference) is np.ndarray
            assert result.inference.dtype == np.float32
            assert np.array_equal(result.inference, stored[id])
            assert result.example == images[id]

    images = {row["key"]: row["image"] for row in colour_rows}
    metrics = through_beam(list(images.items()), check).metrics().query()
    counters = {m.key.metric.name: m.committed for m in metrics["counters"]}
    spaces = {m.key.metric.namespace for m in metrics["counters"] if m.key.metric.name == "num_inferences"}
    assert counters["num_inferences"] == 12
    assert spaces == {model_handler.METRICS_NAMESPACE}
    jax.effects_barrier()
    assert set(stand_in_tower) == {5}  # the short last batch is padded
    assert len(stand_in_tower) <= 1 + 12


def test_batches_of_one_shape_compiled_once(colour_rows: Rows, stand_in_tower: list[int]) -> None:
    handler = ImageTowerModelHandler(TOWER, batch_size=5)
    model = handler.load_model()
    assert model.embedder._forward._cache_size() == 1  # before the first image
    images = [row["image"] for row in colour_rows]
    for batch in (images[:5], images[5:10], images[10:], []):
        assert len(list(handler.run_inference(batch, model))) == len(batch)
    jax.effects_barrier()
    assert stand_in_tower == [5, 5, 5, 5]
    assert model.embedder._forward._cache_size() == 1


@pytest.mark.usefixtures("stand_in_tower")
def test_threads_share_one_tower(colour_rows: Rows, stored: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = model_handler.load_tower
    monkeypatch.setattr(model_handler, "load_tower", lambda *a: loads.append("load") or load(*a))

    def check(results: list[tuple[str, PredictionResult]]) -> None:
        assert all(np.array_equal(result.inference, stored[id]) for id, result in results)
        assert len(results) == 12

    elements = [(row["key"], row["image"]) for row in colour_rows]
    through_beam(elements, check, "--direct_running_mode=multi_threading", "--direct_num_workers=2")
    assert loads == ["load"]


@pytest.mark.usefixtures("stand_in_tower")
def test_one_bad_image_leaves_the_others_alone(colour_rows: Rows, stored: Vectors) -> None:
    good = colour_rows[0]["image"]
    images = [
        good,
        b"no image",
        b"",
        good[:-30],
        None,
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((8, 8, 3)),
        good,
    ]
    first, *failed, last = infer(ImageTowerModelHandler(TOWER, batch_size=16), images)
    assert np.array_equal(first, stored["square-00"])
    assert np.array_equal(last, stored["square-00"])
    assert all(isinstance(failure, Failed) for failure in failed)
    reasons = [failure.reason for failure in failed]
    assert reasons == ["not_an_image", "empty", "truncated", "missing", "wrong_shape", "wrong_shape"]
    assert failed[-1].detail == "must be uint8 [8, 8, 3], found float64 [8, 8, 3]"


@pytest.mark.usefixtures("stand_in_tower")
def test_limits_and_a_batch_of_nothing_good(colour_rows: Rows) -> None:
    handler = ImageTowerModelHandler(TOWER, limits=LimitsConfig(max_pixels=255))
    (failure,) = infer(handler, [colour_rows[0]["image"]])  # 16 x 16
    assert failure.reason == "too_many_pixels"


@pytest.mark.usefixtures("stand_in_tower")
def test_arrays_are_taken_as_preprocessed(colour_rows: Rows, stored: Vectors) -> None:
    preprocess = towers.load_tower(TOWER).preprocess
    pixels = [preprocess(decode(row["image"], DecodeLimits())) for row in colour_rows]
    found = infer(ImageTowerModelHandler(TOWER, batch_size=5), pixels)
    assert np.array_equal(np.stack(found), np.stack(list(stored.values())))
    assert all(vector.base is None and vector.flags.writeable for vector in found)


@pytest.mark.parametrize(("value", "reason"), [(0.0, "zero_vector"), (np.nan, "not_finite")])
def test_a_vector_that_says_nothing(
    value: float, reason: str, stand_in_tower: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = towers.TOWERS["stand-in"]
    monkeypatch.setitem(
        towers.TOWERS,
        "stand-in",
        lambda *a: replace(build(*a), forward=lambda params, pixels: jax.numpy.full((len(pixels), 8), value)),
    )
    (failure,) = infer(ImageTowerModelHandler(TOWER, batch_size=2), [np.zeros((8, 8, 3), np.uint8)])
    assert failure.reason == reason


@pytest.mark.usefixtures("stand_in_tower")
def test_only_settings_travel() -> None:
    handler = ImageTowerModelHandler(TOWER, batch_size=7, storage_options={"gs": {"token": "anon"}})
    assert len(pickle.dumps(handler)) < 2000
    assert handler.batch_elements_kwargs() == {"min_batch_size": 7, "max_batch_size": 7}
    assert handler.get_num_bytes([b"123", np.zeros((8, 8, 3), np.uint8), None]) == 3 + 192
    assert not handler.share_model_across_processes()


@pytest.mark.usefixtures("stand_in_tower")
def test_refusals(colour_store: Path) -> None:
    with pytest.raises(ValueError, match="batch_size: must be at least 1, found 0"):
        ImageTowerModelHandler(TOWER, batch_size=0)
    with pytest.raises(TypeError, match=r"encoded image \(bytes\) or a uint8 array, found str"):
        infer(ImageTowerModelHandler(TOWER), ["photo.jpg"])
    with pytest.raises(ValueError, match="inference_args: a tower takes none, found temperature"):
        ImageTowerModelHandler(TOWER).validate_inference_args({"temperature": 1})
    with pytest.raises(ValueError, match="never exchanged"):
        ImageTowerModelHandler(TOWER).update_model_path("other.npz")
    space_id = open_store(str(colour_store)).images("stand-in").manifest.space_id
    ImageTowerModelHandler(TOWER, space_id=space_id).load_model()
    with pytest.raises(ValueError, match=f"must be of {space_id}, found"):
        ImageTowerModelHandler(TowerConfig("stand-in", "random:1"), space_id=space_id).load_model()


@pytest.mark.usefixtures("stand_in_tower")
def test_the_example_of_the_page(
    tmp_path: Path, colour_rows: Rows, stored: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    example = types.ModuleType("embed_files")
    exec(compile(code, str(PAGE), "exec"), example.__dict__)
    monkeypatch.setitem(sys.modules, "embed_files", example)
    for row in colour_rows:
        (tmp_path / f"{row['key']}.png").write_bytes(row["image"])
    (tmp_path / "broken.png").write_bytes(b"no image")
    example.run([str(path) for path in tmp_path.glob("*.png")], f"{tmp_path}/out", "stand-in", "random:0")
    rows = [row for path in tmp_path.glob("out*.parquet") for row in pq.read_table(path).to_pylist()]
    found = {Path(row["id"]).stem: row for row in rows}
    assert found.pop("broken")["reason"] == "not_an_image"
    assert found.keys() == stored.keys()
    assert all(np.array_equal(np.float32(row["embedding"]), stored[id]) for id, row in found.items())
