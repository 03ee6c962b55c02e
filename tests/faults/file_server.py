"""A server on this machine that answers well, badly or not at all."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.toys import servers

__all__ = ["FileServer", "serving"]


class FileServer:
    """What is at which path, and what has been asked for.

    Attributes:
        files: content by path. A function instead of bytes gets the request's handler and answers as it likes.
        asked: path and range of every request so far.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes | Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.stopped = threading.Event()

    def url(self, path: str) -> str:
        return self.address + path

    # ways of answering -------------------------------------------------------------------------------------------------------------

    def silent(self, handler: BaseHTTPRequestHandler) -> None:
        """Takes the question and says nothing."""
        self.stopped.wait(30)

    def trickling_headers(self, handler: BaseHTTPRequestHandler) -> None:
        """A byte now and then, and never the end of the headers."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.stopped.wait(0.1):
            handler.wfile.write(b"x")

    def trickling(self, content: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
        """A byte now and then, quicker than the read timeout."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            _begin(handler, 200, len(content))
            for byte in content:
                handler.wfile.write(bytes([byte]))
                if self.stopped.wait(0.1):
                    return

        return answer

    def stalling(self, content: bytes, after: int) -> Callable[[BaseHTTPRequestHandler], None]:
        """Stops in the middle, the connection stays open."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            _begin(handler, 200, len(content), ETag='"1"')
            handler.wfile.write(content[:after])
            handler.wfile.flush()
            self.stopped.wait(30)

        return answer

    def cutting(self, content: bytes, *, each: int, ranges: bool = True, tag: str = '"1"') -> Callable[[BaseHTTPRequestHandler], None]:
        """Closes the connection after every ``each`` bytes; goes on at the byte that is asked for where ``ranges``."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            start = 0
            asked = handler.headers.get("Range")
            if ranges and asked and handler.headers.get("If-Range", tag) == tag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    _begin(handler, 416, 0, **{"Content-Range": f"bytes */{len(content)}"})
                    return
                span = f"bytes {start}-{len(content) - 1}/{len(content)}"
                _begin(handler, 206, len(content) - start, **{"ETag": tag, "Content-Range": span})
            else:
                _begin(handler, 200, len(content), ETag=tag)
            handler.wfile.write(content[start : start + each])
            handler.wfile.flush()
            if start + each < len(content):  # with a reset, as a broken network does
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                time.sleep(0.05)
                handler.connection.close()

        return answer

    def ending(self, content: bytes, after: int) -> Callable[[BaseHTTPRequestHandler], None]:
        """Closes the connection in the middle as if all had been said."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            _begin(handler, 200, len(content))
            handler.wfile.write(content[:after])

        return answer

    def redirecting(self, target: str) -> Callable[[BaseHTTPRequestHandler], None]:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            _begin(handler, 302, 0, Location=target)

        return answer

    def refusing(self, code: int, *, times: int, then: bytes = b"") -> Callable[[BaseHTTPRequestHandler], None]:
        """An error, and after some of them the file."""
        left = [times]

        def answer(handler: BaseHTTPRequestHandler) -> None:
            left[0] -= 1
            if left[0] >= 0:
                _begin(handler, code, 0)
            else:
                _begin(handler, 200, len(then))
                handler.wfile.write(then)

        return answer

    def chunked(self, content: bytes, *, cut: bool) -> Callable[[BaseHTTPRequestHandler], None]:
        """In chunks, without a length beforehand; ``cut``: the last one is missing."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
            if not cut:
                handler.wfile.write(b"0\r\n\r\n")
            handler.close_connection = True

        return answer

    def page(self, handler: BaseHTTPRequestHandler) -> None:
        """What a login wall or a mistyped address gives, with the code of success."""
        content = b"<!DOCTYPE html>\n<html><body>Sign in to go on</body></html>"
        _begin(handler, 200, len(content), **{"Content-Type": "text/html"})
        handler.wfile.write(content)


def _begin(handler: BaseHTTPRequestHandler, code: int, length: int, **headers: str) -> None:
    handler.send_response(code)
    handler.send_header("Content-Length", str(length))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


@contextmanager
def serving() -> Iterator[FileServer]:
    """A server on a free port of the loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            files.asked.append((self.path, self.headers.get("Range")))
            content = files.files.get(self.path, files.files.get(urlsplit(self.path).path))
            try:
                if content is None:
                    _begin(self, 404, 0)
                elif callable(content):
                    content(self)
                else:
                    _begin(self, 200, len(content))
                    self.wfile.write(content)
            except (ConnectionError, ValueError, OSError):
                pass  # the other side has gone
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    with servers.serving(Handler) as address:
        files = FileServer(address)
        try:
            yield files
        finally:
            files.stopped.set()
