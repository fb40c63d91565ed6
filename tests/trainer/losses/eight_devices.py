"""What eight simulated devices compute, as JSON; run by test_sharded_loss.py in a process of its own.

The number of devices is fixed when JAX starts, and the other tests want one.
"""

import itertools
import json
import os
import re
import sys

# Compiling is all that takes time here: do it with little care.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainer.config import LossConfig
from trainer.data.batches import Batch
from trainer.devices.mesh import along_rows, data_mesh, replicated
from trainer.losses import contrastive_loss, in_batch_recall, split_keys
from trainer.step import init_state, make_step
from trainer.text_towers.row_dropout import row_dropout, row_keys

B, D, TILE = 24, 6, 5
KINDS, DUPLICATES, DEVICES = ("softmax", "sigmoid"), ("mask", "positive", "ignore"), (1, 2, 4, 8)
COLLECTIVES = r"\b(\w+\[[\d,]*\])\S* (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\("


def pairs(mesh=None):
    """Correlated pairs of very different norms, with many duplicates, a zero vector, and two equal images."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(B, D)).astype(np.float32) * rng.uniform(0.1, 9, (B, 1)).astype(np.float32)
    text = image + rng.normal(size=(B, D)).astype(np.float32)
    text[7] = 0
    image[20] = image[2]
    keys = (split_keys(rng.integers(0, n, B)) for n in (B // 2, B))
    arrays = (image, text, *keys)
    return arrays if mesh is None else jax.device_put(arrays, along_rows(mesh))


def mesh_of(devices):
    return None if devices is None else data_mesh(jax.devices()[:devices])


def loss(kind, duplicates, devices, leaves=(0, 1, 2, 3)):
    """Value and gradients of the loss, and what the compiled program sends between devices."""
    mesh = mesh_of(devices)
    image, text, image_keys, caption_keys = pairs(mesh)

    def call(image, text, log_scale, bias, image_keys, caption_keys):
        keys = {"image_keys": image_keys, "caption_keys": caption_keys}
        tile = None if mesh is None else TILE
        return contrastive_loss(
            image, text, log_scale, bias, kind=kind, duplicates=duplicates, tile=tile, mesh=mesh, **keys
        )

    arguments = (image, text, jnp.float32(2.5), jnp.float32(-3), image_keys, caption_keys)
    compiled = jax.jit(jax.value_and_grad(call, leaves)).lower(*arguments).compile()
    value, gradients = compiled(*arguments)
    program = compiled.as_text()
    return {
        "arrays": [np.asarray(x).tolist() for x in (value, *gradients)],
        "sent": sorted({f"{what} {shape}" for shape, what in re.findall(COLLECTIVES, program)}),
        "products": program.count(" dot("),
    }


def recall(duplicates, devices):
    mesh = mesh_of(devices)
    image, text, image_keys, caption_keys = pairs(mesh)
    found = jax.jit(
        lambda *rows: in_batch_recall(
            *rows[:2], image_keys=rows[2], caption_keys=rows[3], duplicates=duplicates, mesh=mesh, tile=TILE
        )
    )(image, text, image_keys, caption_keys)
    return {name: float(value) for name, value in found.items()}


def embed(params, text, key, row_offset=0):
    keys = row_keys(key, text.shape[0], row_offset)
    return row_dropout(jnp.tanh(text @ params["hidden"]), keys, 0, 0.3) @ params["head"]


def three_steps(kind, devices, microbatch_size):
    """Parameters and metrics after three steps with dropout, momentum and clipping."""
    mesh, rng = mesh_of(devices), np.random.default_rng(2)
    image, text, *keys = pairs()
    params = {"log_scale": jnp.float32(1), **({"bias": jnp.float32(-2)} if kind == "sigmoid" else {})}
    params |= {"hidden": rng.normal(size=(D, 8)).astype(np.float32), "head": rng.normal(size=(8, D)) / 3}
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.3, momentum=0.9))
    state, batch = init_state(params, optimizer), Batch(image.astype(np.float16), text, *keys)
    if mesh is not None:
        state, batch = jax.device_put(state, replicated(mesh)), jax.device_put(batch, along_rows(mesh))
    step = make_step(
        embed,
        LossConfig(loss=kind),
        optimizer,
        lambda k: 1.0,
        3,
        2,
        microbatch_size=microbatch_size,
        mesh=mesh,
    )
    seen = []
    for _ in range(3):
        state, metrics = step(state, batch)
        seen.append({name: None if np.isnan(value) else float(value) for name, value in metrics.items()})
    params = {name: np.asarray(leaf).tolist() for name, leaf in state.params.items()}
    return {"params": params, "metrics": seen, "compiled": step._cache_size()}


def main():
    each = {
        "loss": {
            f"{kind} {duplicates} {devices}": loss(kind, duplicates, devices)
            for kind, duplicates, devices in itertools.product(KINDS, DUPLICATES, (None, *DEVICES))
        },
        "locked": loss("softmax", "mask", 4, leaves=(1, 2))["products"],
        "recall": {
            f"{duplicates} {devices}": recall(duplicates, devices)
            for duplicates, devices in itertools.product(DUPLICATES, (None, 4))
        },
        "steps": {
            f"{kind} {devices} {size}": three_steps(kind, devices, size)
            for kind, devices, size in (
                ("softmax", None, None),
                ("softmax", 4, None),
                ("softmax", 4, 4),
                ("sigmoid", None, None),
                ("sigmoid", 4, 4),
            )
        },
    }
    json.dump(each, sys.stdout)


main()
