"""One GET of a public web address that a stranger chose.

Every hop's name is resolved here and the connection made to the very address that was checked, so neither a redirect
nor a name server that changes its mind leads into a private network. Proxies of the environment are not used: behind
one, nobody could tell where a connection ends.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from functools import cache
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from lit_precompute.sources.image_paths import WEB, RefusedPathError

MAX_REDIRECTS = 5
SILENCE = 20.0  # seconds a server may say nothing
PATIENCE = 120.0  # seconds an image may take
_CHUNK = 256 << 10
_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HEADERS = {"User-Agent": "lit-embed", "Accept": "*/*", "Connection": "close"}
_SAFE = "/%:@!$&'()*+,;=~-._?[]"


class WebError(OSError):
    """The server did not give the image; `is_final` when asking again is in vain."""

    def __init__(self, what: str, is_final: bool) -> None:
        super().__init__(what)
        self.is_final = is_final


def get(url: str, max_bytes: int, protocols: frozenset[str], trusted: str = "") -> bytes:
    """The body of an http(s) URL, at most one byte more than `max_bytes` of it.

    Args:
        url: where to begin.
        max_bytes: reading stops behind it.
        protocols: "http" and "https" as the user allowed them; a redirect may not leave them.
        trusted: `scheme://host:port` the user named, which may be private.

    Raises:
        RefusedPathError: a hop leads to a private address or another protocol.
        WebError: no such host, a status other than 200, a broken answer.
        OSError: the connection failed.
    """
    deadline = time.monotonic() + PATIENCE
    for _ in range(MAX_REDIRECTS + 1):
        parts = _split(url)
        if parts.scheme not in WEB or parts.scheme not in protocols:
            raise RefusedPathError(f"protocol {parts.scheme[:20]} is not allowed (--allow-protocols)")
        connection = _Connection(parts, _addresses(parts, origin(url) == trusted))
        try:
            connection.request("GET", _target(parts), headers=_HEADERS)
            answer = connection.getresponse()
            if answer.status not in _REDIRECTS:
                return _body(answer, max_bytes, deadline)
            url = urljoin(url, answer.getheader("Location") or "")
        except http.client.HTTPException as error:
            raise WebError(type(error).__name__, is_final=False) from None
        finally:
            connection.close()
    raise WebError(f"more than {MAX_REDIRECTS} redirects", is_final=True)


def origin(url: str) -> str:
    """`scheme://host:port` of a URL.

    >>> origin("https://host/a")
    'https://host:443'
    """
    parts = _split(url)
    return f"{parts.scheme}://{parts.hostname}:{_port(parts)}"


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet, also inside the notations that carry an IPv4 address."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast and not found.is_reserved


class _Connection(http.client.HTTPConnection):
    """A connection to addresses that were looked at, whatever the host's name says by now."""

    def __init__(self, parts: SplitResult, addresses: list[str]) -> None:
        assert parts.hostname is not None
        super().__init__(parts.hostname, _port(parts), timeout=SILENCE)
        self.default_port = _port(parts) if parts.port is None else 0  # what the Host header may leave out
        self._addresses = addresses
        self._is_secure = parts.scheme == "https"

    def connect(self) -> None:
        for place, address in enumerate(self._addresses):
            try:
                self.sock: Any = socket.create_connection((address, self.port), SILENCE)
                break
            except OSError:
                if place == len(self._addresses) - 1:
                    raise
        if self._is_secure:
            self.sock = _tls().wrap_socket(self.sock, server_hostname=self.host)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _port(parts)
        if parts.scheme in WEB and not parts.hostname:
            raise ValueError
    except ValueError:
        raise WebError("the URL is broken", is_final=True) from None
    return parts


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _target(parts: SplitResult) -> str:
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    return (quote(parts.path, safe=_SAFE) or "/") + query


def _addresses(parts: SplitResult, is_trusted: bool) -> list[str]:
    """The host's addresses, at most two. Raises RefusedPathError when one of them is not public."""
    try:
        found = socket.getaddrinfo(parts.hostname, _port(parts), type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        is_final = getattr(error, "errno", None) != socket.EAI_AGAIN
        raise WebError("no such host", is_final) from None
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    if not is_trusted and not all(map(is_public, addresses)):
        raise RefusedPathError("the address is private")
    return addresses[:2]


def _body(answer: http.client.HTTPResponse, max_bytes: int, deadline: float) -> bytes:
    if answer.status != 200:
        raise WebError(
            f"HTTP {answer.status}", is_final=answer.status not in (408, 425, 429) and answer.status < 500
        )
    announced = answer.length
    wanted = max_bytes + 1 if announced is None else min(announced, max_bytes + 1)
    pieces: list[bytes] = []
    held = 0
    while held < wanted and (piece := answer.read1(min(_CHUNK, wanted - held))):
        pieces.append(piece)
        held += len(piece)
        if time.monotonic() > deadline:
            raise WebError("too slow", is_final=True)
    if announced is not None and held < wanted:
        raise WebError("cut off", is_final=False)
    return b"".join(pieces)
