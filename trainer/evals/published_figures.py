"""What the authors of released dual encoders report for them, to stand beside what is measured here."""

# Percent. Sources: the LiT README and model card, and the READMEs of CLIPPO and SigLIP 2, all of
# google-research/big_vision; CIFAR-100 of LiT-B16B: the notebook of google-research/vision_transformer; SigLIP and
# CLIP: Tab. 3 of arXiv 2303.15343.
_NAMES = (
    "ImageNet top-1",
    "ImageNet-v2 top-1",
    "CIFAR-100 top-1",
    "Pets top-1",
    "Resisc45 top-1",
    "COCO I→T R@1",
    "COCO T→I R@1",
)
_ROWS: dict[str, tuple[float | None, ...]] = {
    "LiT-B16B": (72.1, None, 79.19, 81.0, None, 49.4, 31.1),
    "LiT-B16B_2": (73.9, 65.1, 79.0, 83.3, 25.3, 51.5, 31.8),
    "LiT-L16L": (75.7, 66.6, 80.5, 83.3, 25.6, 48.5, 31.2),
    "coco_B16B": (20.7, None, None, None, None, 47.2, 32.1),
    "clippo_b16_yfcc100m": (43.4, None, 45.35, None, None, 34.7, 19.7),
    "clippo_b16_yfcc100m_i21k_init": (47.4, None, 51.83, None, None, 36.1, 21.3),
    "clippo_b16_yfcc100m_i21k_init_25c4": (44.8, None, 50.92, None, None, 33.3, 19.4),
    "clippo_b16_yfcc100m_i21k_init_50c4": (42.0, None, 48.62, None, None, 31.4, 17.8),
    "clippo_b16_yfcc100m_i21k_init_75c4": (33.4, None, 42.04, None, None, 26.6, 14.6),
    "webli_en_b16_224_63724782": (76.2, None, None, None, None, 64.4, 47.2),
    "webli_en_l16_256_60552751": (80.5, None, None, None, None, 69.5, 51.1),
    "webli_en_so400m_384_58765454": (83.2, None, None, None, None, 70.2, 52.0),
    "clip-vit-base-patch16": (68.3, None, None, None, None, 52.4, 33.1),
    "clip-vit-large-patch14": (75.5, None, None, None, None, 56.3, 36.5),
    "siglip2_b16_224": (78.2, None, None, None, None, 68.9, 52.1),
    "siglip2_b16_256": (79.1, None, None, None, None, 69.7, 53.2),
}


# The same weights as a Hugging Face folder.
_FOLDERS = {
    "siglip-base-patch16-224": "webli_en_b16_224_63724782",
    "siglip-large-patch16-256": "webli_en_l16_256_60552751",
    "siglip-so400m-patch14-384": "webli_en_so400m_384_58765454",
    "siglip2-base-patch16-224": "siglip2_b16_224",
    "siglip2-base-patch16-256": "siglip2_b16_256",
}


def published_figures(file: str) -> dict[str, float]:
    """The authors' figures for a released file, in percent.

    Args:
        file: bare name of the file or folder, such as `LiT-B16B_2.npz`, or `org/model` of the hub; anything else than a
            released name has none.
    """
    name = file.rpartition("/")[2].removesuffix(".npz")
    row = _ROWS.get(_FOLDERS.get(name, name), ())
    return {name: figure for name, figure in zip(_NAMES, row, strict=False) if figure is not None}
