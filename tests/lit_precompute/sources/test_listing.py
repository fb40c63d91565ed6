import os
from pathlib import Path

import fsspec
import pytest

from lit_precompute.sources.listing import list_inputs, redact_url

TARS = (".tar",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/1.tar", "b/0.tar", "a/x.TAR", "a/notes.txt", "a/.hidden.tar", "odd[1].tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    return tmp_path


def names(listing, root: Path) -> list[str]:
    return [file.path.removeprefix(f"{root}/") for file in listing.files]


@pytest.mark.parametrize(
    ("patterns", "expected", "root"),
    [
        (["{d}"], ["a/x.TAR", "b/0.tar", "b/1.tar", "odd[1].tar"], ""),
        (["{d}/b"], ["b/0.tar", "b/1.tar"], "/b"),
        (["{d}/b/"], ["b/0.tar", "b/1.tar"], "/b"),
        (["{d}/b/1.tar"], ["b/1.tar"], "/b"),
        (["{d}/*/[01].tar"], ["b/0.tar", "b/1.tar"], ""),
        (["{d}/**/*.tar"], ["a/.hidden.tar", "b/0.tar", "b/1.tar", "odd[1].tar"], ""),
        (["{d}/b/{{1..0}}.tar"], ["b/0.tar", "b/1.tar"], "/b"),
        (["{d}/{{b/,a/x}}*.tar"], ["b/0.tar", "b/1.tar"], None),
        (["{d}/b/1.tar::{d}/b/0.tar", "{d}/b/?.tar"], ["b/0.tar", "b/1.tar"], "/b"),
        (["{d}/b::{d}/a"], ["a/x.TAR", "b/0.tar", "b/1.tar"], ""),
        (["{d}/odd[1].tar"], ["odd[1].tar"], ""),
    ],
)
def test_patterns(folder: Path, patterns: list[str], expected: list[str], root: str | None) -> None:
    patterns = [pattern.format(d=folder) for pattern in patterns]
    if root is None:  # one piece of the pattern means nothing
        with pytest.raises(ValueError, match=r"found nothing for .*a/x"):
            list_inputs(patterns, TARS)
        return
    listing = list_inputs(patterns, TARS)
    assert names(listing, folder) == expected
    assert listing.root == f"{folder}{root}"


def test_order_of_patterns_does_not_matter(folder: Path) -> None:
    one, other = f"{folder}/a", f"{folder}/b"
    assert list_inputs([one, other], TARS) == list_inputs([f"{one}::{other}"], TARS)
    assert list_inputs([one, other], TARS).files == list_inputs([other, one], TARS).files


def test_long_brace_lists_are_looked_up_in_one_listing(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:03d}.tar").touch()
    assert len(list_inputs([f"{tmp_path}/{{000..019}}.tar"], TARS).files) == 20
    with pytest.raises(ValueError, match=r"found nothing for .*020\.tar.* and 1 more"):
        list_inputs([f"{tmp_path}/{{000..025}}.tar"], TARS)


def test_nothing_found_names_every_pattern(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"--input.*none\*\.tar.*missing\.tar.*\.tar count"):
        list_inputs([f"{folder}/none*.tar", f"{folder}/missing.tar", f"{folder}/b"], TARS)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{0..9999}-{0..9999}.tar", "at most 10,000,000 paths"),
        ("{a,b.tar", "balanced"),
        ("a**.tar", "pattern"),
    ],
)
def test_patterns_that_make_no_sense(tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"--input .*{message}"):
        list_inputs([f"{tmp_path}/{pattern}"], TARS)


def test_version_follows_the_content(folder: Path) -> None:
    path = folder / "b" / "0.tar"
    before = list_inputs([str(path)], TARS).files[0]
    assert (before.size, before.version) == (5, str(path.stat().st_mtime_ns))
    os.utime(path, ns=(1, 1))
    assert list_inputs([str(path)], TARS).files[0].version == "1"


def test_symbolic_links_to_files_count_and_loops_end(folder: Path) -> None:
    (folder / "b" / "link.tar").symlink_to("0.tar")
    (folder / "b" / "loop").symlink_to(folder)
    (folder / "b" / "broken.tar").symlink_to("gone.tar")
    assert names(list_inputs([f"{folder}/b"], TARS), folder) == ["b/0.tar", "b/1.tar", "b/link.tar"]


def test_other_filesystems_keep_their_scheme() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/listing/x/1.tar": b"1", "/listing/y/2.tar": b"22"})
    listing = list_inputs(["memory://listing/*/*.tar"], TARS)
    assert [file.path for file in listing.files] == ["memory:///listing/x/1.tar", "memory:///listing/y/2.tar"]
    assert listing.root == "memory:///listing"
    assert list_inputs(["memory://listing"], TARS).files == listing.files
    assert list_inputs(["memory://listing/{x/1,y/2}.tar"], TARS).files == listing.files


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://me:pass@host:8080/a/b.tar?X-Signature=1#top", "https://host:8080/a/b.tar"),
        ("https://host?token=1", "https://host"),
        ("ftp://me@host/a", "ftp://host/a"),
        ("gs://bucket/a-?.tar", "gs://bucket/a-?.tar"),
        ("s3://bucket/name@2x/a.tar", "s3://bucket/name@2x/a.tar"),
        ("abfs://container@account/a.tar", "abfs://container@account/a.tar"),
        ("/data/what?/me@home.tar", "/data/what?/me@home.tar"),
    ],
)
def test_redact_url(url: str, expected: str) -> None:
    assert redact_url(url) == expected
