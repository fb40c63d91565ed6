"""Published runs as configurations: the papers' numbers, each with its source.

A preset leaves open what is the user's: the store, the output folder and, where the paper starts from a published text
tower, the checkpoint. Any of its numbers may be overridden by a flag. The embeddings come from the store, so the image
tower of a preset's name is what `lit-embed` must have embedded with.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import tyro

from trainer.config import DataConfig, LossConfig, TrainConfig
from trainer.optim.optimizer import OptimizerConfig
from trainer.text_towers import TextTowerConfig

# Asked for on the command line, since no preset can know it.
YOURS: Any = tyro.MISSING


def lit_b16_cc12m() -> TrainConfig:
    """LiT with a ViT-B/16 and BERT-base on CC12M: 66.1 % ImageNet zero-shot, 200M pairs seen.

    Source: LiT (arXiv 2111.07991), Tab. 13 (the result) and App. D (the settings): batch 16,384 for 12,000 steps, Adam
    0.9, 0.999 at 1e-3 with decoupled decay 1e-4, linear warm-up over 2,000 steps, cosine, gradient norm at most 1,
    captions of 16 tokens, no image head. The paper crops images at random while it trains; a store holds views.
    """
    return TrainConfig(
        data=DataConfig(store=YOURS, max_text_length=16),
        output=YOURS,
        text=TextTowerConfig(text_tower="minilm", text_checkpoint=YOURS),
        loss=LossConfig(loss="softmax", logit_scale_init=10.0, duplicates="ignore"),
        optimizer=OptimizerConfig(
            optimizer="reference-adam",
            learning_rate=1e-3,
            backbone_learning_rate=1.0,
            beta1=0.9,
            beta2=0.999,
            weight_decay=1e-4,
            clip_norm=1.0,
            schedule="cosine",
            warmup_steps=2_000,
        ),
        batch_size=16_384,
        steps=12_000,  # 16,384 x 12,000 = 197M pairs, 20 epochs of 10M
        microbatch_size=2_048,
    )


def lit_l16l_public() -> TrainConfig:
    """LiT's public large model, a ViT-L/16 and BERT-large on YFCC-CLIP and CC12M: 75.7 % ImageNet zero-shot.

    Source: LiT (arXiv 2111.07991), Tab. 1 and 13 (983M pairs seen in batches of 16,384) and App. D: Adafactor 0.9,
    0.999 at 8e-4 with decoupled decay 1e-4 for large text towers, linear warm-up over 2,000 steps, cosine, gradient
    norm at most 1, captions of 16 tokens. The paper draws batches of the two sets in turn.
    """
    base = lit_b16_cc12m()
    return dataclasses.replace(
        base,
        optimizer=dataclasses.replace(base.optimizer, optimizer="reference-adafactor", learning_rate=8e-4),
        steps=60_000,  # 16,384 x 60,000 = 983M pairs
        microbatch_size=1_024,
    )


def siglit_b() -> TrainConfig:
    """SigLiT with a ViT-B/8 and a text tower as wide as ViT-L from scratch, one day on 4 chips: 79.7 % zero-shot.

    Source: SigLIP (arXiv 2303.15343), Tab. 1 and section 4.4: embeddings computed before, batch 32,768 for 65,000
    steps, Lion at 1e-4 with decoupled decay 1e-7, linear warm-up over 6,500 steps, cosine to 0; Tab. 4: scale 10 and
    bias -10 at the start; App. A: captions of 16 tokens, a vocabulary of 32,000 (SentencePiece there, learned from
    the store's captions here). The paper's decay is not multiplied by the learning rate, Lion's here is: 1e-7 / 1e-4.
    It names no clipping; ours is that of LiT.
    """
    return TrainConfig(
        data=DataConfig(store=YOURS, max_text_length=16),
        output=YOURS,
        text=TextTowerConfig(
            text_tower="transformer",
            text_width=1_024,
            text_depth=12,
            text_heads=16,
            text_mlp=4_096,
            vocab_size=32_000,
        ),
        loss=LossConfig(loss="sigmoid", logit_scale_init=10.0, logit_bias_init=-10.0, duplicates="ignore"),
        optimizer=OptimizerConfig(
            optimizer="lion",
            learning_rate=1e-4,
            weight_decay=1e-3,
            clip_norm=1.0,
            schedule="cosine",
            warmup_steps=6_500,
        ),
        batch_size=32_768,
        steps=65_000,  # 32,768 x 65,000 = 2.13 billion pairs
        microbatch_size=2_048,
    )


def tiny_cpu() -> TrainConfig:
    """A small transformer from scratch that a laptop's processor trains in minutes; the numbers are our own."""
    return TrainConfig(
        data=DataConfig(store=YOURS, max_text_length=16),
        output=YOURS,
        text=TextTowerConfig(
            text_tower="transformer", text_width=128, text_depth=2, text_heads=2, vocab_size=4_096
        ),
        optimizer=OptimizerConfig(optimizer="adamw", learning_rate=1e-3),
        batch_size=256,
        steps=500,
        log_every=10,
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "lit_b16_cc12m": lit_b16_cc12m,
    "lit_l16l_public": lit_l16l_public,
    "siglit_b": siglit_b,
    "tiny_cpu": tiny_cpu,
}
