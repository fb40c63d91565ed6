"""What XLA is told when it compiles a tower for processors; accelerators are told nothing.

In float32 XLA's own choice on processors, YNNPACK, is slower than Eigen with oneDNN's kernels, which it also has: 67
against 107 GFLOP/s a core in the products of a ViT-B (AVX-512). In bfloat16 YNNPACK is the one that uses AMX, if it is
asked for sums in float32: `lit_precompute.towers.products` asks. docs/decisions/0029 has the figures.
"""

import os
from functools import cache

import jax

# Options of a program by the type its products are computed in.
ON_PROCESSORS = {"float32": {"xla_cpu_experimental_ynn_fusion_type": ""}}


def compiler_options(platform: str, dtype: str) -> dict[str, str]:
    """The options of `jax.jit` for a program.

    Args:
        platform: of the devices, such as `cpu`.
        dtype: what the products are computed in.

    Returns:
        Only options that this XLA knows, and none that `XLA_FLAGS` sets: the user's own always win.
    """
    wanted = ON_PROCESSORS.get(dtype, {}) if platform == "cpu" else {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in wanted.items() if name not in flags and _is_known(name, value)}


@cache
def _is_known(name: str, value: str) -> bool:
    """Whether this XLA has an option; they come and go with its versions."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
