"""From a request's body to items that the model reads. Nothing untrusted is decoded in the server's process."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from vixml.errors import VixmlError
from vixml.images.http import Getter
from vixml.images.workers import Workers
from vixml.serving.limits import Limits, Refusal
from vixml.serving.metrics import Metrics
from vixml.serving.schemas import Item, Schema, TagForm, TagRequest
from vixml.tagging.tagger import TEXT, Read, Tagger

FORM = "multipart/form-data"
# Of a form's texts. Among Python's other codecs are some that fail in their own ways, or take the square of a text's length.
CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1")
MOST_VALUES = 1 << 18  # commas of a body: a value takes up to 50 times its bytes in memory
Body = TypeVar("Body", bound=Schema)
_DATA_URL = re.compile(r"data:image/[\w.+-]{1,40};base64,")


# -- bodies -----------------------------------------------------------------------------------------------------------


def content_type(request: Request) -> str:
    """Return the type of a request's body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Request, kind: type[Body]) -> Body:
    """Return a JSON body.

    Raises:
        Refusal: another type, no JSON, or other keys and values than ``kind`` has.
    """
    found = content_type(request)
    if found != "application/json":
        message = (
            f"the body is {found or 'of no type'}; expected application/json (-H 'content-type: application/json')"
        )
        raise Refusal(415, "unsupported_media_type", message)
    body = await request.body()
    if body.count(b",") > MOST_VALUES:
        raise Refusal(413, "body_too_large", f"more than {MOST_VALUES} values")
    try:
        # Its depth is limited, lists end at their limits, and an object of many keys is one error.
        return kind.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> Refusal:
    """Return the faults of a body, the first five of them."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)[:5]
    if faults[0]["type"] == "json_invalid":
        return Refusal(400, "invalid_json", faults[0]["msg"][:300])

    def place(fault: Any) -> str:
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"])
        return "".join(parts).lstrip(".")[:100]

    found = "; ".join(f"{place(fault)}: {fault['msg']}" for fault in faults)
    return Refusal(422, "invalid_request", found[:1000], place(faults[0]))


async def read_form(request: Request, limits: Limits) -> tuple[TagRequest, list[bytes]]:
    """Return a form as a request for one item, and the files of its images.

    Raises:
        Refusal: no form, one in another encoding, unknown fields, or values that do not fit.
    """
    charset = parse_options_header(request.headers.get("content-type", ""))[1].get(b"charset", CHARSETS[0])
    if charset.lower() not in CHARSETS:
        message = f"the charset of the form is {charset[:40].decode('latin-1')!r}; expected utf-8, or none"
        raise Refusal(415, "unsupported_charset", message)
    try:
        form = await request.form(max_files=limits.images, max_fields=limits.labels + 8, max_part_size=4 * limits.text)
    except Refusal:
        raise
    except HTTPException as error:  # of the parser
        raise Refusal(400, "invalid_form", str(error.detail)[:300]) from None
    try:
        return _of_form(form), [await file.read() for file in form.getlist("images") if isinstance(file, UploadFile)]
    finally:
        await form.close()


def _of_form(fields: FormData) -> TagRequest:
    given: dict[str, Any] = {}
    for name, value in fields.multi_items():
        if (name == "images") != isinstance(value, UploadFile):
            raise Refusal(422, "invalid_request", "images are files, all other fields texts", name[:100])
        if name == "labels":
            given.setdefault(name, []).append(value)
        elif name != "images":
            if name in given:
                raise Refusal(422, "invalid_request", "the field is there twice; a form is one item", name[:100])
            given[name] = value
    try:
        form = TagForm.model_validate(given)
    except ValidationError as error:
        raise _refusal(error) from None
    return TagRequest(items=[Item(text=form.text)], **form.model_dump(exclude={"text", "images"}))


# -- items ------------------------------------------------------------------------------------------------------------


class Intake:
    """Turn items into what the encoder reads: texts cleaned, images decoded elsewhere and prepared.

    ``workers`` is None for a model that reads text only, ``getter`` where no address may be fetched.
    """

    def __init__(
        self, tagger: Tagger, workers: Workers | None, getter: Getter | None, limits: Limits, metrics: Metrics
    ) -> None:
        self._tagger, self._workers, self._getter = tagger, workers, getter
        self._limits, self._metrics = limits, metrics
        self._most = tagger.folder.run.images.per_item if tagger.reads_images else 0

    def check(self, items: Sequence[Item], files: Sequence[bytes] = ()) -> int:
        """Check the numbers of a request; return its places in the queue.

        Raises:
            Refusal: too many items or images, or a text that is too long.
        """
        limits, images = self._limits, sum(len(item.images) for item in items) + len(files)
        if len(items) > limits.items:
            message = f"{len(items)} items; at most {limits.items} per request"
            raise Refusal(413, "too_many_items", message, "items")
        if images > limits.images:
            raise Refusal(413, "too_many_images", f"{images} images; at most {limits.images} per request", "items")
        for number, item in enumerate(items):
            length = len(item.text) + sum(map(len, filter(None, (item.fields or {}).values())))
            if length > limits.text:
                message = f"{length} characters; at most {limits.text}"
                raise Refusal(413, "text_too_long", message, f"items[{number}].text")
        read = sum(min(len(item.images), self._most) for item in items) + min(len(files), self._most)
        return len(items) + read

    async def read(self, items: Sequence[Item], files: Sequence[bytes] = ()) -> tuple[list[Read], list[list[str]]]:
        """Return items as the encoder reads them, and notes about each.

        Raises:
            Refusal: an image that cannot be read, an address that may not be fetched, an item without text and image.
        """
        wanted = [
            (f"items[{number}].images[{place}]", image)
            for number, item in enumerate(items)
            for place, image in enumerate([*(files if number == 0 else ()), *item.images][: self._most])
        ]
        pixels = iter(await self._images(wanted))
        reads, notes = [], []
        for number, item in enumerate(items):
            await asyncio.sleep(0)  # others are answered between two items
            given = len(item.images) + (len(files) if number == 0 else 0)
            own = [next(pixels) for _ in range(min(given, self._most))]
            where = f"items[{number}]"
            try:
                reads.append(self._tagger.read(self._texts(item, where), where, pixels=own))
            except VixmlError as error:
                raise Refusal.of(error, where) from None
            note = f"{len(own)} of {given} images were looked at: the model reads {self._most}"
            notes.append([note] if given > len(own) else [])
        return reads, notes

    def _texts(self, item: Item, where: str) -> dict[str, Any]:
        if item.fields is None:
            return {TEXT: item.text}
        known = self._tagger.folder.dataset.text_fields
        if item.text or not item.fields or item.fields.keys() - set(known):
            found = ", ".join(item.fields)[:200] + " and text" * bool(item.text)
            message = (
                f"the fields of an item are not the model's: {found or 'none'}; expected {', '.join(known)}, or text"
            )
            raise Refusal(422, "invalid_item", message, f"{where}.fields")
        return dict(item.fields)

    async def _images(self, wanted: Sequence[tuple[str, str | bytes]]) -> list[np.ndarray]:
        """Return the pixels of images; where one fails, the others are not waited for."""
        tasks = [asyncio.create_task(self._image(where, image)) for where, image in wanted]
        try:
            return await asyncio.gather(*tasks)
        except Refusal:
            self._metrics.images["refused"] += 1
            raise
        finally:
            for task in tasks:
                task.cancel()

    async def _image(self, where: str, image: str | bytes) -> np.ndarray:
        data = image if isinstance(image, bytes) else await self._bytes(where, image)
        assert self._workers is not None
        loop = asyncio.get_running_loop()
        try:
            pixels = await loop.run_in_executor(self._workers.threads, self._decode, data)
        except VixmlError as error:  # a process was killed from outside
            message = f"the image could not be decoded now: {error.what}"
            raise Refusal(503, "image_failed", message, where, wait=1) from error
        if isinstance(pixels, str):
            raise Refusal(422, "invalid_image", pixels[:300], where)
        self._metrics.images["decoded"] += 1
        return pixels

    def _decode(self, data: bytes) -> np.ndarray | str:
        """Return pixels, or why there are none; in a thread that waits for a process."""
        png, reason = self._workers.attempt(data)
        return reason if png is None else self._tagger.pixels(png)

    async def _bytes(self, where: str, image: str) -> bytes:
        """Return the file that a text stands for: a web address, a data URL or base64."""
        if "://" in image[:16]:
            if self._getter is None:
                message = (
                    "web addresses are not fetched here (the server's option is --allow-urls); send the file as base64"
                )
                raise Refusal(422, "urls_not_allowed", message, where)
            answer = await self._getter.get(image)
            if answer.data is None:
                # Not which address a name leads to: that would tell about the server's own network.
                reason = (answer.error or "").partition(":")[0][:100]
                raise Refusal(422, "image_not_fetched", f"the image could not be fetched: {reason}", where)
            return answer.data
        if found := _DATA_URL.match(image):
            image = image[found.end() :]
        try:
            return base64.b64decode("".join(image.split()), validate=True)
        except (binascii.Error, ValueError):
            message = "an image is neither base64, nor a data URL (data:image/...;base64,), nor a web address"
            raise Refusal(422, "invalid_image", message, where) from None
