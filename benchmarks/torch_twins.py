"""The same models twice, ours and torch's, from the same weights: for `benchmarks.towers_vs_torch`.

Weights are random and written once in the very format that both sides load: big_vision's npz (timm reads it too),
Hugging Face and timm folders of safetensors. Torch computes as its users have it compute: `inference_mode`, its fused
attention, for bfloat16 the whole model in bfloat16.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lit_precompute.config import TowerConfig
from lit_precompute.embedder import Embedder
from lit_precompute.towers import TOWERS, load_tower
from lit_precompute.towers.tower import RandomWeights, Tower

LENGTH = 16  # tokens a caption

Forward = Callable[[], np.ndarray]  # one batch through a model: float32 [B, D]


@dataclass(frozen=True)
class Twins:
    """A batch through our model and the same batch through torch's.

    Attributes:
        unit: what a row of the batch is.
    """

    unit: str
    ours: Forward
    torch: Forward


DType = Literal["float32", "bfloat16"]
Make = Callable[[DType, int, Path], Twins]  # (dtype, batch, an empty folder)


def lit_vit(name: str, timm_name: str) -> Make:
    """LiT's ViT, tokens averaged, against timm's."""

    def make(dtype: DType, batch: int, folder: Path) -> Twins:
        import timm
        from flax.traverse_util import flatten_dict

        drawn = TOWERS[name](TowerConfig(name, "random:0"), RandomWeights(0))
        file = folder / "vit.npz"
        np.savez(
            file, **{f"params/{path}": leaf for path, leaf in flatten_dict(drawn.params, sep="/").items()}
        )
        model = timm.create_model(
            timm_name,
            class_token=False,
            global_pool="avg",
            fc_norm=False,
            act_layer="gelu_tanh",
            num_classes=0,
        )
        model.load_pretrained(str(file))
        tower = load_tower(TowerConfig(name, str(file), compute_dtype=dtype))
        return _image_twins(tower, model, dtype, batch)

    return make


def timm_vit(timm_name: str) -> Make:
    """timm's ViT with its class token, from the folder timm writes."""

    def make(dtype: DType, batch: int, folder: Path) -> Twins:
        import timm
        import torch

        torch.manual_seed(0)
        model = timm.create_model(timm_name, num_classes=0)
        config = {"architecture": timm_name, "num_classes": 0, "global_pool": "token"}
        _write_folder(folder, config | {"pretrained_cfg": {"input_size": [3, 224, 224]}}, model)
        tower = load_tower(TowerConfig("timm-vit", str(folder), compute_dtype=dtype))
        return _image_twins(tower, model, dtype, batch)

    return make


def clip_vit(dtype: DType, batch: int, folder: Path) -> Twins:
    """CLIP's ViT-B/32 with its projection, from the folder transformers writes, against open_clip's of its sizes."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=512))
    model.save_pretrained(folder)
    tower = load_tower(TowerConfig("clip-vit-b-32", str(folder), compute_dtype=dtype))
    return _image_twins(tower, model, dtype, batch, lambda output: output.image_embeds)


def efficientnet_lite0(dtype: DType, batch: int, folder: Path) -> Twins:
    """EfficientNet-Lite0 against timm's port of the TensorFlow one."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics that change something
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    tensors = {lite0_name(name): tensor for name, tensor in model.state_dict().items()}
    tensors |= {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    save_file(tensors, folder / "lite0.safetensors")
    tower = load_tower(
        TowerConfig("efficientnet-lite0", str(folder / "lite0.safetensors"), compute_dtype=dtype)
    )
    return _image_twins(tower, model, dtype, batch)


def lite0_name(timm_name: str) -> str:
    """timm's name of a tensor as efficientnet-lite-pytorch has it: blocks are counted through, not by stage."""
    starts = (0, 1, 3, 5, 8, 11, 15)  # number of each stage's first block
    match = re.fullmatch(r"blocks\.(\d)\.(\d)\.(\w+)\.(\w+)", timm_name)
    if match is None:
        stems = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
        stem, leaf = timm_name.split(".")
        return f"{stems[stem]}.{leaf}"
    first = match[1] == "0"  # its blocks do not widen, so their convolutions start at the depthwise one
    parts = {
        **{"conv_pw": "_project_conv" if first else "_expand_conv", "conv_dw": "_depthwise_conv"},
        **{"conv_pwl": "_project_conv", "bn1": "_bn1" if first else "_bn0"},
        **{"bn2": "_bn2" if first else "_bn1", "bn3": "_bn2"},
    }
    return f"_blocks.{starts[int(match[1])] + int(match[2])}.{parts[match[3]]}.{match[4]}"


def bert_base(dtype: DType, batch: int, folder: Path) -> Twins:
    """BERT-base over captions of 16 tokens, of which 6 to 16 are real, against transformers'."""
    import torch
    from transformers import BertConfig as TheirConfig
    from transformers import BertModel

    from trainer.evals.embed_text import CompiledEmbed
    from trainer.text_towers.bert import Bert, BertConfig
    from trainer.text_towers.bert_checkpoint import read_bert
    from trainer.text_towers.checkpoint import read_text_checkpoint

    torch.manual_seed(0)
    model = BertModel(TheirConfig(), add_pooling_layer=False).eval().to(getattr(torch, dtype))
    model.save_pretrained(folder)
    base = BertConfig(compute_dtype=dtype)
    config, params = read_bert(read_text_checkpoint(str(folder)), base, "bert", "cls")
    module = Bert(config)
    random = np.random.default_rng(0)
    tokens = random.integers(1000, config.vocab_size, (batch, LENGTH), np.int32)
    tokens[np.arange(LENGTH) >= random.integers(6, LENGTH + 1, (batch, 1))] = 0

    def embed(params: Any, tokens: Any) -> Any:
        return module.apply({"params": params}, tokens)

    ours = CompiledEmbed(embed, dtype)
    params = ours.prepared(params)
    ids = torch.from_numpy(tokens.astype(np.int64))
    mask = (ids != 0).long()

    def theirs() -> np.ndarray:
        with torch.inference_mode():
            return model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0].float().numpy()

    return Twins("captions", lambda: np.asarray(ours(params, tokens), np.float32), theirs)


def _write_folder(folder: Path, config: dict[str, Any], model: Any) -> None:
    from safetensors.torch import save_file

    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(model.state_dict(), folder / "model.safetensors")


def _image_twins(
    tower: Tower, model: Any, dtype: DType, batch: int, take: Callable[[Any], Any] = lambda output: output
) -> Twins:
    """Ours through the embedder that lit-embed runs; torch's gets its pixels as float32 or bfloat16, already scaled."""
    import torch

    settings = tower.preprocess
    size = settings.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    mean, std = (np.asarray(value, np.float32) for value in (settings.mean, settings.std))
    scaled = torch.from_numpy((pixels.astype(np.float32) - mean) / std).permute(0, 3, 1, 2).contiguous()
    scaled = scaled.to(getattr(torch, dtype))
    model = model.eval().to(getattr(torch, dtype))
    embedder = Embedder(tower, batch)

    def ours() -> np.ndarray:
        return np.stack([vector for _, vector in embedder.stream((None, image) for image in pixels)])

    def theirs() -> np.ndarray:
        with torch.inference_mode():
            return take(model(scaled)).float().numpy()

    return Twins("images", ours, theirs)


MODELS: dict[str, Make] = {
    "vit-b-32": lit_vit("vit-b-32", "vit_base_patch32_224"),
    "vit-b-16": lit_vit("vit-b-16", "vit_base_patch16_224"),
    "vit-l-16": lit_vit("vit-l-16", "vit_large_patch16_224"),
    "timm-vit-b-32": timm_vit("vit_base_patch32_224"),
    "clip-vit-b-32": clip_vit,
    "efficientnet-lite0": efficientnet_lite0,
    "bert-base": bert_base,
}
