"""A server of images that misbehaves on demand: the path names the fault."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


def image_file(seed: int, kind: str = "JPEG") -> bytes:
    """Return a small image, another one for each seed."""
    written = io.BytesIO()
    Image.new("RGB", (30 + seed % 7, 20), ((seed * 37) % 256, (seed * 91) % 256, 50)).save(written, kind)
    return written.getvalue()


@cache
def bomb() -> bytes:
    """Return an image of 81 million pixels in 10 kB."""
    written = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(written, "PNG")
    return written.getvalue()


class Handler(BaseHTTPRequestHandler):
    """``/ok/7`` gives image 7; see :meth:`do_GET` for the rest."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        with server.lock:
            server.asked[self.path] += 1
            turn = server.asked[self.path]
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            _, kind, number = self.path.split("?")[0].split("/")[:3]
            self.answer(kind, int(number), turn)
        finally:
            with server.lock:
                server.now -= 1

    def answer(self, kind, number, turn):
        """Answer by kind: `late` sleeps longer the smaller its number, `busy` wants a second try, and so on."""
        if kind == "late":
            time.sleep(0.002 * (20 - number % 20))
        elif kind == "busy" and turn == 1:
            return self.send(b"", 429, {"Retry-After": "0"})
        elif kind == "flaky" and turn <= 2:
            return self.send(b"", 503)
        elif kind == "down":
            return self.send(b"", 500)
        elif kind == "gone":
            return self.send(b"gone", 404)
        elif kind == "stall" and turn == 1:
            time.sleep(2.5)
        elif kind == "cut" and turn == 1:
            data = image_file(number)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Type", "image/jpeg")
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return None
        elif kind == "page":
            return self.send(b"<html>not here</html>", 200, {"Content-Type": "text/html"})
        elif kind == "text":
            return self.send(b"this is no image", 200, {"Content-Type": "image/jpeg"})
        elif kind == "large":
            return self.send(b"\0" * 200_000)
        elif kind == "endless":
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"\0" * 65536)
            except OSError:
                return None
        elif kind == "bomb":
            return self.send(bomb(), 200, {"Content-Type": "image/png"})
        elif kind == "squeezed":
            return self.send(image_file(number), 200, {"Content-Encoding": "gzip"})
        elif kind == "around":
            return self.send(b"", 302, {"Location": self.path})
        elif kind == "moved":
            return self.send(b"", 301, {"Location": f"/ok/{number}"})
        elif kind == "later":
            return self.send(b"", 429, {"Retry-After": "3600"})
        elif kind == "second" and turn == 1:
            return self.send(b"", 429, {"Retry-After": "1"})
        elif kind == "cookie":
            status = 400 if "Cookie" in self.headers else 200
            return self.send(image_file(number), status, {"Set-Cookie": f"c{number}={'x' * 3000}"})
        elif kind == "svg":
            drawing = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 2"><path d="M0 0h1v2h-1z"/></svg>'
            return self.send(drawing, 200, {"Content-Type": "image/svg+xml"})
        elif kind == "port":
            return self.send(b"", 302, {"Location": "http://127.0.0.1:99999/a.jpg"})
        elif kind == "redirects":
            return self.send(b"", 302, {"Location": "http://[::1/a"})
        elif kind == "file":
            return self.send(b"", 302, {"Location": "file:///etc/passwd"})
        return self.send(image_file(number))

    def send(self, data, status=200, headers=None):
        self.send_response(status)
        for name, value in ({"Content-Type": "image/jpeg"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with suppress(OSError):  # whoever has heard enough hangs up
            self.wfile.write(data)

    def log_message(self, *_):
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Count the requests, and the largest number of them at one time."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.lock, self.now, self.most = Counter(), threading.Lock(), 0, 0
        # It looks every 10 ms whether it shall stop; by itself every half second, for which each test would wait.
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return f"http://127.0.0.1:{self.server_port}/{path}"
