"""Limits of a server, and refusals of what exceeds them."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from vixml.errors import VixmlError

MOST_LABELS, MOST_VOTERS, RANKED = 100, 10, 1000  # per item; added labels are looked for among the first RANKED
CALM = "wait as long as Retry-After says, and send the request again"


@dataclass(frozen=True)
class Limits:
    """Limits of a server; what exceeds them is refused and costs nobody else anything."""

    body: int = 16 << 20  # bytes of a request's body
    items: int = 64  # of a request
    images: int = 64  # likewise
    labels: int = 20  # that a request adds
    text: int = 1 << 15  # characters of an item's text
    seconds: float = 30.0  # of a request, from its first line to the last byte of the answer
    queue: int = 512  # items and images of all requests that wait or are being tagged
    connections: int = 1000  # open at once
    idle: float = 10.0  # seconds that a connection may take to send the head of a request
    image_seconds: float = 5.0  # processor time to decode one image

    def __post_init__(self) -> None:
        if self.queue < self.items + self.images:
            raise VixmlError(
                "the queue is shorter than one request may be",
                where="--queue",
                found=self.queue,
                expected=f"{self.items + self.images} or more: {self.items} items and {self.images} images",
                hint="raise --queue or lower --max-items",
            )

    @property
    def buffered(self) -> int:
        """Return the bytes of all bodies in memory."""
        return 16 * self.body

    @property
    def open_connections(self) -> int:
        """Return how many connections this process can keep open: files need descriptors, too."""
        return max(16, min(self.connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))


class Refusal(HTTPException):
    """A request that is not answered: its status, and an error in the form that OpenAI's API has.

    ``code`` is for programs; ``param`` the part of the request; ``wait``: seconds after which it may succeed.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None, wait: int | None = None) -> None:
        headers = {} if wait is None else {"Retry-After": str(wait)}
        headers |= {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        super().__init__(status, message, headers)
        self.code, self.param = code, param

    def answer(self) -> JSONResponse:
        """Return the response."""
        body = error_body(self.status_code, self.code, self.detail, self.param)
        return JSONResponse(body, self.status_code, self.headers)

    @classmethod
    def of(cls, error: VixmlError, param: str | None = None) -> Refusal:
        """Return an error of the library as a refusal of the request that caused it."""
        parts = {"found": error.found, "expected": error.expected}
        message = "; ".join([error.what, *(f"{name} {value}" for name, value in parts.items() if value)])
        return cls(422, "invalid_item", message[:1000], param)


def error_body(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Return the body of an error."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
