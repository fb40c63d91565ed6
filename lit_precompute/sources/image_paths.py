"""Where a row of a listing may send us: under the image root, or to a protocol the user allowed."""

import os
import posixpath
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from lit_precompute.config import SourceConfig
from lit_precompute.sources.redaction import redact_text

WEB = ("http", "https")
_ALIASES = {"gcs": "gs", "s3a": "s3"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/|(file|local|data):", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class RefusedPathError(Exception):
    """A row names an image where it may not; the text says why and holds no path."""


@dataclass(frozen=True)
class Places:
    """What rows may name.

    Attributes:
        root: an absolute local folder or a URL, without a final slash.
        own: its protocol; "file" for a local folder.
        allowed: protocols the user named; their URLs may lead anywhere.
    """

    root: str
    own: str
    allowed: frozenset[str]

    def address(self, name: str) -> str:
        """The local path or URL of an image.

        Args:
            name: a path below the root, absolute or relative to it, or a URL.

        Returns:
            An absolute path, or a URL without user info; only http(s) keeps its query.

        Raises:
            RefusedPathError: the row may not name this.
        """
        if _CONTROL.search(name):
            raise RefusedPathError("the path has control characters")
        if "::" in name:
            raise RefusedPathError("the path is a chain of protocols (::)")
        if ".." in re.split(r"[/\\]", unquote(name)):
            raise RefusedPathError("the path has a component ..")
        if scheme := _SCHEME.match(name):
            return self._url(name, (scheme[1] or scheme[2]).lower())
        return self._path(name)

    def _url(self, name: str, protocol: str) -> str:
        protocol = _ALIASES.get(protocol, protocol)
        if protocol in ("file", "local", "data"):
            raise RefusedPathError(f"{protocol}: is no protocol for a row; local images are plain paths")
        if protocol not in (self.own, *self.allowed):
            raise RefusedPathError(f"protocol {protocol[:20]} is not allowed (--allow-protocols)")
        url = f"{protocol}://{name.partition(':')[2].lstrip('/')}"
        url = _without_user(url) if protocol in WEB else redact_text(url)
        if protocol not in self.allowed and not url.startswith(f"{self.root}/"):
            raise RefusedPathError("the URL is not under --image-root")
        return url

    def _path(self, name: str) -> str:
        if self.own == "file":
            path = posixpath.normpath(posixpath.join(self.root or "/", name))
            if not path.startswith(f"{self.root}/"):
                raise RefusedPathError("the path is not under --image-root")
            return path
        if name.startswith("/"):
            raise RefusedPathError("the path is absolute, --image-root is not local")
        return f"{self.root}/{quote(name, safe='/%') if self.own in WEB else name}"


def places_of(config: SourceConfig, listing: str) -> Places:
    """What the rows of a listing file may name.

    Args:
        config: its image root and protocols.
        listing: address of the file.
    """
    root = config.image_root or listing.rpartition("/")[0]
    own, mark, rest = root.partition("://")
    if not mark:
        own, root = "file", os.path.abspath(root)
    elif own in ("file", "local"):
        own, root = "file", os.path.abspath("/" + rest.lstrip("/"))
    else:
        own = _ALIASES.get(own.lower(), own.lower())
        root = f"{own}://{rest}"
    allowed = frozenset(_ALIASES.get(name, name) for name in config.allow_protocols)
    return Places(root.rstrip("/"), own, allowed)


def _without_user(url: str) -> str:
    """An http(s) URL without user info and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise RefusedPathError("the URL is broken") from None
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
