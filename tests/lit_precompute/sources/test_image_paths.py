import pytest

from lit_precompute.config import SourceConfig
from lit_precompute.sources.image_paths import RefusedPathError, places_of


def address(
    name: str, root: str | None = None, allow: tuple[str, ...] = (), listing: str = "/data/a.csv"
) -> str:
    config = SourceConfig(("a.csv",), "listing", image_root=root, allow_protocols=allow)
    return places_of(config, listing).address(name)


@pytest.mark.parametrize(
    ("name", "root", "allow", "listing", "expected"),
    [
        ("x.jpg", None, (), "/data/a.csv", "/data/x.jpg"),
        ("./b//x y?.jpg", None, (), "/data/a.csv", "/data/b/x y?.jpg"),
        ("/data/x.jpg", None, (), "/data/a.csv", "/data/x.jpg"),
        ("x:1.jpg", None, (), "/data/a.csv", "/data/x:1.jpg"),
        ("~/x.jpg", None, (), "/data/a.csv", "/data/~/x.jpg"),
        ("/etc/x.jpg", "/", (), "/data/a.csv", "/etc/x.jpg"),
        ("x.jpg", "/images/", (), "gs://b/a.csv", "/images/x.jpg"),
        ("x.jpg", None, (), "gs://b/d/a.csv", "gs://b/d/x.jpg"),
        ("gs://b/d/x.jpg", None, (), "gs://b/d/a.csv", "gs://b/d/x.jpg"),
        ("gcs://b/d/x.jpg", None, (), "gs://b/d/a.csv", "gs://b/d/x.jpg"),
        ("s3a://me:pw@c/x.jpg?v=1", None, ("s3",), "gs://b/d/a.csv", "s3://c/x.jpg"),
        ("HTTPS://u:p@h/x.jpg?w=1#top", None, ("https",), "/data/a.csv", "https://h/x.jpg?w=1"),
        ("x y.jpg", "https://h/d", (), "/data/a.csv", "https://h/d/x%20y.jpg"),
        ("https://h/d/x.jpg?s=1", "https://h/d", (), "/data/a.csv", "https://h/d/x.jpg?s=1"),
    ],
)
def test_where_a_name_leads(name: str, root, allow, listing: str, expected: str) -> None:
    assert address(name, root, allow, listing) == expected


@pytest.mark.parametrize(
    ("name", "root", "allow"),
    [
        ("/etc/passwd", None, ()),
        ("/database/x.jpg", None, ()),
        ("//etc/passwd", None, ()),
        ("../x.jpg", None, ()),
        ("a/../../x.jpg", None, ()),
        ("a\\..\\x.jpg", None, ()),
        ("file:///data/x.jpg", None, ()),
        ("FILE:/etc/passwd", None, ()),
        ("local://etc/passwd", None, ()),
        ("data:image/png;base64,AA", None, ()),
        ("zip://x.jpg::/etc/a.zip", None, ()),
        ("simplecache::https://h/x.jpg", None, ("https",)),
        ("https://h/x.jpg", None, ()),
        ("http://h/x.jpg", None, ("https",)),
        ("gs://b/x.jpg", None, ("https",)),
        ("x\x00.jpg", None, ()),
        ("/x.jpg", "gs://b/d", ()),
        ("gs://b/other/x.jpg", "gs://b/d", ()),
        ("gs://b/d/%2e%2e/x.jpg", "gs://b/d", ()),
        ("gs://b/data2/x.jpg", "gs://b/d", ()),
        ("https://other/d/x.jpg", "https://h/d", ()),
        ("https://h@other/d/x.jpg", "https://h/d", ()),
        ("https://[/x.jpg", None, ("https",)),
    ],
)
def test_refused(name: str, root, allow) -> None:
    with pytest.raises(RefusedPathError) as found:
        address(name, root, allow)
    assert name not in str(found.value)
