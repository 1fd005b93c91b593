"""Get files from untrusted servers: time, size and redirects are limited, and only public addresses are contacted."""

from __future__ import annotations

import asyncio
import email.utils
import errno
import ipaddress
import random
import re
import select
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpcore2
import httpx2

from vixml.config.registry import Fetch
from vixml.errors import VixmlError

# Accepted content types; some servers send "octet-stream" for images, or XML for drawings, and decoding decides.
IMAGE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream", "application/xml", "text/xml")
# Temporary failures: the server is busy, or the transfer failed.
RETRIED = {408, 425, 429, 500, 502, 503, 504}
REDIRECTS = {301, 302, 303, 307, 308}
# Longest wait, in seconds, before an address is asked again; one that asks for more is left for the end of the shard.
MAX_WAIT = 120.0
# Bytes of an answer that is not wanted that are read to keep its connection.
UNWANTED = 1 << 16
# A server's fault never looks like these: this machine lacks files, memory or buffers.
LOCAL = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class Refused(Exception):
    """Refusal of a URL that gives no file; the message has one of a few beginnings. The rest is as in :class:`Answer`."""

    def __init__(
        self, reason: str, status: int | None = None, may_pass: bool = False, wait: float | None = None
    ) -> None:
        super().__init__(reason)
        self.status, self.may_pass, self.wait = status, may_pass, wait


@dataclass(frozen=True)
class Answer:
    """The outcome of asking for a URL once: the file or the error, and the last HTTP status.

    ``attempts`` is 0 if the URL is no address of the web; ``may_pass``: the failure is temporary, and the server asks to
    ``wait`` so many seconds.
    """

    data: bytes | None
    status: int | None
    attempts: int
    error: str | None
    may_pass: bool = False
    wait: float | None = None


def web_address(url: str, base: httpx2.URL | None = None) -> httpx2.URL:
    """Return a URL, perhaps relative to the address ``base`` that redirects there, as one that can be asked for.

    Raises:
        Refused: not http or https, no host, a port outside 1 to 65535, or a name that cannot exist.
    """
    try:
        address = httpx2.URL(url) if base is None else base.join(url)
        host = address.raw_host.decode("ascii")
    except (httpx2.InvalidURL, ValueError, TypeError) as error:  # idna raises UnicodeError
        raise Refused(f"not a web address: {error}"[:200]) from error
    if address.scheme not in ("http", "https") or not host:
        raise Refused("not a web address: it needs http:// or https:// and a host")
    if address.port is not None and not 0 < address.port < 65536:
        raise Refused(f"not a web address: port {address.port}")
    if any(not 0 < len(part) < 64 for part in host.removesuffix(".").split(".")) and ":" not in host:
        raise Refused(f"not a web address: host {host}"[:200])
    return address


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
    """

    def __init__(self, allow_private: bool) -> None:
        self._inner, self._allow_private = httpcore2.AnyIOBackend(), allow_private

    async def connect_tcp(self, host: str, port: int, *others: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        """Connect."""
        addresses = [host] if self._allow_private else await _public_addresses(host, port)
        for address in addresses[:-1]:
            with suppress(httpcore2.ConnectError):  # for example of an IPv6 address where there is no IPv6
                return Stream(await self._inner.connect_tcp(address, port, *others, **options))
        return Stream(await self._inner.connect_tcp(addresses[-1], port, *others, **options))


async def _public_addresses(host: str, port: int) -> list[str]:
    """Look up a name and return its public addresses, at most three; refuse a name that has none."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError(f"no address for {host}") from error
    addresses = list(dict.fromkeys(entry[4][0] for entry in found))
    public = [address for address in addresses if is_public(address)]
    if not public:
        raise Refused(f"an address that is not public: {addresses[0]}")
    return public[:3]


# Of IPv6, only global unicast, without what leads into IPv4 (Teredo, 6to4) and without documentation: everything else, such as
# mapped, NAT64, site-local or multicast addresses, is outside the first network.
_IPV6 = ipaddress.ip_network("2000::/3")
_NOT_IPV6 = [ipaddress.ip_network(one) for one in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
# Of IPv4: protocol assignments, of which older versions of Python call some global, AMT and the relays of 6to4.
_NOT_IPV4 = [ipaddress.ip_network(one) for one in ("192.0.0.0/24", "192.52.193.0/24", "192.88.99.0/24")]


def is_public(address: str) -> bool:
    """Return whether an IP address is globally routable unicast.

    Example:
        >>> is_public("8.8.8.8"), is_public("224.0.0.1"), is_public("2002:7f00:1::"), is_public("2606:4700::1111")
        (True, False, False, True)
    """
    found = ipaddress.ip_address(address.split("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        return found in _IPV6 and not any(found in network for network in _NOT_IPV6)
    special = found.is_multicast or found.is_reserved or any(found in network for network in _NOT_IPV4)
    return found.is_global and not special


class Getter:
    """Get files, one request each and no cookies. Use it as an asynchronous context."""

    def __init__(self, settings: Fetch) -> None:
        self.settings = settings
        # Waiting for a free connection does not count towards the time-outs.
        self._connections = asyncio.Semaphore(settings.concurrency)

    async def __aenter__(self) -> Getter:
        chosen = self.settings
        # A slow name server must not delay the look-ups of other names.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(chosen.concurrency, "names"))
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(trust_env=False),
            max_connections=chosen.concurrency,
            max_keepalive_connections=chosen.concurrency,
            network_backend=Backend(chosen.allow_private),
        )
        await self._pool.__aenter__()
        self._extensions = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), chosen.timeout_seconds)}
        # No content coding: a small answer could expand to any size.
        self._headers = {"accept": "image/*", "accept-encoding": "identity", "user-agent": chosen.user_agent}
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self._pool.__aexit__(*details)

    async def get(self, url: str) -> Answer:
        """Ask for ``url`` once and return the outcome; what a server does never raises.

        Raises:
            VixmlError: this machine has no files, memory or buffers left, which is no fault of the address.
        """
        attempts = 0
        try:
            address = web_address(url)
            async with self._connections:
                attempts = 1
                # A slow server may never exceed the time-out of a read, so the whole request has a limit too.
                async with asyncio.timeout(4 * self.settings.timeout_seconds):
                    for _ in range(self.settings.redirects + 1):
                        found = await self._once(address)
                        if isinstance(found, bytes):
                            return Answer(found, 200, attempts, None)
                        address = found
                    raise Refused("too many redirects")
        except Refused as error:
            return Answer(None, error.status, attempts, str(error), error.may_pass, error.wait)
        except (TimeoutError, httpcore2.TimeoutException):
            return Answer(None, None, attempts, "time-out", True)
        except Exception as error:
            # Temporary, because if it befalls half of a shard, the fault is not the server's, and the stage stops.
            _require_resources(error)
            return Answer(None, None, attempts, f"{type(error).__name__}: {error}"[:200], True)

    async def _once(self, address: httpx2.URL) -> bytes | httpx2.URL:
        """Return the file, or the address to ask instead."""
        chosen = self.settings
        target = httpcore2.URL(
            scheme=address.raw_scheme, host=address.raw_host, port=address.port, target=address.raw_path
        )
        async with self._pool.stream("GET", target, headers=self._headers, extensions=self._extensions) as answer:
            status = answer.status
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
            if status in REDIRECTS and "location" in headers:
                await _drain(answer)
                try:
                    return web_address(headers["location"], address)
                except Refused as error:
                    raise Refused(f"a redirect to something that is {error}", status) from error
            if status != 200:
                await _drain(answer)
                wait = retry_after(headers.get("retry-after")) if status in RETRIED else None
                long = wait is not None and wait > MAX_WAIT
                reason = f"HTTP {status}" + f": asks to wait longer than {MAX_WAIT:.0f} s" * long
                raise Refused(reason, status, status in RETRIED, wait)
            kind = headers.get("content-type", IMAGE_TYPES[0]).lower()
            if not kind.startswith(IMAGE_TYPES):
                raise Refused(f"not an image: {kind[:60]}", status)
            if headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
                raise Refused("a content coding that was not asked for", status)
            body = bytearray()
            async for part in answer.aiter_stream():
                body += part
                if len(body) > chosen.max_bytes:
                    raise Refused(f"larger than {chosen.max_bytes} bytes", status)
            return bytes(body)


async def _drain(answer: httpcore2.Response) -> None:
    """Read a short body, so that the connection can be used again."""
    n = 0
    async for part in answer.aiter_stream():
        n += len(part)
        if n > UNWANTED:
            return


def _require_resources(error: BaseException | None) -> None:
    """Raise if an error was caused by this machine (:data:`LOCAL`)."""
    if isinstance(error, MemoryError):
        raise error
    while error is not None:
        if isinstance(error, OSError) and error.errno in LOCAL:
            raise VixmlError(
                "this machine cannot open more connections",
                where="fetch-images",
                found=error.strerror,
                hint="raise the limit (`ulimit -n 4096`) or lower fetch.concurrency, and run the same command again: "
                "what was fetched is kept",
            )
        error = error.__cause__ or error.__context__


def retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which gives seconds or a date; None for anything else."""
    if value is None:
        return None
    if re.fullmatch(r"\s*[0-9]+\s*", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, LookupError, OverflowError, OSError):
        return None


# -- the order of requests --------------------------------------------------------------------------------------------


@dataclass
class Host:
    """The addresses of one host that wait, and how many of them may be asked for at once.

    ``limit`` is halved when it asks for fewer or does not answer, one more when it answers.
    """

    limit: int
    open: int = 0
    waiting: deque[int] = field(default_factory=deque)
    offered: bool = False


class Schedule:
    """Decide which image is asked for next, host by host in turn, so that a slow or busy host delays only itself."""

    def __init__(self, images: Iterable[int], urls: list[str], settings: Fetch) -> None:
        self._settings = settings
        self._hosts: dict[str, Host] = {}
        self._host_of: dict[int, Host] = {}
        self._tried: dict[int, int] = {}
        # One entry is the permission to ask one host once; None ends a worker.
        self._free: asyncio.Queue[Host | None] = asyncio.Queue()
        for image in images:
            host = self._hosts.setdefault(host_of(urls[image]), Host(settings.per_host))
            host.waiting.append(image)
            self._host_of[image] = host
        for host in self._hosts.values():
            self._offer(host)
        self._end_if_done()

    async def next(self) -> int | None:
        """Return an image to ask for now, as soon as a host is free; None at the end."""
        host = await self._free.get()
        if host is None:
            self._free.put_nowait(None)  # for the other workers
            return None
        host.offered = False
        host.open += 1
        image = host.waiting.popleft()
        self._tried[image] = self._tried.get(image, 0) + 1
        self._offer(host)
        return image

    def answered(self, image: int, answer: Answer) -> int | None:
        """Record an answer; return the requests made if it settles the image, or None if it is asked for again later."""
        host, tried = self._host_of[image], self._tried[image]
        host.open -= 1
        busy = answer.may_pass and answer.status in (None, 429)  # it wants fewer requests, or does not answer at all
        host.limit = max(1, host.limit // 2) if busy else min(self._settings.per_host, host.limit + 1)
        grown = self._settings.backoff_seconds * 2 ** (tried - 1) * random.uniform(0.5, 1.0)
        wait = max(grown, answer.wait or 0.0)
        again = answer.may_pass and tried < self._settings.attempts and (answer.wait or 0.0) <= MAX_WAIT
        if again:
            asyncio.get_running_loop().call_later(min(wait, MAX_WAIT), self._return, image)
        else:
            del self._host_of[image]
        self._offer(host)
        self._end_if_done()
        return None if again else tried * answer.attempts

    def _return(self, image: int) -> None:
        host = self._host_of[image]
        host.waiting.append(image)
        self._offer(host)

    def _offer(self, host: Host) -> None:
        if host.waiting and host.open < host.limit and not host.offered:
            host.offered = True
            self._free.put_nowait(host)

    def _end_if_done(self) -> None:
        if not self._host_of:
            self._free.put_nowait(None)


def host_of(url: str) -> str:
    """Return the host and port of an address, or an empty text for something else."""
    with suppress(ValueError):
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    return ""
