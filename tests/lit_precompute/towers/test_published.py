import re
from dataclasses import replace

import pytest

from lit_precompute.config import TowerConfig
from lit_precompute.towers import TOWERS, checkpoint_of, list_towers, load_tower
from lit_precompute.towers.cost import cost
from lit_precompute.towers.costs import COSTS
from lit_precompute.towers.published import PUBLISHED, settled

# Families, which take any size a checkpoint has.
FAMILIES = {
    *("vit", "vit-sincos2d", "bit", "mixer", "clip", "siglip", "siglip2", "siglip2-naflex"),
    *("dinov2", "dinov3", "convnext", "hf-vit", "timm-vit"),
}


def test_every_published_name_is_a_tower_with_a_size():
    assert set(PUBLISHED) <= set(TOWERS)
    assert set(COSTS) == set(TOWERS) - FAMILIES
    assert len(PUBLISHED) > 100


def test_addresses():
    """Spelt out where the rules that make them could go wrong."""
    for name, expected in {
        "lit-b16b_2": "gs://vit_models/lit/LiT-B16B_2.npz",
        "augreg-ti-16": "gs://vit_models/augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0.npz",
        "augreg-l-16": "gs://vit_models/augreg/L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0.npz",
        "siglip2-npz-so400m-14-384": "gs://big_vision/siglip2/siglip2_so400m14_384.npz",
        "siglip2-npz-giant-opt-16-256": "gs://big_vision/siglip2/siglip2_g-opt16_256.npz",
        "siglip2-so400m-16-256": "hf://google/siglip2-so400m-patch16-256",
        "siglip-base-16-224": "hf://google/siglip-base-patch16-224@7fd15f0689c79d79e38b1c2e2e2370a7bf2761ed",
        "clippo-b16-yfcc100m-i21k-init-25c4": "gs://big_vision/clippo/clippo_b16_yfcc100m_i21k_init_25c4.npz",
        "bit-m-r152x4": "gs://bit_models/BiT-M-R152x4.npz",
        "mixer-l-16-i1k": "gs://mixer_models/imagenet1k/Mixer-L_16.npz",
        "dinov2-large": "hf://facebook/dinov2-large@47b73eefe95e8d44ec3623f8890bd894b6ea2d6c",
        "dinov2-large-registers": "hf://facebook/dinov2-with-registers-large",
        "timm-vit-b-32": "hf://timm/vit_base_patch32_224.augreg_in21k",
    }.items():
        assert checkpoint_of(TowerConfig(name)) == expected
    assert all(
        re.fullmatch(r"gs://[\w./-]+\.npz|hf://[\w-]+/[\w.-]+(@[0-9a-f]{40})?", known.checkpoint)
        for known in PUBLISHED.values()
    )


def test_what_is_said_goes_before_what_is_known():
    config = settled(TowerConfig("lit-b16b"))
    assert (config.checkpoint, config.resize) == ("gs://vit_models/lit/LiT-B16B.npz", "full")
    said = TowerConfig("bit-m-r50x1", "own.npz", resize="full", features="head")
    assert settled(said) == said
    assert settled(replace(said, features="default")).features == "pre-head"


def test_without_a_known_place_a_checkpoint_must_be_given():
    for name in ("vit-b-16", "efficientnet-lite0", "timm-vit"):
        with pytest.raises(ValueError, match=f"--checkpoint: must say where the weights of {name} are"):
            load_tower(TowerConfig(name))
        assert checkpoint_of(TowerConfig(name)) is None


def test_a_head_that_is_not_there(golden_dir):
    path = str(golden_dir / "vit/gap.params.npz")
    assert load_tower(TowerConfig("vit", path, features="head")).info.features == "head"
    with pytest.raises(ValueError, match="--features head: the checkpoint of vit-mu-32 must have a head"):
        load_tower(TowerConfig("vit-mu-32", "random:0", features="head"))


def test_a_classifier_by_name_is_stored_without_its_head():
    tower = load_tower(TowerConfig("mixer-b-16-i1k", "random:0"))
    assert (tower.info.features, tower.info.embedding_dim) == ("pre-head", 768)


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet-lite0",
        "vit-s-32",
        "clippo-b16-100c4",
        "dinov2-giant",
        "convnext-tiny",
        "siglip2-base-16-naflex",
    ],
)
def test_the_table_of_costs_is_what_the_networks_cost(name):
    found = cost(settled(TowerConfig(name, "random:0")), TOWERS[name])
    assert (found.dim, found.image_size, found.parameters, found.flops) == COSTS[name]


def test_costs_of_the_papers():
    """Millions of parameters, and GFLOPs with two for a multiply-add, of which the papers give half: CLIP B/32 4.4,
    BiT-R50 4.1, ConvNeXt-T 4.5, So400m/14 at 384 335, EfficientNet-Lite0 0.38. Of CLIP's last block we compute keys and
    values, and all else for the class token alone: 10 of 144 parts less.
    """
    for name, millions, gflops in (
        ("clip-vit-b-32", 87.85, 8.8 * 134 / 144),
        ("bit-r50x1", 23.5, 8.2),
        ("convnext-tiny", 27.8, 8.9),
        ("siglip2-so400m-14-384", 428, 670),
        ("efficientnet-lite0", 3.4, 0.77),
    ):
        _, _, parameters, flops = COSTS[name]
        assert parameters / 1e6 == pytest.approx(millions, rel=0.02)
        assert flops / 1e9 == pytest.approx(gflops, rel=0.02)


def test_the_list(capsys):
    from pipelines.embed import main

    assert main(["--list-towers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(TOWERS) + 1 == len(list(list_towers()))
    (line,) = (line for line in lines if line.startswith("lit-b16b_2 "))
    assert line.split() == ["lit-b16b_2", "768", "224", "85.8", "32.7", "gs://vit_models/lit/LiT-B16B_2.npz"]
    (line,) = (line for line in lines if line.startswith("vit-b-16 "))
    assert line.endswith("give it")
