"""Images out of bodies."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("prometheus_client")  # of the extra `serve`

from stellar_hub.serving.bodies import Body
from stellar_hub.serving.images import read_embedding_request, read_images


def body_of(value: Any) -> Body:
    return Body(json.dumps(value).encode(), "application/json", "application/json")


@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_read_images__takes_data_urls_and_base64(data: bytes, as_url: bool) -> None:
    text = base64.b64encode(data).decode()
    wrapped = "\n".join(text[start : start + 7] for start in range(0, len(text), 7))
    images = read_images(body_of({"images": [f"data:image/png;base64,{text}" if as_url else wrapped]}))
    assert [(image.name, image.data) for image in images] == [("the image", data)]


def test_read_images__names_each_of_several() -> None:
    images = read_images(body_of({"images": ["YQ==", {"image": "Yg=="}]}))
    assert [(image.name, image.data) for image in images] == [("image 1 of 2", b"a"), ("image 2 of 2", b"b")]


def test_read_images__takes_any_other_body_as_one_file() -> None:
    assert read_images(Body(b"abc", "application/x-www-form-urlencoded", ""))[0].data == b"abc"


@pytest.mark.parametrize(
    "address", ["https://me:secret@host/a.jpg?key=1", "file:///etc/passwd", "FTP://x", "s3://a/b", "file:/etc/passwd"]
)
def test_read_images__downloads_and_opens_nothing(address: str) -> None:
    with pytest.raises(ValueError, match="not downloaded") as caught:
        read_images(body_of({"images": [address]}))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"images": []},
        {"images": None},
        {"images": [1]},
        {"images": [{"url": "YQ=="}]},
        {"images": "/etc/passwd"},
        {"images": "data:image/png,abc"},
        {"images": "data:image/png;base64"},
        {"images": "\ud800"},
        {"image": "YQ=="},
        {"images": ["YQ=="] * 65},
    ],
)
def test_read_images__refuses_in_a_sentence(value: Any) -> None:
    with pytest.raises(ValueError, match="image"):
        read_images(body_of(value))


def test_read_embedding_request__has_openais_shape() -> None:
    wanted = read_embedding_request(
        body_of({"input": ["YQ==", "Yg=="], "model": "m", "encoding_format": "base64", "user": "u", "dimensions": None})
    )
    assert (len(wanted.images), wanted.model, wanted.base64) == (2, "m", True)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"dimensions": 8}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"model": 3}, "model"),
        ({"model": "m" * 1001}, "at most 1,000 characters"),
        ({"input": [1, 2, 3]}, "image 1 of 3"),
        ({"prompt": "x"}, "prompt"),
    ],
)
def test_read_embedding_request__refuses_what_has_no_effect(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        read_embedding_request(body_of({"input": "YQ=="} | changed))


def test_text__is_told_from_base64() -> None:
    with pytest.raises(ValueError, match="not texts"):
        read_embedding_request(body_of({"model": "m", "input": "a photo of a cat"}))
