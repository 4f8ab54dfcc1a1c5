"""A real HTTP server on the loopback that serves files, and misbehaves as it is told.

with MisbehavingServer() as server:
    server.files["/a.png"] = Served(content, etag='"1"')
    server.script("/a.png", Answer(break_after=1000), Answer(status=503))
    ... first request: breaks off; second: 503; then as a good server does
    server.requests  # what was asked and how many bytes of content were sent
"""

from __future__ import annotations

import re
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Served:
    """What lies at an address."""

    content: bytes
    etag: str = ""
    last_modified: str = ""
    content_type: str = "application/octet-stream"


@dataclass(frozen=True)
class Answer:
    """How one request is answered; without arguments, as a good server does.

    Args:
        status: Instead of the file, this status without content, where it is not 200.
        headers: Sent beside the others, or in their place.
        served: What lies at the address from this request on.
        break_after: The connection is closed after this many bytes.
        stall_after: Nothing is sent after this many bytes, and the connection stays open.
        length: The Content-Length that is claimed.
        ranges: Whether a range is answered as one.
        shift: So many bytes further than asked begins the range that is sent.
        piece: No range that is sent has more bytes than this.
        chunked: In chunks, without a length.
        until_closed: Without a length and without chunks.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    served: Served | None = None
    break_after: int | None = None
    stall_after: int | None = None
    length: int | None = None
    ranges: bool = True
    shift: int = 0
    piece: int | None = None
    chunked: bool = False
    until_closed: bool = False


@dataclass
class Asked:
    """A request that came, and what it got."""

    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


class MisbehavingServer:
    """Serves `files`; `script` and `always` tell how single or all requests are answered."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.always: dict[str, Answer] = {}
        self.requests: list[Asked] = []
        self.closing = threading.Event()
        self._scripts: dict[str, deque[Answer]] = defaultdict(deque)
        self._lock = threading.Lock()

    def script(self, path: str, *answers: Answer) -> None:
        self._scripts[path].extend(answers)

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def asked(self, path: str) -> list[Asked]:
        return [asked for asked in self.requests if asked.path == path]

    def __enter__(self) -> MisbehavingServer:
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _QuietServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def next_answer(self, asked: Asked) -> Answer:
        with self._lock:
            self.requests.append(asked)
            waiting = self._scripts[asked.path]
            answer = waiting.popleft() if waiting else self.always.get(asked.path, Answer())
            if answer.served:
                self.files[asked.path] = answer.served
            return answer


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, address: object) -> None:
        """A client that goes away in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    owner: MisbehavingServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        asked = Asked(self.path, dict(self.headers))
        answer = self.owner.next_answer(asked)
        served = self.owner.files.get(self.path)
        if answer.status != 200:
            self._send_status(asked, answer.status, answer.headers)
        elif served is None:
            self._send_status(asked, 404, {})
        else:
            self._send_file(asked, served, answer)

    def _send_status(self, asked: Asked, status: int, headers: Mapping[str, str]) -> None:
        self._send_head(asked, status, {"Content-Length": "0", **headers})

    def _send_file(self, asked: Asked, served: Served, answer: Answer) -> None:
        body = served.content
        headers = {"Content-Type": served.content_type}
        headers |= {"ETag": served.etag} if served.etag else {}
        headers |= {"Last-Modified": served.last_modified} if served.last_modified else {}
        first, status = self._first_byte(served, answer), 200
        if first is not None and first >= len(body):
            self._send_status(asked, 416, {"Content-Range": f"bytes */{len(body)}"})
            return
        if first is not None:
            first, total = first + answer.shift, len(body)
            body, status = body[first:][: answer.piece], 206
            headers["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{total}"
        if answer.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif not answer.until_closed:
            headers["Content-Length"] = str(answer.length or len(body))
        self._send_head(asked, status, {**headers, **answer.headers})
        self._send_body(asked, body[: answer.length], answer)

    def _first_byte(self, served: Served, answer: Answer) -> int | None:
        """Where the range begins that is to be sent; None for the whole content."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if not found or not answer.ranges:
            return None
        if condition is not None and condition not in {served.etag, served.last_modified}:
            return None
        return int(found[1])

    def _send_head(self, asked: Asked, status: int, headers: Mapping[str, str]) -> None:
        asked.status = status
        self.send_response_only(status)
        for name, value in {"Date": self.date_time_string(), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_body(self, asked: Asked, body: bytes, answer: Answer) -> None:
        stop = answer.break_after if answer.break_after is not None else answer.stall_after
        for start in range(0, len(body[:stop]), 1 << 14):
            piece = body[:stop][start : start + (1 << 14)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if answer.chunked else piece)
            asked.sent += len(piece)
        if answer.stall_after is not None:
            self.owner.closing.wait()
        if stop is None and answer.chunked:
            self.wfile.write(b"0\r\n\r\n")
        if stop is not None or answer.until_closed or answer.length is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
