"""A text tower: a backbone from tokens to features, a head from features to the images' space."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainer.text_towers.row_dropout import row_keys
from trainer.tokenizers import Tokenizer

Params = dict[str, Any]  # nested dict of arrays


@dataclass(frozen=True)
class TextTower:
    """A text encoder. Its functions are pure and may be called under jit.

    Attributes:
        name: a key of `TEXT_TOWERS`.
        architecture: a JSON object from which `rebuild_text_tower` makes the same functions again.
        params: {"backbone": nested dict, "head": {"kernel" float32 [H, D], "bias" float32 [D]}}; some published heads
            have no bias, some towers no head at all.
        tokenizer: made for the backbone's vocabulary.
        backbone: the module the features come from; how it is called is no business of the caller's.
    """

    name: str
    architecture: dict[str, Any]
    params: dict[str, Params]
    tokenizer: Tokenizer
    backbone: nn.Module

    @property
    def feature_dim(self) -> int:
        """H, the width of the pooled features."""
        return self.architecture["backbone"]["width"]

    @property
    def out_dim(self) -> int:
        """D, the dimension of the image embeddings."""
        return self.architecture["out_dim"]

    @property
    def max_text_length(self) -> int:
        """L, the row length the tower was made for."""
        return self.architecture["max_text_length"]

    @property
    def compute_dtype(self) -> str:
        """What the backbone's products are computed in."""
        return self.backbone.config.compute_dtype

    @property
    def blind_to_padding(self) -> bool:
        """Whether a row of tokens means the same without the padding behind it."""
        return self.backbone.config.blind_to_padding

    def features(
        self,
        backbone_params: Params,
        tokens: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
        row_offset: int | jax.Array = 0,
    ) -> jax.Array:
        """Pooled features of a batch, or of a microbatch of one.

        Args:
            backbone_params: the tree of `params["backbone"]`.
            tokens: int32 [B, L].
            dropout_key: the step's key; None means no dropout.
            row_offset: int32 [], the place of the first row in the whole batch. Masks follow from the key
                and a row's place alone, so any way to cut the batch gives the same ones.

        Returns:
            float32 [B, H].
        """
        keys = row_keys(dropout_key, tokens.shape[0], row_offset)
        return jnp.asarray(self.backbone.apply({"params": backbone_params}, tokens, keys))

    def project(self, head_params: Params, features: jax.Array) -> jax.Array:
        """features @ kernel + bias, as far as there are such: float32 [B, H] → float32 [B, D], not normalised."""
        if "kernel" in head_params:
            features = features @ head_params["kernel"]
        return features + head_params["bias"] if "bias" in head_params else features

    def embed(
        self,
        params: dict[str, Params],
        tokens: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
        row_offset: int | jax.Array = 0,
    ) -> jax.Array:
        """`project` of `features`: int32 [B, L] → float32 [B, D], not normalised."""
        features = self.features(params["backbone"], tokens, dropout_key=dropout_key, row_offset=row_offset)
        return self.project(params.get("head", {}), features)
