"""The embedder as Beam's `ModelHandler`, for graphs other than `lit-embed`'s."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler, PredictionResult
from PIL import Image

from lit_precompute.config import LimitsConfig, TowerConfig
from lit_precompute.decode import DecodeError, DecodeLimits, decode
from lit_precompute.embedder import Embedder
from lit_precompute.towers import load_tower
from lit_precompute.vectors import vector_problem
from schemas.storage import StorageOptions

METRICS_NAMESPACE = "LitImageTower"
PROBE = Image.new("RGB", (64, 64))  # any picture: what a tower takes has one shape, whatever the picture's


@dataclass(frozen=True)
class Failed:
    """In the place of a vector: why an image has none.

    Attributes:
        reason: one of `schemas.failures.REASONS`, as in a store's `failures.parquet`; or `wrong_shape`, for an array
            that is not what the tower takes.
        detail: what was found.
    """

    reason: str
    detail: str


@dataclass
class LoadedTower:
    """What a worker process holds: the compiled tower, and the shape of one input, [S, S, 3] of most towers."""

    embedder: Embedder
    input_shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        probe = self.embedder.tower.preprocess(PROBE)
        self.input_shape = probe.shape
        for _ in self.embedder.stream([(None, probe)]):  # compiles, while RunInference times the load
            pass


class ImageTowerModelHandler(ModelHandler[bytes | np.ndarray | None, PredictionResult, LoadedTower]):
    """`RunInference(ImageTowerModelHandler(...))`: encoded images in, embeddings out.

    An element is an encoded image (`bytes`), what `Tower.preprocess` made of one (uint8, [S, S, 3] of most towers), or
    None where there is no image. Its result is a `PredictionResult` of the element, numpy float32 [D] before
    normalisation, and the tower's `space_id` as the model's. The vector is the one `lit-embed` stores with
    `--dtype float32`. An image that has none gets a `Failed`; the others of its batch are not touched.

    Only what is given here travels in the graph; the weights are read where the work is done, once a process.

    Args:
        tower: which tower, which weights.
        batch_size: images per forward pass; short batches are padded, so the tower compiles once.
        storage_options: fsspec options by protocol, to read the checkpoint with.
        limits: what one image may cost to decode.
        decode_threads: threads that decode a batch.
        space_id: refuse weights that are not of this space, such as `ImagesFolder.manifest.space_id` of a store.

    Raises:
        ValueError: `batch_size` or `decode_threads` is below 1.
    """

    def __init__(
        self,
        tower: TowerConfig,
        batch_size: int = 64,
        storage_options: StorageOptions | None = None,
        limits: LimitsConfig | None = None,
        decode_threads: int = 2,
        space_id: str | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("decode_threads", decode_threads)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, found {value}.")
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        limits = limits or LimitsConfig()
        self._tower, self._storage_options, self._space_id = tower, storage_options, space_id
        self._batch_size, self._decode_threads = batch_size, decode_threads
        self._limits = DecodeLimits(limits.max_pixels, limits.max_bytes)

    def load_model(self) -> LoadedTower:
        """Reads the weights and compiles.

        Raises:
            FileNotFoundError, ValueError: as `load_tower`; or the weights are of another space than asked for.
        """
        tower = load_tower(self._tower, self._storage_options)
        if self._space_id not in (None, tower.info.space_id):
            raise ValueError(
                f"space_id: the tower must be of {self._space_id}, found {tower.info.space_id}. Give the checkpoint "
                "and the settings that the store was made with."
            )
        return LoadedTower(Embedder(tower, self._batch_size))

    def run_inference(
        self,
        batch: Sequence[bytes | np.ndarray | None],
        model: LoadedTower,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterator[PredictionResult]:
        """One result for each element, in order.

        Raises:
            TypeError: an element is neither bytes nor an array nor None: the graph is wrong, not an image.
        """
        with ThreadPoolExecutor(self._decode_threads, "decode") as pool:
            inputs = list(pool.map(lambda image: self._input(image, model), batch))
        good = ((place, pixels) for place, pixels in enumerate(inputs) if not isinstance(pixels, Failed))
        vectors = {place: _checked(vector) for place, vector in model.embedder.stream(good)}
        space_id = model.embedder.tower.info.space_id
        for place, (image, found) in enumerate(zip(batch, inputs, strict=True)):
            yield PredictionResult(image, vectors.get(place, found), space_id)

    def get_num_bytes(self, batch: Sequence[bytes | np.ndarray | None]) -> int:
        return sum(image.nbytes if isinstance(image, np.ndarray) else len(image or b"") for image in batch)

    def get_metrics_namespace(self) -> str:
        return METRICS_NAMESPACE

    def validate_inference_args(self, inference_args: dict[str, Any] | None) -> None:
        if inference_args:
            raise ValueError(f"inference_args: a tower takes none, found {', '.join(inference_args)}.")

    def update_model_path(self, model_path: str | None = None) -> None:
        """Refuses: vectors of two towers in one output would look alike and mean nothing together."""
        if model_path:
            raise ValueError(
                f"model_metadata_pcoll: a locked tower is never exchanged while it runs, found {model_path!r}."
            )

    def _input(self, image: bytes | np.ndarray | None, model: LoadedTower) -> np.ndarray | Failed:
        """What the tower takes, or why there is nothing to take."""
        if image is None:
            return Failed("missing", "no image bytes")
        if isinstance(image, np.ndarray):
            return _right_shape(image, model.input_shape)
        if not isinstance(image, bytes):
            raise TypeError(
                f"An element must be an encoded image (bytes) or a uint8 array, found {type(image).__name__}. "
                "Read paths in a step before RunInference."
            )
        preprocess = model.embedder.tower.preprocess
        try:
            return preprocess(decode(image, self._limits, preprocess.family))
        except DecodeError as error:
            return Failed(error.reason, error.detail)


def _right_shape(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | Failed:
    if pixels.dtype == np.uint8 and pixels.shape == shape:
        return pixels
    return Failed("wrong_shape", f"must be uint8 {list(shape)}, found {pixels.dtype} {list(pixels.shape)}")


def _checked(vector: np.ndarray) -> np.ndarray | Failed:
    """The vector, in memory of its own: a row would keep its whole batch, and the device's copy of it, alive."""
    problem = vector_problem(vector, "float32")
    return vector.copy() if problem is None else Failed(*problem)
