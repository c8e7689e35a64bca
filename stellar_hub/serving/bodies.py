"""The bodies of requests: read as far as the limits allow, and parsed as JSON, as a form or as they are."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from stellar_hub.extras import require
from stellar_hub.modeling.limits import check_limit, max_allowed
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.serving.refusals import Refusal

BODIES_AT_ONCE = 4  # of the largest size that all requests together may hold in memory
MAX_NAME = 80  # characters
MAX_FIELDS = 16  # of a form, beside its files
MAX_FIELD = 2**10  # bytes

_forms: Any = require("starlette.formparsers", "serve", "the server").formparsers
_headers: Any = require("starlette.datastructures", "serve", "the server").datastructures.Headers
require("python_multipart", "serve", "the server")


@dataclass(frozen=True)
class Body:
    """The body of a request.

    Attributes:
        data: Its bytes.
        kind: Its media type in lower case, without parameters; "" if the request names none.
        content_type: The whole header.
    """

    data: bytes
    kind: str
    content_type: str

    @property
    def is_json(self) -> bool:
        """Whether it calls itself JSON."""
        return self.kind == "application/json" or self.kind.endswith("+json")

    @property
    def is_form(self) -> bool:
        """Whether it calls itself a form with files."""
        return self.kind == "multipart/form-data"


class Bodies:
    """Reads bodies, and bounds the memory of all of them together."""

    def __init__(self) -> None:
        self.num_bytes = 0

    @asynccontextmanager
    async def read(self, request: Any, seconds: float) -> AsyncIterator[Body]:
        """Reads the body of a request; its bytes count until the block ends.

        Args:
            request: Starlette's request.
            seconds: Time that the client has to send it.

        Raises:
            Refusal: if it is too large, compressed or slow, or other bodies take all memory.
        """
        kind = request.headers.get("content-type", "")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(415, "a body must not be compressed: send it without Content-Encoding")
        _check_size(_declared(request.headers))
        taken, data = 0, bytearray()
        try:
            try:
                async with asyncio.timeout(seconds):
                    async for chunk in request.stream():
                        _check_size(taken + len(chunk))
                        self._take(len(chunk))
                        taken += len(chunk)
                        data += chunk
            except TimeoutError:
                raise Refusal(408, f"the body did not arrive within {seconds:g} seconds: send it again") from None
            yield Body(bytes(data), kind.partition(";")[0].strip().lower(), kind)
        finally:
            self.num_bytes -= taken

    def _take(self, size: int) -> None:
        if self.num_bytes + size > BODIES_AT_ONCE * max_allowed("request_bytes"):
            raise Refusal(429, "the server holds as many bodies as it has memory for: try again later")
        self.num_bytes += size


def _declared(headers: Mapping[str, str]) -> int:
    text = headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _check_size(size: int) -> None:
    try:
        check_limit("request_bytes", size, "the body")
    except ValueError as error:
        raise Refusal(413, error) from None


def parse_json(body: Body, max_parts: int) -> dict[str, Any]:
    """Returns the object in a body.

    Args:
        body: The body.
        max_parts: Largest number of commas, lists and objects: a short text can hold millions of them, each of which
            takes a hundred times the memory when it is parsed.

    Raises:
        ValueError: if it is no object, or has more parts.
    """
    parts = sum(body.data.count(mark) for mark in (b",", b"[", b"{"))
    if parts > max_parts:
        raise ValueError(
            f"the JSON has {parts:,} parts, at most {max_parts:,} are read: send fewer images, or safetensors"
        )
    try:
        value = json.loads(body.data.decode("utf-8"))
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"the body is no JSON: {one_line(error, 200)}") from None
    if not isinstance(value, dict):
        raise ValueError(f"the JSON must be an object, got {type(value).__name__}")
    return value


def check_keys(value: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raises ValueError for a key that would have no effect."""
    unknown = [key for key in value if key not in known]
    if unknown:
        raise ValueError(f"{one_line(repr(unknown[0]), 60)} is no key of this request: it takes {', '.join(known)}")


def parse_form(body: Body) -> list[tuple[str, bytes]]:
    """Returns the names and the bytes of the files in a form. It runs outside of the event loop.

    Raises:
        ValueError: if it is damaged, has a field that is no file, or has too many files.
    """

    async def parts() -> AsyncIterator[bytes]:
        yield body.data

    parser = _forms.MultiPartParser(
        _headers({"content-type": body.content_type}),
        parts(),
        max_files=max_allowed("request_images"),
        max_fields=MAX_FIELDS,
        max_part_size=MAX_FIELD,
    )
    parser.spool_max_size = len(body.data) + 1  # never to the disk
    try:
        items = asyncio.run(parser.parse()).multi_items()
    except _forms.MultiPartException as error:
        raise ValueError(f"the form cannot be read: {one_line(error.message, 200)}") from None
    for name, value in items:
        if isinstance(value, str):
            raise ValueError(
                f"the field {one_line(repr(name), 60)} is no file: send images as files, and options in the address"
            )
    return [(one_line(value.filename or name, MAX_NAME), value.file.read()) for name, value in items]
