"""One CLIP ViT-B/32 of random weights for every engine, as open_clip and as Hugging Face write it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

NAME, SIDE, DIM = "ViT-B-32", 224, 512
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

RENAMED = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "ln_pre": "vision_model.pre_layrnorm",
    "ln_post": "vision_model.post_layernorm",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def write_open_clip(path: Path, seed: int = 0) -> Path:
    """open_clip's whole model as it starts training, in its checkpoint format."""
    import open_clip
    import torch

    torch.manual_seed(seed)
    torch.save(open_clip.create_model(NAME).state_dict(), path)
    return path


def write_hugging_face(folder: Path, checkpoint: Path) -> Path:
    """The image tower of that checkpoint as a Hugging Face folder."""
    import torch
    from safetensors.numpy import save_file

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    tensors = {
        name: np.ascontiguousarray(array)
        for key, value in state.items()
        if key.startswith("visual.")
        for name, array in renamed(key.removeprefix("visual."), value.numpy())
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config()))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor()))
    return folder


def renamed(name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """open_clip's tensor under Hugging Face's name; three of them where one holds query, key and value."""
    if name == "proj":
        yield "visual_projection.weight", array.T
        return
    block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.*)", name)
    at, rest = (f"vision_model.encoder.layers.{block[1]}.", block[2]) if block else ("", name)
    if kind := re.fullmatch(r"attn\.in_proj_(weight|bias)", rest):
        for part, third in zip("qkv", np.split(array, 3), strict=True):
            yield f"{at}self_attn.{part}_proj.{kind[1]}", third
        return
    stem, dot, kind_name = rest.rpartition(".")
    yield (at + (RENAMED.get(rest) or f"{RENAMED[stem]}{dot}{kind_name}")), array


def config() -> dict[str, Any]:
    """`config.json`: open_clip's ViT-B-32 has the exact GELU, OpenAI's own the quick one."""
    sizes = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    }
    rest = {"patch_size": 32, "image_size": SIDE, "projection_dim": DIM, "hidden_act": "gelu"}
    return {
        "model_type": "clip_vision_model",
        "architectures": ["CLIPVisionModelWithProjection"],
        "layer_norm_eps": 1e-5,
        **sizes,
        **rest,
    }


def processor() -> dict[str, Any]:
    """`preprocessor_config.json`: the short side to 224, bicubic, then the centre."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIDE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
