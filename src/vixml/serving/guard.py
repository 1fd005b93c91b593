"""A guard between the network and the API: limits of connections, size and time, the token, and headers of every answer."""

from __future__ import annotations

import asyncio
import hmac
import re
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from vixml.serving.limits import CALM, Limits, Refusal
from vixml.serving.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# Any address on which `vixml.serving.server.is_loopback` lets a server go without a token.
LOCAL_NAME = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)
SECURITY = [
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
     b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]  # fmt: skip


@dataclass(frozen=True)
class Access:
    """Conditions under which a request is answered.

    Attributes:
        token: of the header ``Authorization: Bearer``; None lets everyone in who reaches the server.
        local_only: answer only requests that name this machine, so that no web page of another name reaches a server that
            needs no token (DNS rebinding).
        free: paths that need no token.
    """

    token: str | None
    local_only: bool
    free: frozenset[str]

    def check(self, path: str, headers: Headers) -> None:
        """Check a request.

        Raises:
            Refusal: no token, another one, or another host.
        """
        host = headers.get("host", "")
        if self.local_only and self.token is None and not LOCAL_NAME.fullmatch(host):
            message = (
                f"this server answers on localhost only, not as {host[:100]!r}; with a token it answers to any name"
            )
            raise Refusal(421, "wrong_host", message)
        if self.token is None or path in self.free:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token.encode()):
            raise Refusal(401, "unauthorized", "this server needs its token: -H 'Authorization: Bearer TOKEN'")


class Guard:
    """Wrap the application: every request is checked, limited and counted, and no error of one ends the server.

    ``paths`` are those of the API, each with its expression, for the counters; others count as one.
    """

    def __init__(
        self, app: App, limits: Limits, access: Access, metrics: Metrics, paths: Mapping[str, re.Pattern[str]]
    ) -> None:
        self._app, self._limits, self._access, self._metrics, self._paths = app, limits, access, metrics, paths
        self._buffered = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request = _Watched(scope, receive, send)
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._answer(request)
        except TimeoutError:
            await request.refuse(self._late(request))
        except asyncio.CancelledError:  # the server stops
            await request.refuse(Refusal(503, "stopping", f"the server stops; {CALM}", wait=5))
        except ClientDisconnect:
            pass
        except Exception:  # the application has answered; the connection closes if it was half-way
            traceback.print_exc(file=sys.stderr)
            await request.refuse(Refusal(500, "internal_error", "a fault of the server; its log has the reason"))
        finally:
            self._buffered -= request.counted
            path = next((path for path, one in self._paths.items() if one.match(scope["path"])), "other")
            self._metrics.requests[path, request.status or 499] += 1
            self._metrics.seconds.add(time.perf_counter() - begun)

    async def _answer(self, request: _Watched) -> None:
        headers = Headers(scope=request.scope)
        try:
            self._access.check(request.scope["path"], headers)
            if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
                raise Refusal(415, "unsupported_encoding", "send the body as it is, not compressed")
            length = headers.get("content-length", "0")
            if length.isascii() and length.isdecimal() and int(length[:20]) > self._limits.body:
                raise self._too_large()
        except Refusal as error:
            await request.refuse(error)
            return

        async def receive() -> Message:
            message = await request.receive()
            n = len(message.get("body", b""))
            request.counted += n
            self._buffered += n
            if request.counted > self._limits.body:
                raise self._too_large()
            if self._buffered > self._limits.buffered:
                raise Refusal(503, "busy", f"too many large requests at once; {CALM}", wait=1)
            return message

        await self._app(request.scope, receive, request.send)

    def _too_large(self) -> Refusal:
        message = f"the body is larger than {self._limits.body} bytes (the server's --max-body)"
        return Refusal(413, "body_too_large", message)

    def _late(self, request: _Watched) -> Refusal:
        if request.more_body:
            return Refusal(408, "body_too_slow", f"the body took longer than {self._limits.seconds:g} s")
        message = f"no answer within {self._limits.seconds:g} s (the server's --timeout); {CALM}"
        return Refusal(503, "timeout", message, wait=max(1, round(self._limits.seconds / 2)))


class _Watched:
    """One request: what has been received and sent."""

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.status, self.counted, self.more_body = 0, 0, True

    async def receive(self) -> Message:
        message = await self._receive()
        self.more_body = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = message | {"headers": [*message.get("headers", ()), *SECURITY]}
        await self._send(message)

    async def refuse(self, error: Refusal) -> None:
        """Answer, unless an answer has begun; uvicorn closes the connection of one that was cut short."""
        if not self.status:
            await error.answer()(self.scope, self._receive, self.send)


class Connection(H11Protocol):
    """A connection of uvicorn with the limits that it lacks: time for the head of a request, and their number.

    Where there are too many, the one goes that has let the server wait longest; so those that send nothing, or slowly, make
    room for those that ask.
    """

    idle: ClassVar[float]
    most: ClassVar[int]
    whole: ClassVar[float]

    @classmethod
    def limited(cls, limits: Limits) -> type[Connection]:
        """Return the class for one server."""
        settings = {"idle": limits.idle, "most": limits.open_connections, "whole": limits.seconds}
        return type(cls.__name__, (cls,), settings)

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start to wait for a request."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._since = self.loop.time()
        if len(self.connections) > self.most:
            slow = [one for one in self.connections if one.awaits_client and one is not self]
            longest = min(slow, key=lambda one: one._since) if slow else self
            self.connections.discard(longest)  # it is told later, and another connection may come before
            longest.transport.abort()
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Read; a request that is complete ends the wait."""
        super().data_received(data)
        if not self.awaits_request:
            self._stop()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if self.awaits_request:
            self._since = self.loop.time()
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Finish the answer that is being made; a client that has not sent its request whole gets none."""
        if self.awaits_client and not self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().shutdown()

    @property
    def awaits_request(self) -> bool:
        """Return whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def awaits_client(self) -> bool:
        """Return whether the client has yet to send something."""
        return self.awaits_request or self.cycle.more_body

    def _wait(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(self.idle, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """End a connection whose client has sent no whole head in time; one that still reads an answer has longer."""
        reads = self.transport.get_write_buffer_size() > 0 and self.loop.time() - self._since < self.whole
        self._wait() if reads else self.transport.abort()
