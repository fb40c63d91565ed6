"""The update rule of a run: which parameters move, by which optimizer, how fast.

The parameters are one tree, {"backbone": ..., "head": ..., "log_scale": ..., "bias": ...}. Weight decay reaches the
leaves named kernel only: neither biases nor norms, embedding tables, positions, log_scale or bias. The backbone has its
own learning rate, a tenth of the head's where it is pretrained. `trainer.optim.update_chain` has the equations.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optax

from trainer.optim.modules import paths_of, read_rules
from trainer.optim.schedules import Schedule, ScheduleName, duration_in_steps, schedule
from trainer.optim.update_chain import KERNELS, OptimizerName, build_chain, clamp


@dataclass(frozen=True)
class Customs:
    """What an optimizer's users expect when they say nothing."""

    beta1: float
    beta2: float
    weight_decay: float


CUSTOMS: dict[str, Customs] = {
    "adamw": Customs(0.9, 0.98, 0.05),
    # Lion's sign updates are large: its paper wants a 3-10 times smaller learning rate, as much more decay.
    "lion": Customs(0.9, 0.99, 0.5),
    # The reference's decay is not scaled by the learning rate: 1e-4 here is what 0.1 is to AdamW at 1e-3.
    "reference-adam": Customs(0.9, 0.999, 1e-4),
    "reference-adafactor": Customs(0.9, 0.999, 1e-4),
}


@dataclass(frozen=True)
class OptimizerConfig:
    """How the parameters move. None means the optimizer's own custom, see `CUSTOMS`."""

    optimizer: OptimizerName = "adamw"
    """adamw, lion, or the reference's chains, whose decay is not scaled by the learning rate"""
    learning_rate: float | None = None
    """of the head; the peak of the schedule; None: 3e-3 where only a head trains, else 1e-3"""
    backbone_learning_rate: float | None = None
    """multiplies learning_rate in the backbone; None: 0.1 where it is pretrained, 1 from scratch; 0 freezes it"""
    rate_rules: tuple[str, ...] = ()
    """factors of the learning rate, PATTERN=FACTOR, by regular expressions of whole paths such as
    backbone/layer_11/.*=0.5; the first that matches counts, and goes before backbone_learning_rate"""
    backbone_warmup_steps: int = 0
    """a further warm-up of the backbone alone, so that a new head may settle before the backbone moves"""
    beta1: float | None = None
    """decay of the momentum; None: 0.9"""
    beta2: float | None = None
    """decay of the squared gradients (adafactor: its cap); None: adamw 0.98, lion 0.99, reference 0.999"""
    weight_decay: float | None = None
    """on kernels; None: adamw 0.05, lion 0.5, reference 1e-4 (there it is not multiplied by learning_rate)"""
    decay_rules: tuple[str, ...] = ()
    """factors of the weight decay, PATTERN=FACTOR; the first that matches counts, before the rule of kernels"""
    clip_norm: float | None = 1.0
    """largest global norm of the gradient over the leaves that move; None: no clipping"""
    schedule: ScheduleName = "cosine"
    """cosine, linear, poly, rsqrt, or stair (constant)"""
    warmup_fraction: float = 0.05
    """of the run's steps, rising from 0; rounded to nearest, at least one step unless 0"""
    warmup_steps: int | None = None
    """instead of warmup_fraction"""
    cooldown_steps: int = 0
    """the last steps, falling to 0 on top of the schedule"""
    schedule_end: float = 0.0
    """the factor that linear and poly end on"""
    schedule_power: float = 2.0
    """of poly"""
    schedule_timescale: float = 10_000.0
    """of rsqrt, in steps"""
    frozen: tuple[str, ...] = ()
    """regular expressions of the paths that never move, such as backbone/.*"""
    max_log_scale: float | None = None
    """clamps log_scale after each update; CLIP's is ln 100 = 4.6052"""
    average_decay: float | None = None
    """keeps a running average of the parameters besides, such as 0.9999 of it and the rest of each update's;
    lit-eval and lit-export take it where the run has one, unless told otherwise"""

    def __post_init__(self) -> None:
        """Checks what the configuration can know alone."""
        if self.optimizer not in CUSTOMS:
            raise ValueError(f"optimizer: must be one of {', '.join(CUSTOMS)}; found {self.optimizer!r}")
        for name, least in (("learning_rate", 0.0), ("backbone_learning_rate", 0.0), ("weight_decay", 0.0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name}: must be at least {least}; found {value}")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name}: must lie in [0, 1); found {value}")
        for name in ("rate_rules", "decay_rules"):
            read_rules(name, getattr(self, name))
        if self.average_decay is not None and not 0 < self.average_decay < 1:
            raise ValueError(f"average_decay: must lie between 0 and 1, or None; found {self.average_decay}")
        if self.backbone_warmup_steps < 0:
            raise ValueError(f"backbone_warmup_steps: must be at least 0; found {self.backbone_warmup_steps}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm: must be above 0, or None for no clipping; found {self.clip_norm}")

    @property
    def peak_rate(self) -> float:
        """The learning rate in force where a tower trains."""
        return 1e-3 if self.learning_rate is None else self.learning_rate

    @property
    def customs(self) -> Customs:
        """The betas and the decay in force."""
        usual = CUSTOMS[self.optimizer]
        return Customs(
            usual.beta1 if self.beta1 is None else self.beta1,
            usual.beta2 if self.beta2 is None else self.beta2,
            usual.weight_decay if self.weight_decay is None else self.weight_decay,
        )


def make_schedule(config: OptimizerConfig, total_steps: int) -> Schedule:
    """The factor of update k, from 0 on; the learning rate of update k is config.peak_rate times it.

    Args:
        config: the schedule's name, warm-up and cooldown.
        total_steps: updates of the whole run.

    Returns:
        A function of k, int [], to float32 [].

    Raises:
        ValueError: for a warm-up that is not shorter than the run.
    """
    return schedule(
        config.schedule,
        total_steps,
        warmup_steps=warmup_of(config, total_steps),
        cooldown_steps=config.cooldown_steps,
        end=config.schedule_end,
        power=config.schedule_power,
        timescale=config.schedule_timescale,
    )


def warmup_of(config: OptimizerConfig, total_steps: int) -> int:
    """The steps of the warm-up."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    warmup = duration_in_steps(fraction=config.warmup_fraction, total_steps=total_steps)
    return min(warmup, total_steps - 1)  # a run of one step has no room for a warm-up


def make_optimizer(
    config: OptimizerConfig,
    params: Any,
    total_steps: int,
    *,
    pretrained_backbone: bool = False,
    frozen: Sequence[str] = (),
) -> optax.GradientTransformation:
    """The whole update rule of a run.

    Args:
        config: what the user asked for.
        params: the trained tree, or one of its shapes; only paths are read.
        total_steps: updates of the whole run.
        pretrained_backbone: whether the backbone starts from a checkpoint; then its learning rate is a tenth of the
            head's, unless the configuration says otherwise.
        frozen: patterns of further leaves that never move, beside the configuration's own.

    Returns:
        A transformation whose updates are to be added to the parameters; `update` needs the parameters.

    Raises:
        ValueError: for a pattern of `frozen` that matches nothing, or where nothing is left to train.
    """
    backbone = config.backbone_learning_rate
    if backbone is None:
        backbone = 0.1 if pretrained_backbone else 1.0
    frozen = (*config.frozen, *frozen, *(("backbone/.*",) if backbone == 0 else ()))
    _check_frozen(config.frozen, frozen, params)
    warmup = config.backbone_warmup_steps
    parts = [
        build_chain(
            config.optimizer,
            params,
            learning_rate=config.peak_rate,
            beta1=config.customs.beta1,
            beta2=config.customs.beta2,
            weight_decay=config.customs.weight_decay,
            factor=make_schedule(config, total_steps),
            clip_norm=config.clip_norm,
            rate_rules=(*read_rules("rate_rules", config.rate_rules), ("backbone/.*", backbone), (".*", 1.0)),
            decay_rules=(*read_rules("decay_rules", config.decay_rules), *KERNELS),
            frozen=frozen,
            own_warmup=("backbone/.*", warmup) if warmup else None,
        )
    ]
    if config.max_log_scale is not None:
        parts.append(clamp("log_scale", config.max_log_scale))
    return optax.chain(*parts)


def _check_frozen(asked: Sequence[str], frozen: Sequence[str], params: Any) -> None:
    paths = paths_of(params)
    idle = [pattern for pattern in asked if not any(re.fullmatch(pattern, path) for path in paths)]
    if idle:
        raise ValueError(
            f"frozen: every pattern must match a parameter's whole path; {', '.join(idle)} match none of "
            f"{', '.join(paths[:5])}{', ...' if len(paths) > 5 else ''}"
        )
    if all(any(re.fullmatch(pattern, path) for pattern in frozen) for path in paths):
        raise ValueError(
            f"frozen: something must be left to train; {', '.join(frozen)} match every parameter"
        )
