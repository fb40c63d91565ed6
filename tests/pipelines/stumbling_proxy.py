"""An HTTP proxy that fails a share of the requests: 429, 503, connections dropped before or after the answer."""

import http.client
import socket
import threading
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

FAULTS = ("429", "503", "dropped", "answer lost")
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length"}


class StumblingProxy:
    """Stands before a server while the `with` block runs.

    Args:
        upstream: `http://host:port` of the server.

    Attributes:
        percent: share of requests that fail; which ones, and how, the seed and the request decide.
        seed: for another choice.
        requests: how many arrived.
        faults: how many failed, by kind.
    """

    def __init__(self, upstream: str) -> None:
        self.percent, self.seed = 0, 0
        self.requests = 0
        self.faults: Counter[str] = Counter()
        self._upstream = urlsplit(upstream).netloc
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                pass

            def _forward(self) -> None:
                proxy._handle(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _forward

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "StumblingProxy":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _draw(self, request: str) -> str | None:
        with self._lock:
            self.requests += 1
            self._seen[request] += 1
            number = zlib.crc32(f"{self.seed} {request} {self._seen[request]}".encode())
            if number % 100 >= self.percent:
                return None
            fault = FAULTS[number // 100 % len(FAULTS)]
            self.faults[fault] += 1
            return fault

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = _body(handler)
        fault = self._draw(f"{handler.command} {handler.path}")
        if fault in ("429", "503"):
            _answer(handler, int(fault), [("Content-Type", "text/plain")], b"try again later")
            return
        if fault == "dropped":
            _drop(handler)
            return
        status, headers, content = self._ask(handler, body)
        if fault == "answer lost":
            _drop(handler)
            return
        _answer(handler, status, headers, content)

    def _ask(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self._upstream, timeout=30)
        headers = {name: value for name, value in handler.headers.items() if name.lower() not in HOP_BY_HOP}
        headers["Content-Length"] = str(len(body))
        try:
            upstream.request(handler.command, handler.path, body, headers)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if "chunked" not in handler.headers.get("Transfer-Encoding", ""):
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    pieces = []
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        pieces.append(handler.rfile.read(size))
        handler.rfile.readline()
    while handler.rfile.readline().strip():  # trailers
        pass
    return b"".join(pieces)


def _answer(
    handler: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], content: bytes
) -> None:
    handler.send_response_only(status)
    for name, value in headers:
        if name.lower() not in HOP_BY_HOP:
            handler.send_header(name, value)
    length = {name.lower(): value for name, value in headers}.get("content-length")
    whole = length if handler.command == "HEAD" and length is not None else len(content)
    handler.send_header("Content-Length", str(whole))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(content)


def _drop(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)
