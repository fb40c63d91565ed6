"""What the processes of one run compute together, as JSON from the first; run by test_processes.py.

usage: one_of_many.py PROCESS_ID NUM_PROCESSES PORT
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

import jax
import jax.numpy as jnp
import numpy as np

from trainer.devices.mesh import deal_out, mesh_of
from trainer.devices.processes import ProcessConfig, Processes
from trainer.losses import contrastive_loss, split_keys

B, D = 24, 6


def pairs():
    """Correlated pairs with duplicates, a zero vector, and norms that differ."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(B, D)).astype(np.float32) * rng.uniform(0.1, 9, (B, 1)).astype(np.float32)
    text = image + rng.normal(size=(B, D)).astype(np.float32)
    text[7] = 0
    return image, text, split_keys(rng.integers(0, B // 2, B)), split_keys(rng.integers(0, B, B))


def losses(processes):
    """Value and gradients of both losses, of the slices that the processes hold."""
    mesh = mesh_of(None, B)
    image, text, *keys = deal_out(mesh, tuple(array[processes.rows(B)] for array in pairs()))

    def call(image, text, log_scale, bias, image_keys, caption_keys, kind):
        own = {"image_keys": image_keys, "caption_keys": caption_keys}
        return contrastive_loss(
            image, text, log_scale, bias, kind=kind, duplicates="mask", tile=5, mesh=mesh, **own
        )

    arguments = (image, text, jnp.float32(2.5), jnp.float32(-3), *keys)
    found = {}
    for kind in ("softmax", "sigmoid"):
        step = jax.jit(jax.value_and_grad(call, (0, 1, 2, 3)), static_argnums=6)
        value, gradients = processes.fetch(step(*arguments, kind))
        found[kind] = [np.asarray(array).tolist() for array in (value, *gradients)]
    return found


def main():
    number, count, port = map(int, sys.argv[1:])
    processes = Processes(ProcessConfig(f"127.0.0.1:{port}", count, number) if count > 1 else ProcessConfig())
    found = {"count": processes.count, "losses": losses(processes)}
    found["agree"] = [processes.all_agree(True), processes.all_agree(number != count - 1)]
    # The last process is asked to stop; all hear of it a step later.
    found["stop"] = [processes.all_stop(asked) for asked in (False, number == count - 1, False)]
    processes.leave()
    if processes.first:
        json.dump(found, sys.stdout)


main()
