"""`hf://org/model@revision` -> the folder of its files on this machine."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

FILES = (
    *("config.json", "preprocessor_config.json"),
    *("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
)
# Fetched only where a model has no safetensors, as some of 2021 still have none.
TORCH_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")
TEXT_FILES = (
    *FILES,
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt"),
    *("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "1_Pooling/config.json"),
    *("lit.json", "lit_tokenizer.json", "2_Dense/model.safetensors"),  # of a folder that lit-export wrote
)
ADDRESS = re.compile(r"hf://(?P<model>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/[\w./-]+|[\w.-]+))?/?")


def is_hub_model(checkpoint: str) -> bool:
    """Whether `checkpoint` names a whole model; `hf://org/model/file.npz` names one file."""
    return ADDRESS.fullmatch(checkpoint) is not None


def download(checkpoint: str, options: Mapping[str, Any] | None = None, files: Sequence[str] = FILES) -> Path:
    """The folder of a model on the Hugging Face hub, from the local cache where it is there already.

    Without a revision it is the newest one at the time; the digest of the weights says which it was.

    Args:
        checkpoint: `hf://org/model` or `hf://org/model@revision`, a branch, tag or commit.
        options: fsspec options for the protocol `hf`; `token` is used.
        files: name patterns of what is needed.

    Raises:
        ValueError: `huggingface_hub` is not installed.
        FileNotFoundError: there is no such model or revision, no permission, or no network and no copy in the cache.
    """
    match = ADDRESS.fullmatch(checkpoint)
    assert match is not None, checkpoint
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(
            f"{checkpoint}: needs the package huggingface_hub, which is not installed. Install it "
            "(pip install huggingface_hub), or download the model's files and give their folder."
        ) from None
    fetch = partial(
        snapshot_download,
        match["model"],
        revision=match["revision"],
        token=(options or {}).get("token"),
    )
    try:
        folder = Path(fetch(allow_patterns=list(files)))
        if not any(folder.glob("*.safetensors")):
            folder = Path(fetch(allow_patterns=[*files, *TORCH_FILES]))
        return folder
    except Exception as error:  # requests, httpx, urllib3 and hub errors share no class but this one
        reason = " ".join(str(error).split())[:300]
        raise FileNotFoundError(
            f"{checkpoint}: must be a model on the Hugging Face hub, or in its local cache, found "
            f"{type(error).__name__}: {reason} Check name, revision, network and login (HF_TOKEN), or download the "
            "model's files elsewhere and give their folder."
        ) from None
