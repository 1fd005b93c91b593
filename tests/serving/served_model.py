"""A server of a model, on a port of this machine, in a thread of the test's process."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from vixml.serving.limits import Limits
from vixml.serving.server import Server, bind, make_server
from vixml.tagging.tagger import Tagger


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


@dataclass
class Running:
    """A server that runs, and what it serves."""

    server: Server
    port: int
    tagger: Tagger

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        found = Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
        connection.close()
        self.expect_listed(method, path, found.status)
        return found

    def expect_listed(self, method: str, path: str, status: int) -> None:
        """Check that /openapi.json lists a status that a path has answered with."""
        for known, methods in self.server.config.app._app.openapi()["paths"].items():
            if re.fullmatch(re.sub(r"{\w+}", "[^/]+", known), path) and method.lower() in methods:
                assert str(status) in methods[method.lower()]["responses"], (method, path, status)

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, value: Any, **headers: str) -> Answer:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.ask("POST", path, body, {"content-type": "application/json"} | headers)

    def form(self, *parts: tuple[str, str | bytes]) -> Answer:
        """Send a form; bytes are files."""
        body = b""
        for name, value in parts:
            extra = b'; filename="a.png"\r\nContent-Type: image/png' if isinstance(value, bytes) else b""
            value = value if isinstance(value, bytes) else value.encode()
            body += b'--edge\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (
                name.encode(),
                extra,
                value,
            )
        kind = {"content-type": "multipart/form-data; boundary=edge"}
        return self.ask("POST", "/v1/tags", body + b"--edge--\r\n", kind)

    def open(self, sent: bytes = b"") -> socket.socket:
        """Return a bare connection that has sent something."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=600)
        connection.sendall(sent)
        return connection

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").body.decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


@contextmanager
def running(tagger: Tagger, limits: Limits | None = None, **options: Any) -> Iterator[Running]:
    """Serve a model until the block ends."""
    listener = bind("127.0.0.1", 0)
    server = make_server(tagger, listener, limits or Limits(), **options)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    port = listener.getsockname()[1]
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Running(server, port, tagger)
    finally:
        server.should_exit = True
        thread.join()
