"""How long a large checkpoint takes to load, and how much memory beside its size.

    python -m benchmarks.load_weights                   an .npz with the names and shapes of LiT-L16L, 2.6 GB
    python -m benchmarks.load_weights --keep DIR        writes it there, or uses the one there

A fresh process loads the image tower as `lit-embed` does (every byte is hashed, every checksum compared), then puts it
on the device. Printed: seconds; the peak of resident memory and the peak of its anonymous part, both above what the
process had with JAX imported. Pages of the mapped file count as resident, but go when memory is short.
Exits 1 unless the peak until the tower is loaded stays below 1.25 times the image tower's own bytes and the load
below 120 s.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from lit_precompute.config import TowerConfig
from lit_precompute.towers import load_tower
from lit_precompute.towers.vit import PRESETS, preset, tensor_shapes

SECONDS, MEMORY = 120, 1.25
WIDTH, HIDDEN, LAYERS, VOCABULARY, POSITIONS = 1024, 4096, 24, 30_522, 512  # of the text tower, BERT-large


def image_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """ViT-L/16 with a class token, in the layout of the LiT files."""
    for name, shape in tensor_shapes(preset(PRESETS["lit-l16l"]), 224).items():
        if name == "pos_embedding":
            yield "img/Transformer/posembed_input/pos_embedding", (1, shape[1] + 1, shape[2])
        else:
            yield f"img/{name}", shape


def text_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """BERT-large with a head."""
    rows = {"token": VOCABULARY, "position": POSITIONS, "segment": 2}
    for name, count in rows.items():
        yield f"txt/BertEncoder_0/embedder/embedders_{name}_ids/embedding", (count, WIDTH)
    yield from _norm("txt/BertEncoder_0/layer_norm")
    for number in range(LAYERS):
        at = f"txt/BertEncoder_0/encoder_block/layer_sequence/layers_{number}"
        for name in ("query", "key", "value"):
            yield from _dense(f"{at}/attention_block/attention_layer/{name}", WIDTH, WIDTH)
        yield from _dense(f"{at}/attention_block/dense_layer", WIDTH, WIDTH)
        yield from _norm(f"{at}/attention_block/layer_norm")
        yield from _dense(f"{at}/mlp_block/mlp/dense_layer", WIDTH, HIDDEN)
        yield from _dense(f"{at}/mlp_block/dense_layer", HIDDEN, WIDTH)
        yield from _norm(f"{at}/mlp_block/layer_norm")
    yield from _dense("txt/head", WIDTH, WIDTH)
    yield "t", (1,)


def _dense(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}/kernel", (inputs, outputs)
    yield f"{name}/bias", (outputs,)


def _norm(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}/scale", (WIDTH,)
    yield f"{name}/bias", (WIDTH,)


def write(path: Path) -> None:
    """The file, array by array, so that writing it takes no memory either."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, shape in (*image_shapes(), *text_shapes()):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, rng.random(shape, np.float32) * np.float32(0.04))


class Memory:
    """Peaks of this process's memory in MB, looked at every 5 ms."""

    def __init__(self) -> None:
        self.peak = {"VmRSS": 0.0, "RssAnon": 0.0}
        self.before = self._now()
        threading.Thread(target=self._watch, daemon=True).start()

    def above(self) -> dict[str, float]:
        """Peaks so far, above the start."""
        return {name: self.peak[name] - self.before[name] for name in self.peak}

    def _watch(self) -> None:
        while True:
            for name, value in self._now().items():
                self.peak[name] = max(self.peak[name], value)
            time.sleep(0.005)

    def _now(self) -> dict[str, float]:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {name: int(lines[name].split()[0]) * 1024 / 1e6 for name in self.peak}


def measure(path: str) -> dict[str, float]:
    """Loads the tower in this process."""
    jax.devices()
    memory, started = Memory(), time.monotonic()
    tower = load_tower(TowerConfig("lit-l16l", path))
    loaded, peak = time.monotonic() - started, memory.above()
    leaves = jax.tree.leaves(tower.params)
    jax.block_until_ready(jax.device_put(tower.params))
    found = {
        "loaded_s": loaded,
        "on_device_s": time.monotonic() - started,
        "tower_mb": sum(a.nbytes for a in leaves),
    }
    found["tower_mb"] /= 1e6
    found |= {"loaded_resident_mb": peak["VmRSS"], "loaded_anonymous_mb": peak["RssAnon"]}
    peak = memory.above()
    return found | {"on_device_resident_mb": peak["VmRSS"], "on_device_anonymous_mb": peak["RssAnon"]}


def main() -> int:
    """Prints the figures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--keep", type=Path, help="folder for the file; default a temporary one")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        path = (options.keep or Path(temporary)) / "lit-l16l-shaped.npz"
        if not path.exists():
            write(path)
        command = [sys.executable, "-m", "benchmarks.load_weights", "--measure", str(path)]
        figures = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        size, tower = path.stat().st_size / 1e6, figures.pop("tower_mb")
    print(f"{size:,.0f} MB in the file, {tower:,.0f} MB of it the image tower")
    for name, value in figures.items():
        print(f"{name:24} {value:10,.1f}")
    fits = figures["loaded_resident_mb"] < MEMORY * tower and figures["loaded_s"] < SECONDS
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
