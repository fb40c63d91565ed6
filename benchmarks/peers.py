"""Other engines over the same folder of pictures, each in a process of its own, with the moments its images were done.

python -m benchmarks.peers STARTED ENGINE PICTURES CHECKPOINT OUTPUT BATCH THREADS
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clip_weights import NAME, SIDE
from benchmarks.launch import MARK


@dataclass(frozen=True)
class Work:
    """What an engine is given.

    Attributes:
        pictures: folder of JPEGs.
        checkpoint: of open_clip.
        output: a folder that is not there yet.
        batch: images a forward.
        threads: for the tower; as many processes or tasks may decode beside it.
    """

    pictures: Path
    checkpoint: Path
    output: Path
    batch: int
    threads: int


Done = list[float]  # time.time() of every image


def bare_torch(work: Work) -> Done:
    """The forward alone, on pixels that lie ready: what any engine around this model could reach at most."""
    import torch

    model, _ = _open_clip(work)
    images = torch.randn(work.batch, 3, SIDE, SIDE)
    done: Done = []
    with torch.inference_mode():
        for _ in range(-(-_count(work) // work.batch)):
            model.encode_image(images)
            done += [time.time()] * work.batch
    return done


def clip_retrieval(work: Work) -> Done:
    """Its inference worker as `clip-retrieval inference` puts it together, with a logger that notes the time."""
    import torch
    from all_clip import load_clip
    from clip_retrieval.clip_inference.mapper import ClipMapper
    from clip_retrieval.clip_inference.reader import FilesReader
    from clip_retrieval.clip_inference.runner import Runner
    from clip_retrieval.clip_inference.writer import NumpyWriter

    torch.set_num_threads(work.threads)
    name, kinds = f"open_clip:{NAME}/{work.checkpoint}", (False, True, False)  # no text, images, no metadata
    done: Done = []

    def read(sampler: Callable[[list[str]], list[str]]) -> Any:
        _, preprocess, tokenizer = load_clip(name, False, work.batch)
        folder, workers = str(work.pictures), work.threads
        return FilesReader(sampler, preprocess, tokenizer, folder, work.batch, workers, *kinds)

    class Logger:
        """Told of each batch after it went to the writer."""

        def start(self) -> None: ...

        def end(self) -> None: ...

        def __call__(self, batch: dict[str, Any]) -> None:
            done.extend([time.time()] * batch["sample_count"])

    text, image, metadata = kinds
    Runner(
        reader_builder=read,
        mapper_builder=lambda: ClipMapper(image, text, metadata, False, name, False, "", work.batch),
        writer_builder=lambda number: NumpyWriter(number, str(work.output), text, image, metadata, 1),
        logger_builder=lambda number: Logger(),
        output_partition_count=1,
    )(0)
    return done


def clip_retrieval_vectors(output: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Stem of a picture and its vector."""
    import pyarrow.parquet as pq

    vectors = np.load(output / "img_emb" / "img_emb_0.npy").astype(np.float32)
    paths = pq.read_table(output / "metadata" / "metadata_0.parquet")["image_path"].to_pylist()
    yield from zip((Path(path).stem for path in paths), vectors, strict=True)


def ray_data(work: Work) -> Done:
    """Batch inference as its documentation shows it: read images, map the transform, one actor with the model."""
    import ray

    ray.init(num_cpus=work.threads, include_dashboard=False, log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    class Predictor:
        """The model, on all threads; Ray gives an actor of one processor a single one otherwise."""

        def __init__(self) -> None:
            import torch

            torch.set_num_threads(work.threads)
            self.model, _ = _open_clip(work)

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            import torch

            with torch.inference_mode():
                vectors = self.model.encode_image(torch.from_numpy(batch["pixels"])).numpy()
            done = np.full(len(vectors), time.time())
            return {"path": batch["path"], "embedding": vectors.astype(np.float16), "done": done}

    def transform(row: dict[str, Any]) -> dict[str, Any]:
        from PIL import Image

        return {"path": row["path"], "pixels": preprocess(Image.fromarray(row["image"])).numpy()}

    preprocess = _open_clip(work)[1]
    images = ray.data.read_images(str(work.pictures), mode="RGB", include_paths=True)
    vectors = images.map(transform).map_batches(
        Predictor, batch_size=work.batch, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=0
    )
    vectors.write_parquet(str(work.output))
    return ray.data.read_parquet(str(work.output)).to_pandas()["done"].tolist()


def ray_vectors(output: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Stem of a picture and its vector."""
    import pyarrow.parquet as pq

    table = pq.read_table(output)
    for path, vector in zip(table["path"].to_pylist(), table["embedding"].combine_chunks(), strict=True):
        yield Path(path).stem, np.asarray(vector.as_py(), np.float32)


ENGINES: dict[str, Callable[[Work], Done]] = {
    "torch": bare_torch,
    "clip-retrieval": clip_retrieval,
    "ray-data": ray_data,
}


def _open_clip(work: Work) -> tuple[Any, Any]:
    """The model and its transform."""
    import open_clip
    import torch

    torch.set_num_threads(work.threads)
    model, _, preprocess = open_clip.create_model_and_transforms(NAME, pretrained=str(work.checkpoint))
    return model.eval(), preprocess


def _count(work: Work) -> int:
    return sum(1 for _ in work.pictures.iterdir())


def main(started: float, engine: str, *rest: str) -> None:
    """Runs one engine; prints what `embed_vs_peers` reads."""
    pictures, checkpoint, output, batch, threads = rest
    work = Work(Path(pictures), Path(checkpoint), Path(output), int(batch), int(threads))
    done = sorted(moment - started for moment in ENGINES[engine](work))
    print(MARK + json.dumps({"done": done, "steps": {}, "processor": time.process_time()}))


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:])
