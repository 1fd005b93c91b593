"""Run the server until it receives a signal to stop."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.routing import Route

from vixml.errors import VixmlError
from vixml.progress import warn
from vixml.serving.app import OPEN_PATHS, make_app
from vixml.serving.guard import Access, Connection, Guard
from vixml.serving.limits import Limits
from vixml.serving.metrics import Metrics
from vixml.tagging.tagger import Tagger

GRACE = 10  # seconds that requests have to end after a signal


def bind(host: str, port: int) -> socket.socket:
    """Take a port, before the model loads: it is no use without.

    Raises:
        VixmlError: the port is taken or needs rights, or the host is none of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = found[0]
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError, OverflowError) as error:
        found = getattr(error, "strerror", None) or str(error)
        hint = "name another port with --port (0: any free one), or an address of this machine with --host"
        raise VixmlError("the server cannot listen there", where=f"{host}:{port}", found=found, hint=hint) from error
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the web address of a port."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine reaches a port."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


class Server(uvicorn.Server):
    """A server that says when it is ready, and ends without an error when it is told to."""

    ready = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        if self.ready:
            print(self.ready, flush=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGTERM and Ctrl-C stop the server; a second one stops it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def make_server(
    tagger: Tagger,
    listener: socket.socket,
    limits: Limits,
    *,
    token: str | None = None,
    allow_urls: bool = False,
) -> Server:
    """Return a server; ``run(sockets=[listener])`` serves until a signal, or until its ``should_exit`` is set.

    Raises:
        VixmlError: a token that no header can carry.
    """
    if token is not None and (not token or not token.isascii() or not token.isprintable() or " " in token):
        hint = "make one: python -c 'import secrets; print(secrets.token_urlsafe())'"
        expected = "printable ASCII without spaces"
        raise VixmlError("not a token", where="--token, VIXML_TOKEN", expected=expected, hint=hint)
    local = is_loopback(listener)
    if not local and token is None:
        warn(
            f"{address_of(listener)} is not loopback, and there is no token: everyone who reaches this address can use the "
            "model and see its training items. Set a token (VIXML_TOKEN), or leave --host out."
        )
    if allow_urls and not tagger.reads_images:
        warn("--allow-urls fetches nothing: this model reads text only")
    metrics, processes = Metrics(), max(1, min(4, os.cpu_count() or 1))
    count: Callable[[], int] = lambda: len(server.server_state.connections)  # noqa: E731
    app = make_app(tagger, limits, metrics, allow_urls=allow_urls, connections=count, processes=processes)
    paths = {route.path: route.path_regex for route in app.routes if isinstance(route, Route)}
    guard = Guard(app, limits, Access(token, local, frozenset(OPEN_PATHS)), metrics, paths)
    server = Server(
        uvicorn.Config(
            guard,
            http=Connection.limited(limits),
            ws="none",
            lifespan="on",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE,
            timeout_keep_alive=min(5, int(limits.idle) or 1),
        )
    )
    return server
