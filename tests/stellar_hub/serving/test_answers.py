"""Answers in JSON, safetensors and PNG."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

pytest.importorskip("prometheus_client")  # of the extra `serve`

from stellar_hub.modeling import StellarEncoding
from stellar_hub.serving.answers import (
    JSON,
    PNG,
    SAFETENSORS,
    chosen_type,
    decoded_answer,
    embedded_answer,
    encoded_answer,
)
from stellar_hub.serving.refusals import Refusal
from stellar_hub.serving.service import Encoded


def encoded(name: str, grid: tuple[int, int] = (2, 3)) -> Encoded:
    torch.manual_seed(len(name))
    features = {"S": torch.randn(3, 4), "L": torch.rand(grid[0] * grid[1], 3), "pooled": torch.randn(4)}
    return Encoded(name, grid, features)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("text/html, application/octet-stream;q=0.9, */*", SAFETENSORS),
        ("Application/SafeTensors", SAFETENSORS),
        ("application/*", JSON),
    ],
)
def test_chosen_type__is_the_first_that_is_there(accept: str, kind: str) -> None:
    assert chosen_type(accept, (JSON, SAFETENSORS)) == kind


def test_chosen_type__refuses_others() -> None:
    with pytest.raises(Refusal) as caught:
        chosen_type("text/html\n", (JSON, PNG))
    assert caught.value.status == 406


def test_encoded_answer__is_a_file_of_an_encoding(tmp_path: Path) -> None:
    images = [encoded("a"), encoded("bc")]
    (tmp_path / "a.safetensors").write_bytes(encoded_answer(images, "tiny", SAFETENSORS).body)
    read = StellarEncoding.load(tmp_path / "a.safetensors")
    assert read.grid_size == (2, 3)
    torch.testing.assert_close(read.semantics[1], images[1].features["S"])
    assert load(encoded_answer(images, "tiny", SAFETENSORS).body)["pooled"].shape == (2, 4)


def test_encoded_answer__keeps_different_grids_apart() -> None:
    tensors = load(encoded_answer([encoded("a"), encoded("b", (4, 1))], "tiny", SAFETENSORS).body)
    assert tensors["0.localization"].shape == (6, 3)
    assert tensors["1.localization"].shape == (4, 3)


def test_encoded_answer__in_json_has_the_exact_floats() -> None:
    value = json.loads(encoded_answer([encoded("a")], "tiny", JSON).body)
    assert value["data"][0]["grid_size"] == [2, 3]
    torch.testing.assert_close(torch.tensor(value["data"][0]["S"]), encoded("a").features["S"], atol=0, rtol=0)


def test_embedded_answer__has_length_1_in_either_format() -> None:
    images = [encoded("a"), encoded("bc")]
    numbers = json.loads(embedded_answer(images, "tiny", False).body)
    texts = json.loads(embedded_answer(images, "tiny", True).body)
    vectors = np.array([item["embedding"] for item in numbers["data"]], dtype=np.float32)
    decoded = np.stack([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in texts["data"]])
    np.testing.assert_array_equal(vectors, decoded)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert numbers["usage"] == {"prompt_tokens": 12, "total_tokens": 12}


def test_decoded_answer__is_a_png_or_has_some() -> None:
    images = [torch.rand(3, 8, 16), torch.rand(3, 8, 8)]
    expected = (images[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(np.array(Image.open(io.BytesIO(decoded_answer(images[:1], "m", PNG).body))), expected)
    item = json.loads(decoded_answer(images, "m", JSON).body)["data"][0]
    assert np.array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(item["image"].split(",")[1])))), expected)
    assert load(decoded_answer(images, "m", SAFETENSORS).body)["1.images"].shape == (3, 8, 8)
    assert load(decoded_answer(images[:1], "m", SAFETENSORS).body)["images"].shape == (1, 3, 8, 16)
