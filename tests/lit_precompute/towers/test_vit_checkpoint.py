import numpy as np
import pytest

from lit_precompute.towers.vit_checkpoint import (
    infer_shape,
    rename_old_layouts,
    renumber_modules,
    resample_posemb,
    trained_grid,
)


def test_posemb_resampling_is_the_reference_one(golden_dir):
    golden = np.load(golden_dir / "posemb/resample.npz")
    cases = [name.split("/")[0] for name in golden.files if name.startswith("bv_") and name.endswith("/in")]
    assert len(cases) == 6
    for case in cases:
        expected = golden[f"{case}/out"]
        found = resample_posemb(golden[f"{case}/in"], round(expected.shape[1] ** 0.5))
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=case)


def test_positions_with_one_of_the_class_token(golden_dir):
    """As vit_jax has them: the first one stays, the grid is resampled."""
    golden = np.load(golden_dir / "posemb/resample.npz")
    for case in ("vitjax_cls_4to7", "vitjax_cls_14to24"):
        old, expected = golden[f"{case}/in"], golden[f"{case}/out"]
        tensors = {"pos_embedding": old, "cls": np.zeros((1, 1, old.shape[2]), np.float32)}
        found = rename_old_layouts(tensors)
        np.testing.assert_array_equal(found["cls"], expected[:, :1])
        grid = round((expected.shape[1] - 1) ** 0.5)
        np.testing.assert_allclose(resample_posemb(found["pos_embedding"], grid), expected[:, 1:], atol=1e-6)


def test_corners_stay_where_they_are():
    positions = np.random.default_rng(0).normal(size=(1, 9, 4)).astype(np.float32)
    grown = resample_posemb(positions, 5).reshape(5, 5, 4)
    np.testing.assert_allclose(grown[[0, 0, 4, 4], [0, 4, 0, 4]], positions[0, [0, 2, 6, 8]], atol=1e-6)
    np.testing.assert_allclose(resample_posemb(positions, 1)[0, 0], positions[0, 0])
    assert resample_posemb(positions[:, :1], 3).shape == (1, 9, 4)


def test_modules_counted_across_classes_are_renumbered():
    block = "Transformer/encoderblock_10"
    old = [
        "LayerNorm_0/scale",
        "MultiHeadDotProductAttention_1/out/bias",
        "LayerNorm_2/scale",
        "MlpBlock_3/Dense_0/bias",
    ]
    new = [
        "LayerNorm_0/scale",
        "MultiHeadDotProductAttention_0/out/bias",
        "LayerNorm_1/scale",
        "MlpBlock_0/Dense_0/bias",
    ]
    arrays = {f"{block}/{name}": np.array(number) for number, name in enumerate(old)}
    found = renumber_modules(arrays)
    assert {name: int(array) for name, array in found.items()} == {
        f"{block}/{name}": n for n, name in enumerate(new)
    }


def test_a_gap_between_blocks_is_not_closed():
    names = {"Transformer/encoderblock_0/x": np.zeros(1), "Transformer/encoderblock_2/x": np.zeros(1)}
    assert set(renumber_modules(names)) == set(names)


def test_the_class_token_takes_its_position():
    positions = np.arange(10.0, dtype=np.float32).reshape(1, 5, 2)
    old = {"Transformer/posembed_input/pos_embedding": positions, "cls": np.ones((1, 1, 2), np.float32)}
    found = rename_old_layouts(old)
    np.testing.assert_array_equal(found["cls"], [[[1, 2]]])
    np.testing.assert_array_equal(found["pos_embedding"], positions[:, 1:])


def test_without_a_class_token_its_position_is_dropped_only_on_purpose():
    old = {"pos_embedding": np.zeros((1, 5, 2), np.float32)}
    assert rename_old_layouts(old, "gap")["pos_embedding"].shape == (1, 4, 2)
    with pytest.raises(
        ValueError, match=r"grid \* grid, d\] \(and one more where there is a cls\), found shape \[1, 5, 2\]"
    ):
        trained_grid("w.npz", rename_old_layouts(old))


def test_stacked_blocks_come_apart_in_numeric_order():
    stacked = {"Transformer/encoderblock/LayerNorm_0/scale": np.arange(12.0).reshape(12, 1)}
    found = rename_old_layouts(stacked)
    assert found["Transformer/encoderblock_11/LayerNorm_0/scale"] == 11
    assert len(found) == 12


def test_a_claim_of_endless_blocks_is_refused():
    hostile = {
        "embedding/kernel": np.ones((1, 1, 3, 4)),
        "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel": np.ones((4, 1, 4)),
        "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel": np.ones((4, 8)),
        "Transformer/encoderblock_999999999/x": np.ones(1),
    }
    with pytest.raises(ValueError, match="at most 1000 blocks, found number 999999999"):
        infer_shape("w.npz", hostile, None)
    stacked = {"Transformer/encoderblock/x": np.ones((10**9, 0))}
    assert rename_old_layouts(stacked) == stacked
