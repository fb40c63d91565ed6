"""A web server on this machine: private, so that it may be asked only where it is trusted."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lit_precompute.config import SourceConfig
from lit_precompute.sources import web
from lit_precompute.sources.image_fetch import fetch
from lit_precompute.sources.image_paths import RefusedPathError, places_of
from lit_precompute.sources.web import WebError, get, is_public, origin

BOTH = frozenset(("http", "https"))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        busy = self.server.busy  # type: ignore[attr-defined]
        if busy:
            self.send_error(busy.pop())
            return
        kind, _, rest = self.path.lstrip("/").partition("/")
        kind = kind.partition("?")[0]
        body = b"0123456789"
        self.send_response({"ok": 200, "short": 200, "to": 302}.get(kind) or int(kind))
        if kind == "to":
            self.send_header("Location", rest.replace("!", "://"))
        self.send_header("Content-Length", "99" if kind == "short" else str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.busy = [], []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def base(server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_a_host_the_user_named(server, base: str) -> None:
    assert get(f"{base}/ok/a b?x=1", 100, BOTH, origin(base)) == b"0123456789"
    assert server.seen == [("/ok/a%20b?x=1", base.removeprefix("http://"))]


def test_reading_stops_behind_the_limit(base: str) -> None:
    assert get(f"{base}/ok", 4, BOTH, origin(base)) == b"01234"


def test_redirects_stay_where_they_may(server, base: str) -> None:
    assert get(f"{base}/to/{base}/ok", 100, BOTH, origin(base)) == b"0123456789"
    assert get(f"{base}/to//ok", 100, BOTH, origin(base)) == b"0123456789"
    port = server.server_address[1]
    for place in (f"localhost:{port}", "169.254.169.254", "[::1]", "2130706433", "10.0.0.1", "0"):
        with pytest.raises(RefusedPathError, match="private"):
            get(f"{base}/to/http!{place}/ok", 100, BOTH, origin(base))
    for protocol in ("https!example.com/a", "file!etc/passwd", "ftp!example.com/a"):
        with pytest.raises(RefusedPathError, match="not allowed"):
            get(f"{base}/to/{protocol}", 100, frozenset(("http",)), origin(base))
    with pytest.raises(WebError, match="redirects") as found:
        get(f"{base}/to/", 100, BOTH, origin(base))  # an empty Location: to itself
    assert found.value.is_final


def test_a_private_address_is_never_asked(server, base: str) -> None:
    with pytest.raises(RefusedPathError, match="private"):
        get(f"{base}/ok", 100, BOTH)
    assert server.seen == []


def test_the_address_that_was_checked_is_the_one_that_is_used(server, base: str, monkeypatch) -> None:
    """A name server that answers differently the second time gains nothing."""
    port = server.server_address[1]
    answers = iter([[(2, 1, 6, "", ("93.184.216.34", port))], [(2, 1, 6, "", ("127.0.0.1", port))]])
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: next(answers))

    def connect(address: tuple[str, int], timeout: float) -> None:
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(web.socket, "create_connection", connect)
    with pytest.raises(ConnectionRefusedError):
        get(f"http://rebinding.example:{port}/ok", 100, BOTH)
    assert asked == [("93.184.216.34", port)]


@pytest.mark.parametrize(("status", "is_final"), [(404, True), (403, True), (429, False), (503, False)])
def test_statuses(base: str, status: int, is_final: bool) -> None:
    with pytest.raises(WebError, match=str(status)) as found:
        get(f"{base}/{status}", 100, BOTH, origin(base))
    assert found.value.is_final is is_final


def test_an_answer_that_breaks_off(base: str) -> None:
    with pytest.raises(WebError, match="cut off") as found:
        get(f"{base}/short", 100, BOTH, origin(base))
    assert not found.value.is_final


def test_images_of_a_listing(server, base: str, monkeypatch) -> None:
    monkeypatch.setattr("schemas.retries.FIRST_WAIT", 0.0)
    config = SourceConfig(("l.csv",), "listing", image_root=f"{base}/ok", allow_protocols=("http",))
    places = places_of(config, "l.csv")
    server.busy += [429, 503, 503]
    assert fetch("a.jpg", places, None, 100) == (b"0123456789", None)
    assert len(server.seen) == 4
    server.busy += [503] * 9
    assert fetch("a.jpg", places, None, 100) == (None, ("read", "io", "HTTP 503"))
    assert len(server.seen) == 8
    server.busy.clear()
    for name, stage, reason, detail in (
        (f"{base}/404?key=SECRET", "read", "io", "HTTP 404"),
        (
            f"http://localhost:{server.server_address[1]}/ok?key=SECRET",
            "read",
            "refused",
            "the address is private",
        ),
        ("http://no-such-host.invalid/a", "read", "io", "no such host"),
        ("http://u:SECRET@[x/a", "read", "refused", "the URL is broken"),
    ):
        assert fetch(name, places, None, 100) == (None, (stage, reason, detail))
    assert fetch("a.jpg", places, None, 9) == (
        None,
        ("read", "too_many_bytes", "more than 9 bytes, the limit"),
    )


def test_public_addresses() -> None:
    assert all(map(is_public, ["93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8"]))
    private = [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.1.1",
        "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
        "64:ff9b::a00:1", "2002:a00:1::1", "2002:7f00:1::",
    ]  # fmt: skip
    assert [address for address in private if is_public(address)] == []
