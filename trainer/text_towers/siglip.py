"""The text transformer of SigLIP, SigLIP 2 and LiT's small models, from a checkpoint or from scratch."""

import re
from collections.abc import Mapping

import numpy as np
from flax.traverse_util import flatten_dict

from trainer.text_towers.checkpoint import TextCheckpoint, bfloat16_names, take_head
from trainer.text_towers.family import Family, FolderForm, Order, Start
from trainer.text_towers.torch_layout import renamed
from trainer.text_towers.tower import TextTower
from trainer.text_towers.transformer import Transformer, TransformerConfig, init_transformer, to_params
from trainer.tokenizers import Tokenizer, train_wordpiece

STACKED = "Encoder_0/encoderblock/"  # all blocks in one array each
FIRST_QUERY = "MultiHeadDotProductAttention_0/query/kernel"
GEMMA_PIECES = (
    256_000  # SigLIP 2's vocabulary, whose pad token pads; all others are padded with their end token
)


def start(order: Order) -> Start:
    """The tower of a checkpoint (a Hugging Face folder, the reference's npz), or a small one that knows nothing.

    Raises:
        ValueError: it is another kind of checkpoint, or its tensors do not fit: all are named at once.
    """
    if order.checkpoint is None:
        return _start_from_scratch(order)
    if order.checkpoint.folder is not None:
        return _start_hf(order, order.checkpoint)
    return _start_reference(order, order.checkpoint)


def _start_from_scratch(order: Order) -> Start:
    config = order.config
    if order.texts is None or order.length is None:
        raise ValueError(
            "tokenizer_texts: text tower transformer learns its vocabulary from captions, found none."
        )
    tokenizer = train_wordpiece(order.texts(), config.vocab_size)
    transformer = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        positions=order.length,
        width=config.text_width,
        depth=config.text_depth,
        heads=config.text_heads or max(1, config.text_width // 64),
        mlp=config.text_mlp or 4 * config.text_width,
        pool=config.text_pool or "mean",
        mask_pads=not config.text_attend_pads,
        pad_id=tokenizer.pad_id,
        dropout=config.text_dropout,
        compute_dtype=config.compute_dtype,
    )
    return Start(Transformer(transformer), init_transformer(transformer, order.random), tokenizer)


def _start_reference(order: Order, checkpoint: TextCheckpoint) -> Start:
    tensors = checkpoint.text_tensors()
    if "Embed_0/embedding" not in tensors:
        raise ValueError(
            f"{checkpoint.source}: a text transformer's weight file must be in the reference's layout "
            f"(Embed_0/embedding, …), found {', '.join(sorted(tensors)[:3])}, … For weights of Hugging Face give their "
            "folder."
        )
    layout = {
        "reference": True,
        "scan": any(name.startswith(STACKED) for name in tensors),
        "bfloat16": bfloat16_names(tensors),
    }
    head = take_head(tensors)
    rule = "siglip2" if len(tensors["Embed_0/embedding"]) == GEMMA_PIECES else "siglip"
    start = _assemble(order, tensors, order.tokenizer(rule), checkpoint.source)
    return start._replace(head=head if head or checkpoint.is_two_tower else None, layout=layout)


def _start_hf(order: Order, checkpoint: TextCheckpoint) -> Start:
    hf = checkpoint.configured([*_DUAL, *_ALONE])
    text = hf.get("text_config", {}) if hf["model_type"] in _DUAL else hf
    wrong = [
        f"{key} must be {want!r}, found {text[key]!r}"
        for key, want in _FIXED.items()
        if text.get(key, want) != want
    ]
    if wrong:
        raise ValueError(
            f"{checkpoint.source}/config.json: this tower computes what SigLIP does: {'; '.join(wrong)}."
        )
    tensors = renamed(checkpoint.tensors, _spelling, checkpoint.source)
    head = (
        {
            "kernel": np.array(tensors.pop("head.weight").T, np.float32, order="C"),
            "bias": np.array(tensors.pop("head.bias"), np.float32),
        }
        if {"head.weight", "head.bias"} <= set(tensors)
        else None
    )
    if head is None:
        raise ValueError(
            f"{checkpoint.source}: must hold text_model.head.weight and .bias, found other tensors."
        )
    heads = text.get("num_attention_heads", 12)
    reference = {_reference_name(name): _turned(name, tensor, heads) for name, tensor in tensors.items()}
    return _assemble(order, reference, order.tokenizer(), checkpoint.source)._replace(head=head)


def _assemble(order: Order, tensors: Mapping[str, np.ndarray], tokenizer: Tokenizer, source: str) -> Start:
    """A start from tensors in the reference's layout, all sizes read from them."""
    config = order.config
    transformer = TransformerConfig(
        **_sizes(tensors, source),
        pool=config.text_pool or ("map" if "MAPHead_0/probe" in tensors else "last"),
        mask_pads=False,
        pad_id=tokenizer.pad_id,
        dropout=config.text_dropout,
        compute_dtype=config.compute_dtype,
    )
    return Start(Transformer(transformer), to_params(tensors, transformer, source), tokenizer)


def _sizes(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, int]:
    """All sizes, from the shapes of five tensors."""
    blocks = {
        int(found[1]) for name in tensors if (found := re.match(r"Encoder_0/encoderblock_(\d+)/", name))
    }
    scan = not blocks
    block = STACKED if scan else f"Encoder_0/encoderblock_{min(blocks)}/"
    wanted = {
        "Embed_0/embedding": 2,
        "pos_embedding": 3,
        block + FIRST_QUERY: 3 + scan,
        f"{block}MlpBlock_0/Dense_0/kernel": 2 + scan,
    }
    wrong = [name for name, axes in wanted.items() if name not in tensors or tensors[name].ndim != axes]
    if wrong:
        raise ValueError(
            f"{source}: a text transformer must hold {', '.join(wrong)} with as many axes as the reference's, found "
            f"none such among {', '.join(sorted(tensors)[:5])}, …"
        )
    table, positions, query, hidden = (tensors[name].shape for name in wanted)
    return {
        "vocab_size": table[0],
        "positions": positions[1],
        "width": table[1],
        "depth": query[0] if scan else 1 + max(blocks),
        "heads": query[-2],
        "mlp": hidden[-1],
    }


_DUAL, _ALONE = ("siglip", "siglip2"), ("siglip_text_model", "siglip2_text_model")
_FIXED = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_OTHER_HALF = ("vision_model.", "logit_scale", "logit_bias")
_PLACES = {
    "embeddings.token_embedding.weight": "Embed_0/embedding",
    "embeddings.position_embedding.weight": "pos_embedding",
    "final_layer_norm": "Encoder_0/encoder_norm",
    "layer_norm1": "LayerNorm_0",
    "layer_norm2": "LayerNorm_1",
    "mlp.fc1": "MlpBlock_0/Dense_0",
    "mlp.fc2": "MlpBlock_0/Dense_1",
    "self_attn.q_proj": "MultiHeadDotProductAttention_0/query",
    "self_attn.k_proj": "MultiHeadDotProductAttention_0/key",
    "self_attn.v_proj": "MultiHeadDotProductAttention_0/value",
    "self_attn.out_proj": "MultiHeadDotProductAttention_0/out",
}

_NAMES = {ours: theirs for theirs, ours in _PLACES.items()}


def _spelling(name: str) -> str | None:
    name = name.removeprefix("text_model.")
    return None if name.startswith(_OTHER_HALF) or name.endswith("position_ids") else name


def _reference_name(name: str) -> str:
    """encoder.layers.0.mlp.fc1.weight → Encoder_0/encoderblock_0/MlpBlock_0/Dense_0/kernel; unknown ones stay."""
    if name in _PLACES:
        return _PLACES[name]
    block = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name)
    stem, _, leaf = (block[2] if block else name).rpartition(".")
    if stem not in _PLACES or leaf not in ("weight", "bias"):
        return name
    if leaf == "weight":
        leaf = "scale" if "norm" in stem else "kernel"
    return f"Encoder_0/encoderblock_{block[1]}/{_PLACES[stem]}/{leaf}" if block else f"{_PLACES[stem]}/{leaf}"


def _turned(name: str, tensor: np.ndarray, heads: int) -> np.ndarray:
    """A tensor of Hugging Face as the reference lays it out: kernels turned, attention's split into its heads."""
    if "position_embedding" in name:
        return tensor[None]
    if "norm" in name or "embedding" in name or "." not in name:
        return tensor
    matrix = name.endswith(".weight") and tensor.ndim == 2
    if "self_attn" not in name:
        return tensor.T if matrix else tensor
    if ".out_proj." in name:
        return tensor.T.reshape(heads, -1, tensor.shape[0]) if matrix else tensor
    if matrix:
        return tensor.T.reshape(tensor.shape[1], heads, -1)
    return tensor.reshape(heads, -1)


def to_folder(tower: TextTower) -> FolderForm:
    """A tower as SiglipTextModel, which reads the last position of rows that it looks at whole.

    Raises:
        ValueError: it pools in another way.
    """
    config: TransformerConfig = tower.backbone.config
    if config.mask_pads or config.pool != "last":
        masked = ", padding masked" * config.mask_pads
        raise ValueError(
            "--format hf: a text transformer must be read at the last position of rows that it looks at whole, as "
            f"SigLIP's, found --text-pool {config.pool}{masked}. Train with --text-attend-pads --text-pool last, or "
            "take --format safetensors."
        )
    hf = {
        "architectures": ["SiglipTextModel"],
        "model_type": "siglip_text_model",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp,
        "max_position_embeddings": config.positions,
        "projection_size": tower.out_dim,
        "pad_token_id": config.pad_id,
        **dict.fromkeys(("bos_token_id", "eos_token_id")),  # not asked for: the last position counts
        "attention_dropout": 0.0,
        **_FIXED,
    }
    flat = flatten_dict(tower.params["backbone"], sep="/")
    tensors = {_hf_name(name): _turned_back(name, np.asarray(leaf)) for name, leaf in flat.items()}
    head = tower.params.get("head", {})
    kernel = np.asarray(head.get("kernel", np.eye(config.width, dtype=np.float32)))
    tensors["head.weight"] = kernel.T
    tensors["head.bias"] = np.asarray(head.get("bias", np.zeros(kernel.shape[1], np.float32)))
    contiguous = {f"text_model.{name}": np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return FolderForm(hf, contiguous, None)


def _hf_name(name: str) -> str:
    """The inverse of `_reference_name`."""
    if name in _NAMES:
        return _NAMES[name]
    stem, _, leaf = name.rpartition("/")
    block = re.fullmatch(r"Encoder_0/encoderblock_(\d+)/(.+)", stem)
    place = f"encoder.layers.{block[1]}.{_NAMES[block[2]]}" if block else _NAMES[stem]
    return f"{place}.{'bias' if leaf == 'bias' else 'weight'}"


def _turned_back(name: str, leaf: np.ndarray) -> np.ndarray:
    """The inverse of `_turned`, of a leaf under the reference's name."""
    if name == "pos_embedding":
        return leaf[0]
    if "MultiHeadDotProductAttention" not in name:
        return leaf.T if name.endswith("kernel") else leaf
    if name.endswith("bias"):
        return leaf.reshape(-1)
    width = leaf.shape[-1] if "/out/" in name else leaf.shape[0]
    return leaf.reshape(-1, width).T if "/out/" in name else leaf.reshape(width, -1).T


FAMILY = Family(
    start, lambda backbone: Transformer(TransformerConfig(**backbone)), from_scratch=True, to_folder=to_folder
)
PUBLISHED = FAMILY._replace(from_scratch=False)
