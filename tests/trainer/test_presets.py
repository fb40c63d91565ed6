"""Presets hold the papers' numbers; later flags win; what is the user's is asked for."""

import inspect

import pytest

from trainer.command_line import parse
from trainer.presets import PRESETS

USUAL = ["--store", "S", "--output", "R", "--text-checkpoint", "bert"]


def test_lit_on_cc12m():
    """LiT (arXiv 2111.07991), App. D and Tab. 13: 200M pairs, Adam 1e-3 with decay 1e-4, warm-up 2k, cosine."""
    config = parse(["--preset", "lit_b16_cc12m", *USUAL])
    assert config.batch_size * config.steps == pytest.approx(200e6, rel=0.02)
    optimizer = config.optimizer
    assert (optimizer.optimizer, optimizer.peak_rate, optimizer.warmup_steps) == (
        "reference-adam",
        1e-3,
        2000,
    )
    assert (optimizer.customs.beta1, optimizer.customs.beta2, optimizer.customs.weight_decay) == (
        0.9,
        0.999,
        1e-4,
    )
    assert (optimizer.schedule, optimizer.clip_norm, config.data.max_text_length) == ("cosine", 1.0, 16)
    assert config.loss.duplicates == "ignore"


def test_the_public_large_lit():
    """Tab. 1: 983M pairs in batches of 16,384, Adafactor at 8e-4."""
    config = parse(["--preset=lit_l16l_public", *USUAL])
    assert config.batch_size * config.steps == pytest.approx(983e6, rel=0.001)
    assert (config.optimizer.optimizer, config.optimizer.peak_rate) == ("reference-adafactor", 8e-4)


def test_siglit_in_a_day():
    """SigLIP (arXiv 2303.15343), section 4.4: 32k for 65k steps, Lion 1e-4, decay 1e-7, warm-up 6.5k."""
    config = parse(["--preset", "siglit_b", *USUAL[:4]])
    assert (config.batch_size, config.steps, config.optimizer.warmup_steps) == (32_768, 65_000, 6_500)
    assert (config.loss.loss, config.loss.logit_scale_init, config.loss.logit_bias_init) == (
        "sigmoid",
        10,
        -10,
    )
    # Here Lion's decay is multiplied by the learning rate.
    assert config.optimizer.peak_rate * config.optimizer.customs.weight_decay == pytest.approx(1e-7)
    assert (config.text.text_width, config.text.text_depth) == (1024, 12)


def test_later_flags_win_and_the_rest_stays():
    config = parse(["--preset", "lit_b16_cc12m", *USUAL, "--steps", "70000", "--seed", "3"])
    assert (config.steps, config.seed, config.batch_size) == (70_000, 3, 16_384)
    assert config.data.store == ("S",)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_asks_for_what_is_the_users_and_names_its_source(name, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--preset", name])
    assert stop.value.code == 2
    assert "--store" in capsys.readouterr().err
    text = inspect.getdoc(PRESETS[name])
    assert "arXiv" in text or "our own" in text


def test_an_unknown_preset_lists_the_known():
    with pytest.raises(ValueError, match=r"must be one of lit_b16_cc12m, .*found lit"):
        parse(["--preset", "lit", *USUAL])
