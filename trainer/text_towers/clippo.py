"""CLIPPO's one tower (arXiv 2212.08045): a ViT that reads captions drawn in a bitmap font."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from schemas.weights import subtree
from trainer.text_towers.checkpoint import take_head
from trainer.text_towers.family import Family, Order, Start
from trainer.text_towers.fitting import refuse_misfits
from trainer.text_towers.row_dropout import row_dropout
from trainer.text_towers.torch_layout import parameter_shapes
from trainer.text_towers.transformer import Encoder, MapHead, TransformerConfig
from trainer.tokenizers.rendered import RUN, Rendered, picture_side

INK, PAPER = (
    np.float32(-1.0),
    np.float32(127 / 255 * 2 - 1),
)  # what the network sees: grey levels 0 and 127 in [-1, 1]
STACKED = "Transformer/encoderblock/"
FIRST_QUERY = "MultiHeadDotProductAttention_0/query/kernel"


@dataclasses.dataclass(frozen=True)
class ClippoConfig:
    """All that decides the forward pass, as kept in a run's `text_tower.json`."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3_072
    patch: int = 16
    image_size: int = 224
    pad_id: int = 0
    vocab_size: int = 1 << RUN  # of the tokens a drawn caption comes as; the network has no table of them
    dropout: float = 0.0  # on the patches and on each branch; attention weights are never dropped
    compute_dtype: str = "float32"  # of the matrix products; parameters, sums and norms stay float32

    @property
    def max_length(self) -> int:
        """Tokens of a picture."""
        return self.image_size * self.image_size // RUN

    @property
    def fixed_length(self) -> bool:
        """Whether all rows must be as long: yes, they are pictures."""
        return True

    @property
    def blind_to_padding(self) -> bool:
        """Whether a row means the same without the padding behind it: paper is looked at."""
        return False

    def encoder(self) -> TransformerConfig:
        """The blocks', which are a text transformer's."""
        return TransformerConfig(
            vocab_size=1,
            positions=(self.image_size // self.patch) ** 2,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            mlp=self.mlp,
            pool="map",
            mask_pads=False,
            dropout=self.dropout,
            compute_dtype=self.compute_dtype,
        )


class Clippo(nn.Module):
    """Drawn captions to one pooled vector; parameters are named as the reference names its image tower's."""

    config: ClippoConfig

    @nn.compact
    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """The pooled features.

        Args:
            tokens: int32 [B, S * S / 16], drawn captions; or float32 [B, S, S, 3], images in [-1, 1].
            keys: B dropout keys, or None for no dropout.

        Returns:
            float32 [B, width].
        """
        config, encoder = self.config, self.config.encoder()
        images = tokens if tokens.ndim == 4 else drawn(tokens, config.image_size)
        dtype = jnp.dtype(config.compute_dtype)
        side = (config.patch, config.patch)
        x = nn.Conv(config.width, side, side, padding="VALID", dtype=dtype, name="embedding")(images)
        x = x.reshape(len(x), -1, config.width).astype(jnp.float32)
        x = x + self.param("pos_embedding", nn.initializers.zeros, (1, encoder.positions, config.width))
        x = Encoder(encoder, name="Transformer")(row_dropout(x, keys, 0, config.dropout), None, keys)
        return MapHead(encoder, name="MAPHead_0")(x, None)


def drawn(tokens: jax.Array, side: int) -> jax.Array:
    """The pictures of drawn captions: int32 [B, side * side / 16] → float32 [B, side, side, 3]."""
    bits = (tokens[:, :, None] >> np.arange(RUN - 1, -1, -1)) & 1
    pictures = jnp.where(bits.reshape(len(tokens), side, side, 1) == 1, INK, PAPER)
    return jnp.broadcast_to(pictures, (*pictures.shape[:3], 3))


def start(order: Order) -> Start:
    """A second copy of the tower of a CLIPPO file, to be fed with drawn captions.

    Raises:
        ValueError: it is another kind of checkpoint, its tensors do not fit (all are named at once), or there is no
            font.
    """
    checkpoint, flags = order.published(), order.config
    if flags.text_pool not in (None, "map"):
        raise ValueError(f"text_pool: CLIPPO pools by map, found {flags.text_pool!r}. Leave it out.")
    if flags.text_tokenizer is None:
        raise ValueError(
            "text_tokenizer: CLIPPO reads captions drawn in GNU Unifont, found no font. Set --text-tokenizer "
            "unifont-9.0.06.hex,unifont_upper-9.0.06.hex (of the GNU Unifont project)."
        )
    tensors = subtree(checkpoint.tensors, "img/")
    surplus = [name for name in checkpoint.tensors if not name.startswith("img/") and name != "t"]
    if not tensors or surplus:
        raise ValueError(
            f"{checkpoint.source}: CLIPPO's file must hold img/ and t, found also {surplus[:5]}."
        )
    tensors = _unstacked(tensors)
    head = take_head(tensors)
    sizes: dict[str, Any] = _sizes(tensors, checkpoint.source)
    config = ClippoConfig(**sizes, dropout=flags.text_dropout, compute_dtype=flags.compute_dtype)
    shapes = parameter_shapes(Clippo(config), config.max_length)
    refuse_misfits(tensors, {"/".join(path): shape for path, shape in shapes.items()}, checkpoint.source)
    params = {path: np.array(tensors["/".join(path)], np.float32) for path in shapes}
    tokenizer = order.tokenizer()
    if not isinstance(tokenizer, Rendered):
        raise ValueError(f"{flags.text_tokenizer}: CLIPPO needs a font (.hex), found another tokenizer.")
    return Start(Clippo(config), unflatten_dict(params), tokenizer, head)


def _unstacked(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Blocks that lie stacked in one array each, one by one."""
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith(STACKED)}
    for name, tensor in tensors.items():
        if name.startswith(STACKED):
            rest = name.removeprefix(STACKED)
            found |= {f"Transformer/encoderblock_{i}/{rest}": tensor[i] for i in range(len(tensor))}
    return found


def _sizes(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, int]:
    wanted = {
        "embedding/kernel": 4,
        "pos_embedding": 3,
        f"Transformer/encoderblock_0/{FIRST_QUERY}": 3,
        "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel": 2,
        "MAPHead_0/probe": 3,
    }
    wrong = [name for name, axes in wanted.items() if name not in tensors or tensors[name].ndim != axes]
    if wrong:
        raise ValueError(f"{source}: CLIPPO's tower must hold img/{', img/'.join(wrong)}, found none such.")
    kernel, positions, query, hidden, _ = (tensors[name].shape for name in wanted)
    blocks = {
        int(found[1]) for name in tensors if (found := re.match(r"Transformer/encoderblock_(\d+)/", name))
    }
    side = round(positions[1] ** 0.5) * kernel[0]
    picture_side(side * side // RUN)
    return {
        "width": kernel[3],
        "depth": 1 + max(blocks),
        "heads": query[1],
        "mlp": hidden[1],
        "patch": kernel[0],
        "image_size": side,
    }


FAMILY = Family(start, lambda backbone: Clippo(ClippoConfig(**backbone)))
