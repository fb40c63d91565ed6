"""A real update at a batch far beyond what fits at once: lit-train as a user starts it, its time and its peak memory.

    python -m benchmarks.large_batch                                    B = 32,768, D = 768, BERT-base, L = 16
    python -m benchmarks.large_batch --batch-size 131072 --dim 256 --tower small
    python -m benchmarks.large_batch --batch-size 512 --tower small     a try of a minute

Makes a store of as many pairs (vectors of a normal distribution, captions of words drawn at random) and, for
BERT-base, a checkpoint folder of its shape with random weights; then trains one step. On two cores the first takes
hours: about 360 TFLOP. Exits 1 unless the step ends and the peak stays under --most-gib.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.made_store import TOWER_ID, VOCABULARY, write_made_store, write_vocabulary

GIB = 2**30
SMALL = ["--text-tower", "transformer", "--text-width", "256", "--text-depth", "4", "--text-heads", "4"]
BERT_BASE = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": VOCABULARY,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "pad_token_id": 0,
}
WRITE_WEIGHTS = """
import sys
import jax, numpy as np
from safetensors.numpy import save_file
from trainer.text_towers.bert import Bert, BertConfig
from trainer.text_towers.bert_checkpoint import published_name
from trainer.text_towers.torch_layout import to_torch
config = BertConfig(**{"vocab_size": 30522, "width": 768, "depth": 12, "heads": 12, "mlp": 3072, "positions": 512})
params = jax.jit(Bert(config).init)(jax.random.key(0), np.zeros((1, 16), np.int32))["params"]
save_file(to_torch(params, published_name), sys.argv[1], {"format": "pt"})
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=32_768)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--tower", choices=("bert-base", "small"), default="bert-base")
    parser.add_argument("--microbatch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--most-gib", type=float, default=12.0, help="what the peak must stay under")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_made_store(folder / "store", options.batch_size, options.dim)
        tower = SMALL if options.tower == "small" else _bert_base(folder / "bert")
        command = [
            *[
                sys.executable,
                "-m",
                "trainer.train",
                "--store",
                str(folder / "store"),
                "--tower-id",
                TOWER_ID,
            ],
            *["--spool-dir", str(folder / "spool"), "--output", str(folder / "run"), *tower],
            *["--batch-size", str(options.batch_size), "--microbatch-size", str(options.microbatch_size)],
            *["--steps", str(options.steps), "--log-every", "1", "--no-tensorboard"],
        ]
        started = time.perf_counter()
        status = subprocess.run(command, check=False).returncode
        seconds = time.perf_counter() - started
        lines = folder / "run" / "metrics.jsonl"
        last = json.loads(lines.read_text().splitlines()[-1]) if lines.exists() else {}
    peak = (
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / GIB
    )  # kilobytes, of the largest child
    print(
        f"batch {options.batch_size:,}, D {options.dim}, {options.tower}, microbatches of {options.microbatch_size}, "
        f"{options.steps} step on {os.cpu_count()} cores: {seconds:,.0f} s in all, peak {peak:.2f} GiB, exit {status}"
    )
    print(f"last metrics: {json.dumps(last)}")
    return 0 if status == 0 and peak < options.most_gib else 1


def _bert_base(folder: Path) -> list[str]:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BERT_BASE))
    write_vocabulary(folder / "vocab.txt")
    subprocess.run([sys.executable, "-c", WRITE_WEIGHTS, str(folder / "model.safetensors")], check=True)
    return ["--text-tower", "minilm", "--text-checkpoint", str(folder)]


if __name__ == "__main__":
    sys.exit(main())
