"""A local server that imitates Google Drive, with its confirmation page, its quota page and its faults.

It is an HTTP proxy that answers for Google's host names, with a local certificate: a client that obeys HTTPS_PROXY and
REQUESTS_CA_BUNDLE, as gdown does, requests the real addresses from it.
"""

from __future__ import annotations

import re
import ssl
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

HOSTS = ("drive.google.com", "drive.usercontent.google.com", "docs.google.com")
CONFIRM = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body><div id="uc-text">
<p class="uc-warning-caption">Google Drive can't scan this file for viruses.</p>
<form id="download-form" action="https://drive.usercontent.google.com/download" method="get"><input type="submit" value="Download anyway"/><input type="hidden" name="id" value="{id}"><input type="hidden" name="export" value="download"><input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="7c7e"></form>
</div></body></html>"""
QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body><div id="uc-text">
<p class="uc-error-caption">Sorry, you can&#39;t view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently. Please try accessing the file again later.</p>
</div></body></html>"""
SIGN_IN = (
    """<!DOCTYPE html><html><head><title>Google Drive: Sign-in</title></head><body>Sign in to continue</body></html>"""
)


@dataclass
class Drive:
    """The behaviour of the server, and the requests it got.

    Attributes:
        content: the file.
        mode: ``confirm`` (page first), ``direct``, ``quota``, ``sign-in``, ``loop`` (pages for ever), ``missing`` (404).
        cut: bytes sent of the file before the connection is dropped, one entry per answer; empty: all.
        ranges: whether a Range is honoured.
        etag: version of the file.
        asked: one entry per request: host, path and range.
    """

    content: bytes
    mode: str = "confirm"
    cut: list[int] = field(default_factory=list)
    ranges: bool = True
    etag: str = '"one"'
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    port: int = 0


def make_certificate(folder: Path) -> Path:
    """Write a key and a certificate for Google's names into one file."""
    made = folder / "drive.pem"
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=local Drive",
         "-addext", f"subjectAltName={names}", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    made.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return made


def serve(drive: Drive, certificate: Path) -> ThreadingHTTPServer:
    """Start the server on a free port of this machine; the caller shuts it down."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
            self.close_connection = False

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            drive.asked.append((self.headers["Host"], self.path, self.headers.get("Range")))
            confirmed = query.get("confirm") == ["t"]
            if drive.mode in ("quota", "sign-in"):
                self.page({"quota": QUOTA, "sign-in": SIGN_IN}[drive.mode])
            elif drive.mode == "missing":
                self.page("<html>404</html>", 404)
            elif drive.mode == "loop" or (drive.mode == "confirm" and not confirmed):
                self.page(CONFIRM.format(id=query["id"][0]))
            else:
                self.file()

        def page(self, text: str, status: int = 200) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def file(self) -> None:
            start, total = 0, len(drive.content)
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            same = self.headers.get("If-Range", drive.etag) == drive.etag
            if wanted and drive.ranges and same:
                start = int(wanted[1])
                if start >= total:
                    self.send_response(416)
                else:
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            else:
                self.send_response(200)
            data = drive.content[start:]
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Disposition", 'attachment; filename="texts.zip"')
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", drive.etag)
            self.end_headers()
            if drive.cut:
                self.wfile.write(data[: drive.cut.pop(0)])
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    drive.port = server.server_address[1]
    # It checks every 10 ms whether to stop; the default is half a second, for which each test would wait.
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server
