"""A server on this machine that answers as the model hub does, for tests that fetch from it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

COMMIT = "c0ffee" * 6 + "0123"


class Hub(BaseHTTPRequestHandler):
    """Answer as the hub does about one repository: its commit, its list of files, the files.

    Attributes:
        name: ORGANISATION/NAME; a data set's begins with ``datasets/``.
        folder: its files.
        status: of every answer; 200 for a hub in order.
        asked: the paths asked for.
    """

    name, folder, status, asked = "", Path(), 200, []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        Hub.asked.append(self.path)
        api = f"/api/{Hub.name if Hub.name.startswith('datasets/') else 'models/' + Hub.name}"
        files = {path.name: path for path in Hub.folder.iterdir()}
        start, _, rest = self.path.partition("/resolve/")
        file = rest.partition("/")[2]
        if Hub.status != 200:
            self.answer(b"{}", Hub.status)
        elif self.path.startswith(f"{api}/tree/"):
            tree = [{"type": "file", "path": n, "size": p.stat().st_size, "oid": n} for n, p in files.items()]
            self.answer(json.dumps(tree).encode())
        elif self.path.startswith(api):
            self.answer(json.dumps({"id": Hub.name, "sha": COMMIT, "siblings": []}).encode())
        elif start == f"/{Hub.name}" and file in files:
            self.answer(files[file].read_bytes(), etag=f'"{file}"')
        else:
            self.answer(b"", 404)

    def answer(self, data, status=200, etag='"x"'):
        self.send_response(status)
        errors = {401: "RepoNotFound", 403: "GatedRepo", 404: "RevisionNotFound"}
        for key, value in {"Content-Length": len(data), "ETag": etag, "X-Repo-Commit": COMMIT}.items():
            self.send_header(key, str(value))
        if status in errors:
            self.send_header("X-Error-Code", errors[status])
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


def turn_to(monkeypatch, address: str) -> None:
    """Do what HF_ENDPOINT does, which is read once per process."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    files = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def turn_away(monkeypatch) -> None:
    """Turn to where nobody answers; the library's pauses between its tries (20 s in all) are left out."""
    turn_to(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))


@contextmanager
def serve_hub(monkeypatch, name: str, folder: Path) -> Iterator[type[Hub]]:
    """Serve one repository's files for the time of a `with` block; yields the class, whose status may be set."""
    Hub.name, Hub.folder, Hub.status, Hub.asked = name, folder, 200, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    # It looks every 10 ms whether it shall stop; by itself every half second, for which each test would wait.
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    turn_to(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    try:
        yield Hub
    finally:
        server.shutdown()
        server.server_close()
