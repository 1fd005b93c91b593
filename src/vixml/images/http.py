"""Get files from untrusted servers: time, size and redirects are limited, and only public addresses are contacted."""

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

# Accepted content types; some servers send "octet-stream" for images, and decoding decides.
IMAGE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
# Temporary failures: the server is busy, or the transfer failed.
RETRIED = {408, 425, 429, 500, 502, 503, 504}
MAX_WAIT = 120.0


class Refused(Exception):
    """A permanent failure of a URL; the message has one of a few beginnings."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class TryAgain(Refused):
    """A temporary failure; ``wait`` is the delay in seconds that the server asked for, or None."""

    def __init__(self, reason: str, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(reason, status)
        self.wait = wait


@dataclass(frozen=True)
class Answer:
    """The outcome of a URL.

    Attributes:
        data: the file, or None.
        status: the last HTTP status, or None without an answer.
        attempts: requests made.
        error: why there is no file, or None.
        may_pass: whether the failure is temporary.
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
    """The library's stream with a fast check whether the other side closed the connection.

    The library checks every idle connection before each request, and its check, which looks up addresses, took most of the
    time of a fetcher with 64 connections (benchmarks/fetch.py).
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
        """Return the information; an idle connection that is readable was closed by the other side."""
        return bool(self._poll.poll(0)) if info == "is_readable" else self._inner.get_extra_info(info)


class Backend(httpcore2.AsyncNetworkBackend):
    """Open connections as the library does, to public addresses only.

    The address that is checked is the one connected to, so neither a redirect nor a name that changes its address leads into
    the local network.

    Args:
        allow_private: whether other addresses are allowed too.
    """

    def __init__(self, allow_private: bool) -> None:
        self._inner, self._allow_private = httpcore2.AnyIOBackend(), allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect."""
        address = host if self._allow_private else await _public_address(host, port)
        return Stream(await self._inner.connect_tcp(address, port, timeout, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._inner.sleep(seconds)


async def _public_address(host: str, port: int) -> str:
    """Look up a name and return its address; refuse one that is not public."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)
    except OSError as error:
        raise httpcore2.ConnectError(f"no address for {host}") from error
    address = found[0][4][0]
    if not ipaddress.ip_address(address.split("%")[0]).is_global:
        raise Refused(f"an address that is not public: {address}")
    return address


class Transport(httpx2.AsyncHTTPTransport):
    """The library's transport with our backend. A test fails if the library no longer uses it."""

    def __init__(self, connections: int, allow_private: bool) -> None:
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        super().__init__(trust_env=False, limits=limits)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(trust_env=False),
            max_connections=connections,
            max_keepalive_connections=connections,
            network_backend=Backend(allow_private),
        )


class Getter:
    """Get files, with retries. Use it as an asynchronous context.

    Args:
        settings: limits.
    """

    def __init__(self, settings: Fetch) -> None:
        self.settings = settings
        self._hosts: dict[str, asyncio.Semaphore] = {}
        # Waiting for a free connection does not count towards the time-outs.
        self._connections = asyncio.Semaphore(settings.concurrency)

    async def __aenter__(self) -> Getter:
        chosen = self.settings
        self._client = httpx2.AsyncClient(
            transport=Transport(chosen.concurrency, chosen.allow_private),
            timeout=chosen.timeout_seconds,
            follow_redirects=True,
            max_redirects=chosen.redirects,
            # No content coding: a small answer could expand to any size.
            headers={"accept-encoding": "identity", "accept": "image/*", "user-agent": chosen.user_agent},
        )
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self._client.__aexit__(*details)

    async def get(self, url: str) -> Answer:
        """Return the outcome of ``url``; network failures do not raise."""
        attempts = 0
        try:
            parsed = httpx2.URL(url)
            if parsed.scheme not in ("http", "https") or not parsed.host:
                raise Refused("not a web address (http or https)")
            # Limits the requests to one host at a time.
            host = self._hosts.setdefault(parsed.host, asyncio.Semaphore(self.settings.per_host))
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(self.settings.attempts),
                retry=retry_if_exception_type(TryAgain),
                wait=self._wait,
                reraise=True,
            ):
                with attempt:
                    attempts += 1
                    async with host, self._connections:
                        data = await self._once(parsed)
            return Answer(data, 200, attempts, None)
        except Refused as error:
            return Answer(None, error.status, attempts, str(error), isinstance(error, TryAgain))
        except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
            return Answer(None, None, attempts, f"not a web address: {error}"[:200])

    async def _once(self, url: httpx2.URL) -> bytes:
        chosen = self.settings
        try:
            # A slow server may never exceed the time-out of a read, so the whole request has a limit too.
            async with asyncio.timeout(4 * chosen.timeout_seconds), self._client.stream("GET", url) as answer:
                status = answer.status_code
                if status in RETRIED:
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
        """Return the delay in seconds: as the server asked, otherwise doubled each time, with random jitter."""
        error = state.outcome.exception()
        grown = self.settings.backoff_seconds * 2 ** (state.attempt_number - 1) * random.uniform(0.5, 1.0)
        asked = error.wait if isinstance(error, TryAgain) else None
        return min(max(grown, asked or 0.0), MAX_WAIT)


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
