"""Every released size built for shapes alone, against the documented names and shapes; nothing is allocated."""

import dataclasses
import math

import flax.linen as nn
import pytest

from trainer.text_towers.bert import Bert, BertConfig
from trainer.text_towers.bert_reference import REFERENCE, reference_name
from trainer.text_towers.clip import Clip, ClipConfig
from trainer.text_towers.modernbert import ModernBert, ModernBertConfig
from trainer.text_towers.t5 import T5, T5Config
from trainer.text_towers.torch_layout import parameter_shapes
from trainer.text_towers.transformer import Transformer, TransformerConfig

Shapes = dict[str, tuple[int, ...]]


def _module(place: str, kernel: tuple[int, ...], bias: tuple[int, ...] | None = None) -> Shapes:
    return {f"{place}/kernel": kernel, f"{place}/bias": bias or kernel[-1:]}


def _norm(place: str, width: int) -> Shapes:
    return {f"{place}/scale": (width,), f"{place}/bias": (width,)}


def _lit_bert(width: int, mlp: int, layers: int) -> Shapes:
    shapes: Shapes = {
        "BertEncoder_0/embedder/embedders_token_ids/embedding": (30_522, width),
        "BertEncoder_0/embedder/embedders_position_ids/embedding": (512, width),
        "BertEncoder_0/embedder/embedders_segment_ids/embedding": (2, width),
        **_norm("BertEncoder_0/layer_norm", width),
    }
    for i in range(layers):
        at = f"BertEncoder_0/encoder_block/layer_sequence/layers_{i}"
        for name in ("query", "key", "value"):
            shapes |= _module(f"{at}/attention_block/attention_layer/{name}", (width, width))
        shapes |= _module(f"{at}/attention_block/dense_layer", (width, width))
        shapes |= _norm(f"{at}/attention_block/layer_norm", width)
        shapes |= _module(f"{at}/mlp_block/mlp/dense_layer", (width, mlp))
        shapes |= _module(f"{at}/mlp_block/dense_layer", (mlp, width))
        shapes |= _norm(f"{at}/mlp_block/layer_norm", width)
    return shapes


def _text_transformer(width: int, layers: int, mlp: int, heads: int, vocab: int, length: int) -> Shapes:
    split = (heads, width // heads)
    shapes: Shapes = {"Embed_0/embedding": (vocab, width), "pos_embedding": (1, length, width)}
    for i in range(layers):
        at = f"Encoder_0/encoderblock_{i}"
        attention = f"{at}/MultiHeadDotProductAttention_0"
        for name in ("query", "key", "value"):
            shapes |= _module(f"{attention}/{name}", (width, *split), split)
        shapes |= _module(f"{attention}/out", (*split, width))
        shapes |= _module(f"{at}/MlpBlock_0/Dense_0", (width, mlp))
        shapes |= _module(f"{at}/MlpBlock_0/Dense_1", (mlp, width))
        shapes |= _norm(f"{at}/LayerNorm_0", width) | _norm(f"{at}/LayerNorm_1", width)
    return shapes | _norm("Encoder_0/encoder_norm", width)


@pytest.mark.parametrize(
    ("name", "width", "mlp", "layers", "heads"),
    [("LiT-B16B, LiT-B16B_2, coco_B16B", 768, 3_072, 12, 12), ("LiT-L16L", 1_024, 4_096, 24, 16)],
)
def test_bert_of_lit(name: str, width: int, mlp: int, layers: int, heads: int) -> None:
    config = dataclasses.replace(REFERENCE, width=width, mlp=mlp, depth=layers, heads=heads)
    found = {reference_name(path): shape for path, shape in parameter_shapes(Bert(config), 16).items()}
    assert found == _lit_bert(width, mlp, layers)


WIDTHS = {  # width, depth, mlp, heads
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1_536, 6),
    "B": (768, 12, 3_072, 12),
    "L": (1_024, 24, 4_096, 16),
    "So400m": (1_152, 27, 4_304, 16),
}


@pytest.mark.parametrize(
    ("name", "letter", "vocab", "length"),
    [
        ("LiT-L16S", "S", 16_000, 16),
        ("LiT-L16Ti", "Ti", 16_000, 16),
        ("siglip webli_en_b16", "B", 32_000, 64),
        ("siglip webli_en_l16", "L", 32_000, 64),
        ("siglip webli_en_so400m_224", "So400m", 32_000, 16),
        ("siglip webli_en_so400m_384", "So400m", 32_000, 64),
        ("siglip webli_i18n_b16", "B", 250_000, 64),
        ("siglip webli_i18n_so400m", "So400m", 250_000, 64),
        ("siglip2 b", "B", 256_000, 64),
        ("siglip2 l", "L", 256_000, 64),
        ("siglip2 so400m, g-opt", "So400m", 256_000, 64),
    ],
)
def test_text_transformers(name: str, letter: str, vocab: int, length: int) -> None:
    width, depth, mlp, heads = WIDTHS[letter]
    config = TransformerConfig(vocab, length, width, depth, heads, mlp, pool="last", mask_pads=False)
    shapes = parameter_shapes(Transformer(config), length)
    found = {"/".join(path): shape for path, shape in shapes.items()}
    assert found == _text_transformer(width, depth, mlp, heads, vocab, length)


@pytest.mark.parametrize(
    ("name", "module", "parameters"),
    [
        # As the model's own package counts them, pooler and projection left out.
        ("clip-vit-base-patch32", Clip(ClipConfig()), 63_165_952),
        ("clip-vit-large-patch14", Clip(ClipConfig(width=768, heads=12, mlp=3_072)), 123_060_480),
        ("bert-base-uncased", Bert(BertConfig()), 109_482_240 - 590_592),
        ("bert-large-uncased", Bert(BertConfig(width=1_024, depth=24, heads=16, mlp=4_096)), 334_092_288),
        (
            "xlm-roberta-base",
            Bert(
                BertConfig(
                    vocab_size=250_002, positions=514, token_types=1, position_rule="roberta", pad_id=1
                )
            ),
            278_043_648 - 590_592,
        ),
        (
            "paraphrase-multilingual-MiniLM-L12-v2",
            Bert(BertConfig(vocab_size=250_037, width=384, mlp=1_536)),
            117_653_760 - 147_840,
        ),
        ("t5-base", T5(T5Config(width=768, depth=12, heads=12, mlp=3_072)), 109_628_544),
        (
            "mt5-small",
            T5(T5Config(vocab_size=250_112, depth=8, heads=6, mlp=1_024, activation="gelu_new", gated=True)),
            146_940_608,
        ),
        ("ModernBERT-base", ModernBert(ModernBertConfig()), 149_014_272),
    ],
)
def test_sizes_of_hugging_face_models(name: str, module: nn.Module, parameters: int) -> None:
    assert sum(math.prod(shape) for shape in parameter_shapes(module, 16).values()) == parameters
