"""The endpoints, without a network."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

pytest.importorskip("prometheus_client")  # of the extra `serve`

from stellar_hub.serving.endpoints import ENDPOINTS

from .conftest import Ask, Make, Request, image_file, message_of, slow_down

TENSORS = {"accept": "application/safetensors"}


def url_of(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def post(path: str, **more: Any) -> Request:
    return "POST", path, more


def test_encode__takes_forms_files_and_json_and_gives_the_same(ask: Ask, make_service: Make) -> None:
    service, data = make_service(), image_file()
    answers = ask(
        post("/encode", content=data, headers=TENSORS),
        post("/encode", files=[("images", ("a.png", data)), ("images", ("b.png", data))], headers=TENSORS),
        post("/encode", json={"images": [url_of(data)]}, headers=TENSORS),
        service=service,
    )
    assert [answer.status_code for answer in answers] == [200] * 3
    pixels = service.processor(data, return_tensors="pt")["pixel_values"]
    semantics, localization = service.model.encode(pixels)
    for answer in answers:
        assert answer.headers["content-type"] == "application/safetensors"
        found = load(answer.content)
        assert set(found) == {"semantics", "localization", "pooled", "cls"}
        torch.testing.assert_close(found["semantics"][-1:], semantics, atol=1e-6, rtol=0)
        torch.testing.assert_close(found["localization"][:1], localization, atol=1e-6, rtol=0)


def test_encode__gives_the_outputs_that_are_named(ask: Ask) -> None:
    answers = ask(
        post("/encode?outputs=cls", content=image_file()), post("/encode?outputs=S&outputs=L", content=image_file())
    )
    assert [set(answer.json()["data"][0]) - {"index", "name", "grid_size"} for answer in answers] == [
        {"cls"},
        {"S", "L"},
    ]


def test_embeddings__have_openais_shape(ask: Ask) -> None:
    url = url_of(image_file())
    answers = ask(
        post("/v1/embeddings", json={"input": [url, url_of(image_file(1))], "model": "tiny"}),
        post("/embeddings", json={"input": url, "encoding_format": "base64"}),
        ("GET", "/v1/models", {}),
    )
    first, second, models = (answer.json() for answer in answers)
    assert [item["index"] for item in first["data"]] == [0, 1]
    vector = np.frombuffer(base64.b64decode(second["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(first["data"][0]["embedding"], vector, atol=1e-6)
    assert models["data"][0]["id"] == first["model"] == "tiny"


def test_decode__takes_what_encode_answers(ask: Ask, make_service: Make) -> None:
    service, data = make_service(), image_file()
    as_json, as_file = ask(
        post("/encode", content=data), post("/encode", content=data, headers=TENSORS), service=service
    )
    png, other_png, tensors = ask(
        post("/decode", json=as_json.json()),
        post("/decode", content=as_file.content),
        post("/decode", content=as_file.content, headers=TENSORS),
        service=service,
    )
    assert png.headers["content-type"] == "image/png"
    assert png.content == other_png.content
    image = load(tensors.content)["images"][0]
    shown = np.array(Image.open(io.BytesIO(png.content)))
    assert np.array_equal(shown, (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def test_home__names_endpoints_that_exist(ask: Ask) -> None:
    (home,) = ask(("GET", "/", {}))
    assert home.json()["endpoints"] == ENDPOINTS
    answers = ask(*[(name.split()[0], name.split()[1], {}) for name in ENDPOINTS])
    assert not [answer for answer in answers if answer.status_code in (404, 405)]


def test_metrics__count(ask: Ask, make_service: Make) -> None:
    service = make_service()
    ask(post("/encode", files=[("a", ("a", image_file())), ("a", ("b", image_file()))]), service=service)
    (answer,) = ask(("GET", "/metrics", {}), service=service)
    assert 'stellar_hub_images_total{task="encode"} 2.0' in answer.text
    assert 'stellar_hub_batch_images_sum{task="encode"} 2.0' in answer.text
    assert 'stellar_hub_request_seconds_count{endpoint="/encode"} 1.0' in answer.text


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post("/encode", content=b"no image"), 400),
        (post("/encode", content=b""), 400),
        (post("/encode", content=image_file()[:200]), 400),
        (post("/encode?outputs=Z", content=image_file()), 400),
        (post("/encode?output=S", content=image_file()), 400),
        (post("/encode", content=image_file(), headers={"accept": "text/html"}), 406),
        (post("/encode", content=image_file(), headers={"content-encoding": "gzip"}), 415),
        (post("/encode", json={"images": ["https://example.org/a.png"]}), 400),
        (post("/embeddings", json={"input": "x", "model": "tiny"}), 400),
        (post("/embeddings", json={"input": url_of(image_file()), "model": "gpt\n"}), 404),
        (post("/embeddings", content=b"x"), 400),
        (post("/decode", json={"S": [[1]], "L": [[1]]}), 400),
        (post("/decode?a", content=b"x"), 400),
        (("GET", "/encode", {}), 405),
        (("GET", "/../etc/passwd", {}), 404),
        (("POST", "/encode/", {}), 404),
    ],
)
def test_wrong_request__is_a_sentence(ask: Ask, request_: Request, status: int) -> None:
    (answer,) = ask(request_)
    assert answer.status_code == status
    assert message_of(answer)


def test_timeout__is_503(ask: Ask, make_service: Make) -> None:
    service = make_service(timeout=0.3)
    slow_down(service, 0.6)
    (answer,) = ask(post("/encode", content=image_file()), service=service)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_mistake_of_ours__is_500_without_details(ask: Ask, make_service: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    service = make_service()

    async def fail(*args: Any) -> None:
        raise KeyError("/home/secret")

    monkeypatch.setattr(service, "encode", fail)
    (answer,) = ask(post("/encode", content=image_file()), service=service)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert json.loads(answer.text)["error"]["type"] == "server_error"
