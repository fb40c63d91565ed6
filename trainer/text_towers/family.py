"""What a family of text towers provides: how one starts, and how it is made again."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import numpy as np

from schemas.storage import Folder
from trainer.text_towers.checkpoint import TextCheckpoint
from trainer.text_towers.tower import TextTower
from trainer.tokenizers import Tokenizer, load_tokenizer, read_tokenizer_file

if TYPE_CHECKING:  # the configuration lists the families' names
    from trainer.text_towers.config import TextTowerConfig

Params = dict[str, Any]  # nested dict of arrays
Texts = Callable[[], Iterable[str]]


@dataclass(frozen=True)
class Order:
    """What a tower is to be.

    Attributes:
        config: the flags.
        checkpoint: what `config.text_checkpoint` holds; None to start from scratch.
        length: L, tokens a row; None: as many as the checkpoint was made for.
        random: for what starts from scratch.
        texts: captions a vocabulary may be learned from.
    """

    config: "TextTowerConfig"
    checkpoint: TextCheckpoint | None
    length: int | None
    random: np.random.Generator
    texts: Texts | None

    def published(self) -> TextCheckpoint:
        """The checkpoint, of a family that has to have one."""
        assert self.checkpoint is not None, "TextTowerConfig refuses a family without its checkpoint"
        return self.checkpoint

    def tokenizer(self, rule: str | None = None) -> Tokenizer:
        """The tokenizer of `--text-tokenizer`, of the checkpoint's folder, or beside the checkpoint's file.

        Args:
            rule: how the family reads a sentencepiece model where nothing says otherwise.

        Raises:
            ValueError: there is none.
        """
        checkpoint = self.published()
        if self.config.text_tokenizer is not None:
            return read_tokenizer_file(self.config.text_tokenizer, rule)
        if checkpoint.folder is not None:
            return load_tokenizer(checkpoint.folder.path)
        return _tokenizer_beside(checkpoint)


class Start(NamedTuple):
    """A tower before its first step.

    Attributes:
        backbone: called with (tokens int32 [B, L], dropout keys or None) gives float32 [B, H]. Its `config` is a
            dataclass of JSON values with `width` (H), `pad_id`, `max_length` (int, or None for any),
            `fixed_length` (whether rows must have just that) and `blind_to_padding`.
        params: float32 arrays.
        tokenizer: for the backbone's vocabulary.
        head: the checkpoint's own: `kernel` [H, D] and perhaps `bias` [D]; {} where its features are its embeddings;
            None where the checkpoint was never a half of a dual encoder.
        layout: JSON object: what is needed to write the file as it was.
    """

    backbone: nn.Module
    params: Params
    tokenizer: Tokenizer
    head: dict[str, np.ndarray] | None = None
    layout: Mapping[str, Any] | None = None


class FolderForm(NamedTuple):
    """A tower as a Hugging Face folder holds it: what `start` reads back.

    Attributes:
        config: of `config.json`.
        tensors: of `model.safetensors`.
        pool: how the folder's hidden states become features: "mean", "cls" or "lasttoken", the tower's head being
            beside them. None where the folder's model gives the tower's vectors itself, head included.
    """

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    pool: str | None


class Family(NamedTuple):
    """A kind of text tower.

    Attributes:
        start: makes one.
        remake: the module again, from its configuration as JSON gave it back.
        from_scratch: whether it can start without a checkpoint.
        to_folder: what a Hugging Face folder of a tower holds; raises ValueError for a form without such a layout. None
            for a family that has none.
    """

    start: Callable[[Order], Start]
    remake: Callable[[Mapping[str, Any]], nn.Module]
    from_scratch: bool = False
    to_folder: Callable[[TextTower], FolderForm] | None = None


def _tokenizer_beside(checkpoint: TextCheckpoint) -> Tokenizer:
    """`NAME.txt` or `NAME.model` beside `NAME.npz`, as the LiT releases have it; or `vocab.txt`."""
    place, _, name = checkpoint.path.rpartition("/")
    stem = name.rpartition(".")[0]
    folder = Folder(place or ".")
    for candidate in (f"{stem}.txt", f"{stem}.model", "vocab.txt"):
        if folder.exists(candidate):
            return read_tokenizer_file(f"{place or '.'}/{candidate}", "lit")
    raise ValueError(
        f"{checkpoint.source}: a weight file must have its tokenizer beside it ({stem}.txt, {stem}.model or "
        "vocab.txt), found none. Say where it is with --text-tokenizer."
    )
