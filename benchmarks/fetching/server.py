"""A server of images in a process of its own, for `benchmarks/fetch.py`: fast, and with faults where a path asks for them.

`/KIND/N`: image N. Kinds: `ok`; `gone` (404); `broken` (500, on the first request); `busy` (429 with Retry-After, first);
`stall` (says nothing for a minute, first); `cut` (half of the body, first); `text` (no image, always). What was sent whole
is counted by path; `/counts` tells.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections import Counter
from multiprocessing import get_context
from typing import Any

import numpy as np
from PIL import Image

IMAGES = 499
SIDES = (120, 90)


def image_file(number: int) -> bytes:
    """Return one of 499 small photos (JPEG, about 3 kB)."""
    rng = np.random.default_rng(number % IMAGES)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    written = io.BytesIO()
    small.resize(SIDES, Image.Resampling.BICUBIC).save(written, "JPEG", quality=80)
    return written.getvalue()


class Protocol(asyncio.Protocol):
    """One connection, kept open from request to request."""

    def __init__(self, server: Server) -> None:
        self.server, self.buffer = server, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to answer."""
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """Answer each whole request, after the delay."""
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            path = head.split(b" ", 2)[1].decode()
            delay = self.server.delay * random.uniform(0.2, 1.8)  # never in step: answers would come in waves
            asyncio.get_running_loop().call_later(delay, self.answer, path)

    def answer(self, path: str) -> None:
        """Send what the path asks for."""
        if path == "/counts":
            return self.send(json.dumps(self.server.whole).encode(), kind="application/json")
        _, kind, number = path.split("/")
        self.server.asked[path] += 1
        again = self.server.asked[path] > 1
        data = self.server.bodies[int(number) % IMAGES]
        if kind == "gone":
            self.send(b"gone", "404 Not Found")
        elif kind == "broken" and not again:
            self.send(b"", "500 Internal Server Error")
        elif kind == "busy" and not again:
            self.send(b"", "429 Too Many Requests", more="Retry-After: 1\r\n")
        elif kind == "stall" and not again:
            asyncio.get_running_loop().call_later(60, self.transport.close)
        elif kind == "cut" and not again:
            self.send(data[: len(data) // 2], length=len(data))
            self.transport.close()
        else:
            self.server.whole[path] += 1
            self.server.served.value += 1
            self.send(b"this is no image" if kind == "text" else data)

    def send(
        self,
        body: bytes,
        status: str = "200 OK",
        *,
        more: str = "",
        length: int | None = None,
        kind: str = "image/jpeg",
    ) -> None:
        """Send one answer."""
        if self.transport.is_closing():
            return
        length = len(body) if length is None else length
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{more}\r\n"
        self.transport.write(head.encode() + body)


class Server:
    """State that all connections share.

    Args:
        delay: mean seconds before an answer.
        served: shared counter of whole bodies.
    """

    def __init__(self, delay: float, served: Any) -> None:
        self.delay, self.served = delay, served
        self.bodies = [image_file(number) for number in range(IMAGES)]
        self.asked: Counter[str] = Counter()
        self.whole: Counter[str] = Counter()


def _serve(delay: float, served: Any, port: Any) -> None:
    async def run() -> None:
        shared = Server(delay, served)
        server = await asyncio.get_running_loop().create_server(lambda: Protocol(shared), "127.0.0.1", 0, backlog=512)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


class Running:
    """A server in a process of its own. Use it as a context.

    Args:
        delay: seconds before each answer.
    """

    def __init__(self, delay: float) -> None:
        context = get_context("spawn")
        self.served, port = context.Value("q", 0, lock=False), context.Queue()
        self.process = context.Process(target=_serve, args=(delay, self.served, port), daemon=True)
        self.process.start()
        self.base = f"http://127.0.0.1:{port.get()}"

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *details: object) -> None:
        self.process.terminate()
        self.process.join()
