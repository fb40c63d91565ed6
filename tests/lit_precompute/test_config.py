import pickle
from dataclasses import replace

import pytest
import tyro

from lit_precompute.config import PRESETS, EmbedConfig, SourceConfig, WorkConfig, source_facts


def parse(*flags: str) -> SourceConfig:
    common = ("--input", "x", "--tower", "vit", "--checkpoint", "random:0", "--output", "s")
    return tyro.cli(EmbedConfig, args=[*common, *flags], config=(tyro.conf.OmitArgPrefixes,)).source


def test_defaults_stay_what_they_were() -> None:
    source = parse("--format", "parquet")
    assert (source.id_column, source.image_column, source.caption_column) == ("key", "image", ("caption",))
    assert source_facts(source) == {
        "format": "parquet", "caption_column": ["caption"], "label_column": None, "id_column": "key",
        "image_column": "image",
    }  # fmt: skip
    assert source_facts(parse("--format", "webdataset")) == {
        "format": "webdataset", "caption_column": ["caption"], "label_column": None
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"karpathy"}))
def test_a_preset_fills_in_what_was_not_given(name: str) -> None:
    source = parse("--preset", name)
    for field, value in PRESETS[name].items():
        assert getattr(source, field) == value


def test_given_flags_win_over_a_preset_even_where_they_say_the_default() -> None:
    source = parse(
        "--preset", "laion", "--image-column", "image", "--caption_column", "caption", "--id-column", "key"
    )
    assert (source.image_column, source.caption_column, source.id_column) == ("image", ("caption",), "key")
    source = parse("--preset", "open-clip-csv", "--csv-separator", ";", "--caption-column", "a", "b")
    assert (source.csv_separator, source.caption_column) == (";", ("a", "b"))
    assert (source.image_column, source.format) == ("filepath", "listing")
    source = parse("--preset", "open-clip-csv", "--format", "parquet")  # whose files have no separator
    assert (source.format, source.csv_separator, source.image_column) == ("parquet", None, "filepath")


def test_it_travels() -> None:
    source = parse("--preset", "laion")
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 (our own)
    assert replace(source, input=("y",)).image_column == "URL"


def test_suffix_lists() -> None:
    source = parse(
        "--format", "webdataset", "--image-suffixes", ".JPG; png", "webp", "--caption-suffixes", "json"
    )
    assert (source.image_suffixes, source.caption_suffixes) == (("jpg", "png", "webp"), ("json",))
    assert source_facts(source)["image_suffixes"] == ["jpg", "png", "webp"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--format: must be one of parquet, .* Give it, or --preset"),
        (
            {"format": "folder", "image_root": "/x"},
            "--image-root: must be given with --format listing or coco",
        ),
        (
            {"format": "parquet", "split": "test"},
            "--split: must be given with --format karpathy or tfds only",
        ),
        ({"format": "karpathy"}, "--split: must say which"),
        ({"format": "listing", "allow_protocols": ("file",)}, "--allow-protocols: must be names"),
        ({"format": "listing", "allow_protocols": ("https://",)}, "--allow-protocols: must be names"),
        ({"format": "listing", "image_root": "https://u:p@h/x"}, "--image-root: must be a plain"),
        ({"format": "listing", "image_root": "zip://a::b.zip"}, "--image-root: must be a plain"),
        ({"format": "listing", "csv_separator": "||"}, "--csv-separator: must be"),
        (
            {"format": "folder", "caption_suffixes": ("caption",)},
            "--caption-suffixes: must be of txt and json",
        ),
    ],
)
def test_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceConfig(("x",), **options)


def test_a_retry_is_asked_for_alone() -> None:
    with pytest.raises(
        ValueError, match=r"--retry-failed: must not be given with --append, found both\. Append"
    ):
        WorkConfig(retry_failed=True, append=True)
    with pytest.raises(ValueError, match="--retry-failed: must not be given with --shard-range"):
        WorkConfig(retry_failed=True, shard_range="0:1")
