import gzip
import json

import numpy as np
import pytest

from trainer.tokenizers.unifont import INK, PAPER, Unifont, load_unifont

VARIANTS = {
    "size224": {"size": 224},
    "size64": {"size": 64},
    "size64_nolower": {"size": 64, "lower": False},
    "size64_mono": {"size": 64, "monospace": True},
    "size64_max10": {"size": 64, "max_characters": 10},
}
A = bytes.fromhex("0000001818242442427E424242420000")


@pytest.fixture(scope="module")
def golden(golden_dir):
    with np.load(golden_dir / "clippo_render/outputs.npz") as outputs:
        return dict(outputs)


@pytest.fixture(scope="module")
def font(golden_dir):
    return load_unifont(
        *(str(golden_dir / f"clippo_render/{name}.hex") for name in ("synthetic", "synthetic_upper"))
    )


def wide(rows):
    return b"".join(bytes((row, 0)) for row in rows)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pixel_is_the_references(golden, font, variant):
    texts = json.loads(str(golden["texts_json"]))
    cases = [name for name in golden if name.startswith(f"{variant}/")]
    assert len(cases) == (4 if variant == "size224" else 10)
    for case in cases:
        (picture,) = font.draw([texts[int(case.split("/")[1])]], **VARIANTS[variant])
        assert picture.dtype == np.uint8
        for channel in range(3):
            np.testing.assert_array_equal(picture, golden[case][..., channel], err_msg=case)


def test_what_the_tower_sees(golden, font):
    texts = json.loads(str(golden["texts_json"]))
    (picture,) = font.draw(texts[:1], 64)
    seen = picture.astype(np.float32) / 255 * 2 - 1
    np.testing.assert_allclose(np.repeat(seen[..., None], 3, -1), golden["train_pp64/0"], atol=1e-7)


def test_a_batch_is_its_captions_one_by_one(golden, font):
    texts = json.loads(str(golden["texts_json"]))
    together = font.draw(texts, 96)
    for picture, text in zip(together, texts, strict=True):
        np.testing.assert_array_equal(picture, font.draw([text], 96)[0])


def test_a_glyph_by_eye():
    """A has ink in columns 1 to 6 of its cell: one blank column before, none after the sixth."""
    (picture,) = Unifont({ord("a"): wide(A)}).draw(["Aa"], 32)
    rows = ["".join("#" if value == INK else "." for value in row[:12]) for row in picture[3:6]]
    assert rows == ["...##.....##", "...##.....##", "..#..#...#.."]
    assert (picture[16:] == PAPER).all()


def test_only_a_to_z_are_lowered():
    font = Unifont({ord("é"): wide(A)})
    assert (font.draw(["É"], 32) == PAPER).all()
    assert (font.draw(["é"], 32) == INK).any()


@pytest.mark.parametrize("text", ["", "   ", "\ud800", "\x00", "\U0010ffff"])
def test_nothing_to_draw_is_blank(font, text):
    (picture,) = font.draw([text], 48)
    assert (picture == PAPER).all() or text == "\ud800"  # drawn as a question mark


def test_packed_files_and_the_last_wins(tmp_path):
    (tmp_path / "one.hex").write_text(f"0041:{A.hex()}\n\n# made here\n")
    (tmp_path / "two.hex.gz").write_bytes(gzip.compress(f"000041:{(A * 2).hex().upper()}\r\n".encode()))
    one, both = (
        load_unifont(str(tmp_path / "one.hex")),
        load_unifont(str(tmp_path / "one.hex"), str(tmp_path / "two.hex.gz")),
    )
    assert one.digest == Unifont({0x41: wide(A)}).digest
    assert both.digest == Unifont({0x41: A * 2}).digest != one.digest


def test_another_file_is_refused(tmp_path):
    (tmp_path / "bad.hex").write_text(f"0041:{A.hex()}\n0042:00\n")
    with pytest.raises(ValueError, match=r"bad\.hex: .* found b'0042:00' in line 2"):
        load_unifont(str(tmp_path / "bad.hex"))
    (tmp_path / "far.hex").write_text(f"110000:{A.hex()}\n")
    with pytest.raises(ValueError, match="line 1"):
        load_unifont(str(tmp_path / "far.hex"))
    (tmp_path / "none.hex").write_text("\n")
    with pytest.raises(ValueError, match="at least one"):
        load_unifont(str(tmp_path / "none.hex"))


def test_a_picture_must_hold_a_line(font):
    with pytest.raises(ValueError, match="at least 32 pixels"):
        font.draw(["a"], 31)
