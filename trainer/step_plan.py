"""What a step will cost, said before the first: memory on each device, work, and whether the batch fits the data."""

import math
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxprs_in_params

from trainer.compiling import compiler_options
from trainer.devices.placement import bytes_on_a_device

# Published runs gain nothing above this: SigLIP (arXiv 2303.15343, section 4.1) in general, Inf-CL (arXiv 2410.17243,
# appendix A.3) on the 12 million pairs of CC12M. With LAION's 400 million it is 262,144.
SATURATES_AT = 32_768
MANY_PAIRS = 50_000_000
# SigLIP, Table 8: against a batch of 32,768, one of 262,144 costs 9.1 points where it leaves 1,700 updates, 1.0 at
# 3,400, none at 11,400; one of 131,072 costs 1.4 at 3,400 and none at 6,900.
FEW_UPDATES = 5_000
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class StepPlan:
    """The cost of one step.

    Attributes:
        devices: that share the batch.
        parameter_bytes, optimizer_bytes, batch_bytes: on each device, between steps.
        temporary_bytes: on each device, beside those, while the step runs: activations, gradients, embeddings.
        flops: of all matrix products of a step, on all devices together; recall, not measured at every step, left out.
    """

    devices: int
    parameter_bytes: int
    optimizer_bytes: int
    batch_bytes: int
    temporary_bytes: int
    flops: float

    @property
    def total_bytes(self) -> int:
        """What a device needs while the step runs."""
        return self.parameter_bytes + self.optimizer_bytes + self.batch_bytes + self.temporary_bytes


def plan_step(step: Any, state: Any, batch: Any, devices: int) -> StepPlan:
    """Compiles the step without running it, and asks XLA what it needs.

    Args:
        step: made by `make_step`.
        state: of type `TrainState`, arrays or their shapes.
        batch: of type `Batch`, likewise.
        devices: that share the batch.

    Returns:
        The plan.
    """
    traced = step.trace(state, batch)
    memory = traced.lower().compile().memory_analysis()
    return StepPlan(
        devices=devices,
        parameter_bytes=bytes_on_a_device((state.params, state.average)),
        optimizer_bytes=bytes_on_a_device(state.opt_state),
        batch_bytes=bytes_on_a_device(batch),
        temporary_bytes=int(memory.temp_size_in_bytes),
        flops=count_flops(traced.jaxpr),
    )


def count_flops(closed: ClosedJaxpr | Jaxpr) -> float:
    """Two for each multiplication of the matrix products, in loops as often as they run.

    XLA's own count (`cost_analysis`) takes the body of a loop once, however often it runs: of no use for tiles and
    microbatches. A condition counts as its cheaper branch.
    """
    jaxpr = closed.jaxpr if isinstance(closed, ClosedJaxpr) else closed
    total = 0.0
    for equation in jaxpr.eqns:
        inner = [count_flops(one) for one in jaxprs_in_params(equation.params)]
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            left: Any = equation.invars[0].aval
            out: Any = equation.outvars[0].aval
            total += 2.0 * math.prod(left.shape[axis] for axis in contracted) * math.prod(out.shape)
        elif equation.primitive.name == "cond":
            total += min(inner)
        elif equation.primitive.name == "scan":
            total += equation.params["length"] * sum(inner)
        elif equation.primitive.name == "shard_map":
            total += equation.params["mesh"].size * sum(inner)
        else:
            total += sum(inner)
    return total


def measure_flops_per_second(device: jax.Device, side: int = 1024, seconds: float = 0.3) -> float:
    """What a device reaches in a float32 matrix product [side, side] @ [side, side], as the tower's are by default."""
    product = jax.jit(jnp.matmul, compiler_options=compiler_options("float32", device.platform))
    matrix = jax.device_put(np.ones((side, side), np.float32), device)
    product(matrix, matrix).block_until_ready()
    started, done = time.perf_counter(), 0
    while (taken := time.perf_counter() - started) < seconds:
        product(matrix, matrix).block_until_ready()
        done += 1
    return 2.0 * side**3 * done / taken


def describe(plan: StepPlan, batch_size: int, tokens: int | None, flops_per_second: float) -> str:
    """The plan for a person.

    Args:
        plan: of one step.
        batch_size: B.
        tokens: that are read for a pair, padding included, or None where features are trained on.
        flops_per_second: of one device.
    """
    parts = {
        "parameters": plan.parameter_bytes,
        "optimizer": plan.optimizer_bytes,
        "batch": plan.batch_bytes,
        "while a step runs": plan.temporary_bytes,
    }
    unit, name_of_unit = (GIB, "GiB") if plan.total_bytes >= GIB / 16 else (MIB, "MiB")
    memory = " + ".join(f"{name} {size / unit:,.3f}" for name, size in parts.items())
    rate = batch_size * flops_per_second * plan.devices / max(plan.flops, 1.0)
    read = "" if tokens is None else f" ({rate * tokens:,.0f} tokens/s)"
    return (
        f"memory on {'each of ' if plan.devices > 1 else ''}{plan.devices} device{'s' * (plan.devices > 1)}:"
        f" {plan.total_bytes / unit:,.3f} {name_of_unit} = {memory}\n"
        f"work: {plan.flops / 1e12:,.3f} TFLOP a step in matrix products,"
        f" {plan.flops / batch_size / 1e9:,.3f} GFLOP a pair\n"
        f"at the {flops_per_second / 1e9:,.0f} GFLOP/s a device reaches in a matrix product:"
        f" at most {rate:,.0f} pairs/s{read}, {batch_size / rate:,.2f} s a step"
    )


def batch_warning(batch_size: int, steps: int, pairs: int) -> str | None:
    """A warning where published runs with as large a batch did worse, or no better; else None.

    Args:
        batch_size: B.
        steps: updates of the whole run.
        pairs: images there are to train on.
    """
    if batch_size <= SATURATES_AT:
        return None
    if steps < FEW_UPDATES:
        return (
            f"warning: a batch of {batch_size:,} leaves {steps:,} updates. Published runs with fewer than about"
            f" {FEW_UPDATES:,} end lower than with a batch of {SATURATES_AT:,} and more updates (SigLIP, Table 8:"
            f" 262,144 with 1,700 updates, 9 points). Consider --batch-size {SATURATES_AT}"
            f" --steps {steps * batch_size // SATURATES_AT}."
        )
    if pairs < MANY_PAIRS:
        return (
            f"warning: a batch of {batch_size:,} is large for {pairs:,} images. Published runs on 12 million gain"
            f" nothing above {SATURATES_AT:,} (Inf-CL, appendix A.3). Consider --batch-size {SATURATES_AT}."
        )
    return None
