"""The update rule: the reference's chains to 1e-6, optax's own optimizers, and which leaves they reach."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainer.optim.optimizer import OptimizerConfig, make_optimizer, make_schedule
from trainer.optim.reference_adafactor import bfloat16_momentum, scale_by_reference_adafactor
from trainer.optim.schedules import schedule
from trainer.optim.update_chain import build_chain


def nest(flat):
    """{"a/b": x} -> {"a": {"b": x}}."""
    tree = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = value
    return tree


def under(file, prefix):
    return nest({name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)})


@pytest.fixture(scope="module")
def inputs(golden_dir):
    file = np.load(golden_dir / "adafactor" / "inputs.npz")
    return under(file, "in/params/"), [under(file, f"in/grads/step{i:02d}/") for i in range(1, 11)]


def compare_run(transform, inputs, golden, name):
    """Runs ten fixed gradients and compares parameters, and updates where the file has them."""
    params, grads = inputs
    state, step = jax.jit(transform.init)(params), jax.jit(transform.update)
    for number, grad in enumerate(grads, 1):
        updates, state = step(grad, state, params)
        params = optax.apply_updates(params, updates)
        for kind, tree in (("params", params), ("updates", updates)):
            expected = under(golden, f"{name}/step{number:02d}/{kind}/")
            if expected:
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=0), tree, expected)


@pytest.mark.parametrize("optimizer", ["reference-adafactor", "reference-adam"])
def test_reference_chains(golden_dir, inputs, optimizer):
    name = {"reference-adafactor": "chain_adafactor", "reference-adam": "chain_adam"}[optimizer]
    golden = np.load(golden_dir / "adafactor" / f"{name}.npz")
    config = OptimizerConfig(optimizer=optimizer, weight_decay=1e-2, warmup_steps=3, frozen=("img/.*",))
    np.testing.assert_allclose(
        make_schedule(config, 12)(np.arange(13)), golden[f"{name}/sched"][0], atol=1e-6
    )
    compare_run(make_optimizer(config, inputs[0], 12), inputs, golden, name)


def test_reference_chain_with_multipliers(golden_dir, inputs):
    golden = np.load(golden_dir / "adafactor" / "chain_adafactor_mults.npz")
    factor = schedule("rsqrt", 12, timescale=5, warmup_steps=2, cooldown_steps=2)
    np.testing.assert_allclose(factor(np.arange(13)), golden["chain_adafactor_mults/sched"][0], atol=1e-6)
    transform = build_chain(
        "reference-adafactor",
        inputs[0],
        learning_rate=1e-3,
        beta1=0.9,
        beta2=0.95,
        weight_decay=1e-2,
        factor=factor,
        rate_rules=[("txt/.*", 0.1), ("t$|b$", 2.0), (".*", 1.0)],
        decay_rules=[(".*/kernel$", 1.0), (".*/embedding$", 0.5)],
    )
    compare_run(transform, inputs, golden, "chain_adafactor_mults")


def test_adafactor_with_block_clipping_and_no_momentum(golden_dir, inputs):
    golden = np.load(golden_dir / "adafactor" / "raw_adafactor_clip1_nomom.npz")
    transform = optax.chain(scale_by_reference_adafactor(None, clipping_threshold=1.0), optax.scale(-0.01))
    compare_run(transform, inputs, golden, "raw_adafactor_clip1_nomom")


def test_momentum_decays_by_a_rounded_bfloat16():
    transform = bfloat16_momentum(0.9)
    state = transform.init(jnp.zeros(1))
    first, state = transform.update(jnp.ones(1), state)
    np.testing.assert_allclose(first, [0.1], rtol=1e-6)
    assert state.average.dtype == jnp.bfloat16
    second, _ = transform.update(jnp.zeros(1), state)
    np.testing.assert_array_equal(second, np.float32(0.8984375) * np.asarray(state.average, np.float32))


def small_tree():
    rng = np.random.default_rng(0)

    def leaf(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "backbone": {"query": {"kernel": leaf(3, 4), "bias": leaf(4)}, "word": {"embedding": leaf(5, 3)}},
        "head": {"kernel": leaf(4, 2), "bias": leaf(2)},
        "log_scale": leaf(),
        "bias": leaf(),
    }


def run_steps(transform, params, grads, steps=3):
    def step(carry, _):
        params, state = carry
        updates, state = transform.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    def run(params):
        return jax.lax.scan(step, (params, transform.init(params)), length=steps)[0][0]

    return jax.jit(run)(params)


def assert_trees_close(a, b, rtol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7), a, b)


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_equals_optax(name):
    """Without clipping or a backbone of its own rate, the chain is optax's own optimizer."""
    params, grads = small_tree(), jax.tree.map(jnp.sin, small_tree())
    config = OptimizerConfig(
        optimizer=name, learning_rate=0.1, clip_norm=None, schedule="stair", warmup_fraction=0.0
    )
    mask = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
    theirs = {
        "adamw": optax.adamw(0.1, 0.9, 0.98, weight_decay=0.05, mask=mask),
        "lion": optax.lion(0.1, 0.9, 0.99, weight_decay=0.5, mask=mask),
    }[name]
    assert_trees_close(
        run_steps(make_optimizer(config, params, 10), params, grads), run_steps(theirs, params, grads)
    )


def test_first_update_with_warm_up_changes_nothing():
    params, grads = small_tree(), small_tree()
    moved = run_steps(make_optimizer(OptimizerConfig(), params, 100), params, grads, steps=1)
    jax.tree.map(np.testing.assert_array_equal, moved, params)


@pytest.mark.parametrize("optimizer", ["adamw", "reference-adafactor"])
def test_frozen_leaves_have_no_state_no_update_and_no_say_in_the_norm(optimizer):
    params, grads = small_tree(), small_tree()
    config = OptimizerConfig(optimizer=optimizer, frozen=("backbone/.*",), warmup_fraction=0.0)
    moved = run_steps(make_optimizer(config, params, 10), params, grads)
    jax.tree.map(np.testing.assert_array_equal, moved["backbone"], params["backbone"])
    assert not np.array_equal(moved["head"]["kernel"], params["head"]["kernel"])

    huge = {**grads, "backbone": jax.tree.map(lambda g: 1e6 * g, grads["backbone"])}
    assert_trees_close(run_steps(make_optimizer(config, params, 10), params, huge), moved, rtol=0)

    without = {name: tree for name, tree in params.items() if name != "backbone"}
    alone = run_steps(
        make_optimizer(OptimizerConfig(optimizer=optimizer, warmup_fraction=0.0), without, 10),
        without,
        {name: tree for name, tree in grads.items() if name != "backbone"},
    )
    assert_trees_close({name: moved[name] for name in without}, alone)

    def size(tree):
        return sum(
            leaf.size for leaf in jax.tree.leaves(jax.eval_shape(make_optimizer(config, tree, 10).init, tree))
        )

    bigger = {**params, "backbone": {"kernel": jnp.zeros((100, 100))}}
    assert size(bigger) == size(params)


def test_backbone_rate():
    """A pretrained backbone moves a tenth as far as it would from scratch, its decay too; the head does not notice."""
    params, grads = small_tree(), small_tree()
    config = OptimizerConfig(warmup_fraction=0.0, clip_norm=None)

    def first_update(config, **options):
        transform = make_optimizer(config, params, 10, **options)
        return jax.jit(lambda params: transform.update(grads, transform.init(params), params)[0])(params)

    scratch, pretrained = first_update(config), first_update(config, pretrained_backbone=True)
    assert_trees_close(pretrained["backbone"], jax.tree.map(lambda u: 0.1 * u, scratch["backbone"]))
    assert_trees_close(pretrained["head"], scratch["head"])
    asked = first_update(OptimizerConfig(warmup_fraction=0.0, clip_norm=None, backbone_learning_rate=0.1))
    assert_trees_close(asked, pretrained)
    frozen = first_update(OptimizerConfig(warmup_fraction=0.0, clip_norm=None, backbone_learning_rate=0.0))
    jax.tree.map(lambda u: np.testing.assert_array_equal(u, 0.0), frozen["backbone"])


@pytest.mark.parametrize("optimizer", ["adamw", "reference-adam"])
def test_decay_reaches_kernels_alone(optimizer):
    params = small_tree()
    grads = jax.tree.map(jnp.zeros_like, params)
    config = OptimizerConfig(optimizer=optimizer, learning_rate=0.5, weight_decay=0.1, warmup_fraction=0.0)
    moved = run_steps(make_optimizer(config, params, 10), params, grads, steps=1)
    shrink = 1 - (
        0.05 if optimizer == "adamw" else 0.1
    )  # the reference's decay is not scaled by the learning rate
    expected = jax.tree_util.tree_map_with_path(
        lambda path, p: p * shrink if path[-1].key == "kernel" else p, params
    )
    assert_trees_close(moved, expected)


def test_clipping_is_over_the_global_norm():
    params, grads = small_tree(), jax.tree.map(lambda g: 100 * g, small_tree())
    norm = optax.tree.norm(grads)
    config = OptimizerConfig(warmup_fraction=0.0, optimizer="reference-adafactor")
    clipped = run_steps(make_optimizer(config, params, 10), params, grads)
    scaled = jax.tree.map(lambda g: g / norm, grads)
    unclipped = OptimizerConfig(warmup_fraction=0.0, optimizer="reference-adafactor", clip_norm=None)
    assert_trees_close(clipped, run_steps(make_optimizer(unclipped, params, 10), params, scaled))


def test_log_scale_is_clamped_after_the_update():
    params = {**small_tree(), "log_scale": jnp.float32(4.6)}
    grads = {**small_tree(), "log_scale": jnp.float32(-1.0)}
    config = OptimizerConfig(warmup_fraction=0.0, learning_rate=0.5, max_log_scale=float(np.log(100)))
    moved = run_steps(make_optimizer(config, params, 10), params, grads)
    np.testing.assert_allclose(moved["log_scale"], np.log(100), rtol=1e-6)
    free = OptimizerConfig(warmup_fraction=0.0, learning_rate=0.5)
    assert float(run_steps(make_optimizer(free, params, 10), params, grads)["log_scale"]) > 5


def test_schedule_of_a_config():
    factor = make_schedule(OptimizerConfig(), 60)  # 5 % of 60 steps
    np.testing.assert_allclose([factor(k) for k in (0, 1, 2, 3, 60)], [0, 1 / 3, 2 / 3, 1, 0], atol=1e-6)
    assert float(make_schedule(OptimizerConfig(), 1)(0)) == 1.0
    with pytest.raises(ValueError, match="warmup_steps=60"):
        make_schedule(OptimizerConfig(warmup_steps=60), 60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "sgd"}, "must be one of adamw, lion"),
        ({"learning_rate": -1.0}, "learning_rate: must be at least"),
        ({"learning_rate": float("nan")}, "learning_rate: must be at least"),
        ({"beta2": 1.0}, r"beta2: must lie in \[0, 1\)"),
        ({"clip_norm": 0.0}, "clip_norm: must be above 0"),
    ],
)
def test_refused_configurations(options, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**options)


def test_frozen_patterns_must_match_and_leave_something():
    with pytest.raises(ValueError, match=r"spine/\.\* match none"):
        make_optimizer(OptimizerConfig(frozen=("spine/.*",)), small_tree(), 10)
    with pytest.raises(ValueError, match="something must be left"):
        make_optimizer(OptimizerConfig(frozen=(".*",)), small_tree(), 10)


def test_rules_of_rate_and_decay_go_before_the_usual_ones():
    params, grads = small_tree(), jax.tree.map(jnp.zeros_like, small_tree())
    usual = {"warmup_fraction": 0.0, "clip_norm": None, "schedule": "stair", "learning_rate": 0.5}
    usual |= {"weight_decay": 0.1}
    config = OptimizerConfig(
        **usual,
        rate_rules=("backbone/query/.*=0.5", "head/bias=0"),
        decay_rules=("backbone/word/.*=1", "head/kernel=0"),
    )
    moved = run_steps(make_optimizer(config, params, 10), params, grads, steps=1)
    shrink = {"query": 1 - 0.5 * 0.5 * 0.1, "word": 1 - 0.5 * 0.1}
    np.testing.assert_allclose(
        moved["backbone"]["query"]["kernel"],
        shrink["query"] * params["backbone"]["query"]["kernel"],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        moved["backbone"]["word"]["embedding"],
        shrink["word"] * params["backbone"]["word"]["embedding"],
        rtol=1e-6,
    )
    np.testing.assert_array_equal(moved["head"]["kernel"], params["head"]["kernel"])


def test_the_backbone_may_warm_up_longer_than_the_head():
    """With signs for directions (Lion) a step is as long as its rate: the backbone's grows over four steps."""
    params, grads = small_tree(), jax.tree.map(jnp.ones_like, small_tree())
    config = OptimizerConfig(
        optimizer="lion",
        learning_rate=0.01,
        weight_decay=0.0,
        clip_norm=None,
        schedule="stair",
        warmup_fraction=0.0,
        backbone_warmup_steps=4,
    )
    transform = make_optimizer(config, params, 10)

    def step(state, _):
        updates, state = transform.update(grads, state, params)
        return state, (updates["backbone"]["query"]["bias"][0], updates["head"]["bias"][0])

    _, (backbone, head) = jax.jit(lambda state: jax.lax.scan(step, state, length=6))(transform.init(params))
    np.testing.assert_allclose(head, [-0.01] * 6, rtol=1e-6)
    np.testing.assert_allclose(backbone, [0, -0.0025, -0.005, -0.0075, -0.01, -0.01], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_rules": ("head",)}, "rate_rules: must be PATTERN=FACTOR"),
        ({"average_decay": 1.0}, "average_decay: must lie between"),
        ({"backbone_warmup_steps": -1}, "backbone_warmup_steps: must be at least 0"),
    ],
)
def test_refused_rules(options, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**options)
