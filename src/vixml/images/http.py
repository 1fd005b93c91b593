"""Get one file from the web as if everyone there meant harm: bounded in time, size and redirects, from public addresses."""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import ipaddress
import random
import select
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpcore2
import httpx2
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from vixml.config.registry import Fetch

# What a server may say of an image; a host that does not know says "octet-stream", and decoding decides.
IMAGE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
# Worth another try: the server is busy, or broke something on the way.
AGAIN = {408, 425, 429, 500, 502, 503, 504}
LONGEST_WAIT = 120.0


class Refused(Exception):
    """A URL that will never give an image; the message is one of a few beginnings."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class TryAgain(Refused):
    """A failure that may pass; ``wait`` is how many seconds the server asked for, or None."""

    def __init__(self, reason: str, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(reason, status)
        self.wait = wait


@dataclass(frozen=True)
class Answer:
    """What became of a URL.

    Attributes:
        data: the file, or None.
        status: the last HTTP status, or None where no answer came.
        attempts: requests made.
        error: why there is no file, or None.
        may_pass: whether the failure is one that may pass.
    """

    data: bytes | None
    status: int | None
    attempts: int
    error: str | None
    may_pass: bool = False

    @property
    def sha256(self) -> str | None:
        """Return the hash of the file."""
        return None if self.data is None else hashlib.sha256(self.data).hexdigest()


class Stream(httpcore2.AsyncNetworkStream):
    """The library's stream, but quick to say whether the other side hung up.

    Before each request the library asks that of every idle connection, and its own answer, which looks up addresses on the
    way, took most of the time of a fetcher with 64 connections (benchmarks/fetch.py).
    """

    def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
        self._inner = inner
        self.read, self.write, self.aclose = inner.read, inner.write, inner.aclose
        self._poll = select.poll()
        self._poll.register(inner.get_extra_info("socket").fileno(), select.POLLIN)

    async def start_tls(self, *arguments: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        """Encrypt."""
        return Stream(await self._inner.start_tls(*arguments, **options))

    def get_extra_info(self, info: str) -> Any:
        """Answer; an idle connection on which something can be read was closed by the other side."""
        return bool(self._poll.poll(0)) if info == "is_readable" else self._inner.get_extra_info(info)


class AnyAddress(httpcore2.AsyncNetworkBackend):
    """Open connections as the library does."""

    def __init__(self) -> None:
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect."""
        address = await self.address(host, port)
        return Stream(await self._inner.connect_tcp(address, port, timeout, local_address, socket_options))

    async def address(self, host: str, port: int) -> str:
        """Return what to connect to: here the name itself, for the library to look up."""
        return host

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._inner.sleep(seconds)


class PublicAddresses(AnyAddress):
    """Open connections to public addresses alone.

    A name is looked up here and the address checked is the one connected to, so neither a redirect nor a name that changes
    its address leads into the own network.
    """

    async def address(self, host: str, port: int) -> str:
        """Look up and check."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)
        except OSError as error:
            raise httpcore2.ConnectError(f"no address of {host}") from error
        address = found[0][4][0]
        if not ipaddress.ip_address(address.split("%")[0]).is_global:
            raise Refused(f"an address that is not public: {address}")
        return address


class Transport(httpx2.AsyncHTTPTransport):
    """The library's transport, with our way of connecting. A test fails if the library no longer asks it."""

    def __init__(self, connections: int, allow_private: bool) -> None:
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        super().__init__(trust_env=False, limits=limits)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(trust_env=False),
            max_connections=connections,
            max_keepalive_connections=connections,
            network_backend=AnyAddress() if allow_private else PublicAddresses(),
        )


class Getter:
    """Get files, with retries. Use it as an asynchronous context.

    Args:
        settings: limits.
    """

    def __init__(self, settings: Fetch) -> None:
        self.settings = settings
        self._hosts: dict[str, asyncio.Semaphore] = {}
        # Waited for outside the time-outs: a caller more than there are connections has not been kept waiting by a server.
        self._connections = asyncio.Semaphore(settings.concurrency)

    async def __aenter__(self) -> Getter:
        chosen = self.settings
        self._client = httpx2.AsyncClient(
            transport=Transport(chosen.concurrency, chosen.allow_private),
            timeout=chosen.timeout_seconds,
            follow_redirects=True,
            max_redirects=chosen.redirects,
            # No content coding: a small answer could unfold to any size.
            headers={"accept-encoding": "identity", "accept": "image/*", "user-agent": chosen.user_agent},
        )
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self._client.__aexit__(*details)

    async def get(self, url: str) -> Answer:
        """Return what became of ``url``; never raises for what the network does."""
        attempts = 0
        try:
            parsed = httpx2.URL(url)
            if parsed.scheme not in ("http", "https") or not parsed.host:
                raise Refused("not a web address (http or https)")
            # One host is never asked by more than its share, however many of its images are wanted.
            turn = self._hosts.setdefault(parsed.host, asyncio.Semaphore(self.settings.per_host))
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(self.settings.attempts),
                retry=retry_if_exception_type(TryAgain),
                wait=self._wait,
                reraise=True,
            ):
                with attempt:
                    attempts += 1
                    async with turn, self._connections:
                        data = await self._once(parsed)
            return Answer(data, 200, attempts, None)
        except Refused as error:
            return Answer(None, error.status, attempts, str(error), isinstance(error, TryAgain))
        except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
            return Answer(None, None, attempts, f"not a web address: {error}"[:200])

    async def _once(self, url: httpx2.URL) -> bytes:
        chosen = self.settings
        try:
            # A server that sends a byte now and then keeps each read alive; the whole has its limit too.
            async with asyncio.timeout(4 * chosen.timeout_seconds), self._client.stream("GET", url) as answer:
                status = answer.status_code
                if status in AGAIN:
                    raise TryAgain(f"HTTP {status}", status, retry_after(answer.headers.get("retry-after")))
                if status != 200:
                    raise Refused(f"HTTP {status}", status)
                kind = answer.headers.get("content-type", IMAGE_TYPES[0]).lower()
                if not kind.startswith(IMAGE_TYPES):
                    raise Refused(f"not an image: {kind[:60]}", status)
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise Refused("a content coding that was not asked for", status)
                body = bytearray()
                async for part in answer.aiter_raw():
                    body += part
                    if len(body) > chosen.max_bytes:
                        raise Refused(f"larger than {chosen.max_bytes} bytes", status)
                return bytes(body)
        except httpx2.TooManyRedirects as error:
            raise Refused("too many redirects") from error
        except httpx2.UnsupportedProtocol as error:
            raise Refused("a redirect to something that is no web address") from error
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise TryAgain("time-out") from error
        except httpx2.RequestError as error:
            raise TryAgain(f"{type(error).__name__}: {error}"[:200]) from error

    def _wait(self, state: RetryCallState) -> float:
        """Return how long to wait: what the server asked for, else twice as long each time, with some chance in it."""
        error = state.outcome.exception()
        grown = self.settings.backoff_seconds * 2 ** (state.attempt_number - 1) * random.uniform(0.5, 1.0)
        asked = error.wait if isinstance(error, TryAgain) else None
        return min(max(grown, asked or 0.0), LONGEST_WAIT)


def retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which gives seconds or a date; None for anything else."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
