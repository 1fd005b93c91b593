"""A server on this machine that answers as the model hub does, for tests that fetch from it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

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

    def answer(self, data, status=200, etag='"x"', code=None):
        self.send_response(status)
        errors = {401: "RepoNotFound", 403: "GatedRepo", 404: "RevisionNotFound"}
        for key, value in {"Content-Length": len(data), "ETag": etag, "X-Repo-Commit": COMMIT}.items():
            self.send_header(key, str(value))
        if status in errors:
            self.send_header("X-Error-Code", code or errors[status])
        self.end_headers()
        if self.command != "HEAD":
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
    with _serving(monkeypatch, Hub):
        yield Hub


@contextmanager
def _serving(monkeypatch, handler: type[BaseHTTPRequestHandler]) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    # It looks every 10 ms whether it shall stop; by itself every half second, for which each test would wait.
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    turn_to(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class PushedHub(Hub):
    """Answer as the hub does to who creates a repository and commits to it; large files go through git LFS.

    Attributes:
        repositories: name -> ``private`` and ``files`` (path -> content).
        large: objects of git LFS, by hash.
        token: the only one that may write.
        commits: number of commits.
    """

    repositories: ClassVar[dict] = {}
    large: ClassVar[dict] = {}
    token, commits = "hf_secret", 0

    def do_GET(self):
        name, resolves, rest = self.path[1:].partition("/resolve/")
        if resolves:
            return self.answer(PushedHub.repositories[name]["files"][rest.partition("/")[2]])
        found = re.fullmatch(r"/api/models/([^/]+/[^/?]+)(/tree/[^?]*)?(\?.*)?", self.path)
        repository = PushedHub.repositories.get(found[1]) if found else None
        if repository is None:
            return self.answer(b"{}", 404, code="RepoNotFound")
        if found[2]:
            files = repository["files"].items()
            return self.reply([{"type": "file", "path": n, "size": len(data), "oid": n} for n, data in files])
        return self.reply({"id": found[1], "sha": COMMIT, "private": repository["private"], "siblings": []})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.headers["Authorization"] != f"Bearer {PushedHub.token}":
            # A server that repeats what it was sent.
            return self.answer(json.dumps({"error": f"bad {self.headers['Authorization']}"}).encode(), 403, code="x")
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            private = asked.get("private") is True or asked.get("visibility") == "private"  # before and since 2.0
            PushedHub.repositories[name] = {"private": private, "files": {".gitattributes": b"*"}}
            return self.reply({"url": f"http://127.0.0.1/{name}", "name": name})
        if self.path.endswith("/info/lfs/objects/batch"):
            port = self.server.server_port
            return self.reply({"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {"href": f"http://127.0.0.1:{port}/lfs/{one['oid']}", "header": {}}}}
                for one in json.loads(body)["objects"]
            ]})  # fmt: skip
        if "/preupload/" in self.path:
            return self.reply({"files": [
                {"path": one["path"], "shouldIgnore": False, "uploadMode": "regular" if one["path"].endswith((".json", ".md")) else "lfs"}
                for one in json.loads(body)["files"]
            ]})  # fmt: skip
        if "/commit/" in self.path:
            name = self.path.split("/api/models/")[1].split("/commit/")[0]
            files = PushedHub.repositories[name]["files"]
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = PushedHub.large[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            PushedHub.commits += 1
            return self.reply(
                {"commitUrl": f"http://127.0.0.1/{name}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            )
        return self.reply({})  # the hub's opinion of a README

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        PushedHub.large[hashlib.sha256(data).hexdigest()] = data
        self.reply({})

    def reply(self, value):
        self.answer(json.dumps(value).encode())


@contextmanager
def serve_pushes(monkeypatch) -> Iterator[type[PushedHub]]:
    """Serve a hub without repositories for the time of a `with` block; the environment has its token."""
    PushedHub.repositories, PushedHub.large, PushedHub.commits = {}, {}, 0
    monkeypatch.setenv("HF_TOKEN", PushedHub.token)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # its servers are another protocol
    with _serving(monkeypatch, PushedHub):
        yield PushedHub
