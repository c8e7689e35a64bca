"""From the body of a request to images: files of a form, one file as it is, or data URLs and base64 in JSON."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.serving.bodies import Body, check_keys, parse_form, parse_json

MAX_PARTS = 10_000  # of the JSON around images; base64 has no commas
MAX_MODEL = 1000  # characters of the name of a model

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:/|file:")


@dataclass(frozen=True)
class ImageFile:
    """An image as somebody sent it.

    Attributes:
        name: Its name in errors and answers, on one line.
        data: The bytes of its file.
    """

    name: str
    data: bytes


@dataclass(frozen=True)
class EmbeddingRequest:
    """A request for embeddings, as OpenAI's API has it.

    Attributes:
        images: The images.
        model: Name of the model that it asks for; None takes the one that is there.
        base64: Whether the vectors are wanted as base64 of little-endian float32.
    """

    images: list[ImageFile]
    model: str | None
    base64: bool


def read_images(body: Body) -> list[ImageFile]:
    """Returns the images of a request to encode.

    Raises:
        ValueError: if the body cannot be read, or has no images or too many.
    """
    if body.is_form:
        files = [ImageFile(name, data) for name, data in parse_form(body)]
        _check_count(len(files))
        return files
    if body.is_json:
        value = parse_json(body, MAX_PARTS)
        check_keys(value, ("images",))
        return _from_texts(value.get("images"), "images")
    return [ImageFile("the image", body.data)]  # its content decides about its format, whatever it is called


def read_embedding_request(body: Body) -> EmbeddingRequest:
    """Returns a request for embeddings.

    Raises:
        ValueError: if the body is not such a request; remote addresses are refused.
    """
    if not body.is_json:
        raise ValueError("embeddings are asked for in JSON: set Content-Type to application/json")
    value = parse_json(body, MAX_PARTS)
    check_keys(value, ("input", "model", "encoding_format", "dimensions", "user"))
    if value.get("dimensions") is not None:
        raise ValueError("dimensions is not supported: this model's vectors have one length, so leave it out")
    form = value.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise ValueError(f"encoding_format must be 'float' or 'base64', got {one_line(repr(form), 60)}")
    model = value.get("model")
    if model is not None and not isinstance(model, str):
        raise ValueError(f"model must be a text, got {type(model).__name__}")
    if model is not None and len(model) > MAX_MODEL:  # an error repeats it
        raise ValueError(f"model must have at most {MAX_MODEL:,} characters, got {len(model):,}: GET /v1/models has it")
    return EmbeddingRequest(_from_texts(value.get("input"), "input"), model, form == "base64")


def _from_texts(value: Any, key: str) -> list[ImageFile]:
    """Returns the images in a value of JSON: one text, or a list of them."""
    texts = value if isinstance(value, list) else [value]
    if value is None or not texts:
        raise ValueError(f"{key} must be an image or a list of images, as data URLs or base64")
    _check_count(len(texts))
    return [ImageFile(name, _decoded(text, name)) for text, name in zip(texts, names_of(texts), strict=True)]


def names_of(items: Sequence[Any]) -> list[str]:
    """Returns a name for each of some images: "the image" if there is one, else "image 1 of 3"."""
    if len(items) == 1:
        return ["the image"]
    return [f"image {number} of {len(items)}" for number in range(1, len(items) + 1)]


def _decoded(text: Any, name: str) -> bytes:
    """Returns the bytes of an image out of a data URL or base64; nothing is ever downloaded or opened."""
    if isinstance(text, dict) and len(text) == 1:  # as other servers of image embeddings have it
        text = text.get("image")
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a data URL or base64, got {type(text).__name__}")
    start = text[:200].lstrip()
    if start[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.rstrip().lower().endswith(";base64"):
            raise ValueError(f"{name} is a data URL that is not base64: write data:image/jpeg;base64,...")
    elif _ADDRESS.match(start):
        address = one_line(mask_secrets(start), 100)
        raise ValueError(
            f"{name}: {address} is an address, and images are not downloaded: send the image itself, as a data URL"
        )
    try:
        if " " in text.strip():  # base64 has line breaks at most, and the words of a sentence may look like it together
            raise ValueError("a text")
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(
            f"{name} is neither a data URL nor base64 of an image file: the model takes images, not texts"
        ) from None


def _check_count(count: int) -> None:
    if count == 0:
        raise ValueError("the request has no images: send at least one file")
    check_limit("request_images", count, "the request")
