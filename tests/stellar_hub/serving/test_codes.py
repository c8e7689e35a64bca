"""Encodings out of bodies."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

pytest.importorskip("prometheus_client")  # of the extra `serve`

from stellar_hub.modeling import StellarEncoding
from stellar_hub.serving.bodies import Body
from stellar_hub.serving.codes import read_codes

S, L = torch.randn(2, 3, 4), torch.rand(2, 6, 3)
ITEM = {"S": S[0].tolist(), "L": L[0].tolist(), "grid_size": [2, 3]}


def body_of(value: Any) -> Body:
    return Body(json.dumps(value).encode(), "application/json", "")


def file_of(metadata: dict[str, str] | None = None, **tensors: torch.Tensor) -> Body:
    return Body(save({"semantics": S, "localization": L} | tensors, metadata), "application/safetensors", "")


def test_read_codes__takes_the_file_of_an_encoding(tmp_path: Path) -> None:
    StellarEncoding(S, L, (3, 2)).save(tmp_path / "a.safetensors")
    codes = read_codes(Body((tmp_path / "a.safetensors").read_bytes(), "", ""), 4)
    assert len(codes) == 2
    torch.testing.assert_close(codes[1].semantics, S[1:])
    assert codes[1].grid_size == (3, 2)


@pytest.mark.parametrize("value", [ITEM, {"data": [ITEM | {"index": 0, "name": "a", "pooled": [1.0]}], "model": "m"}])
def test_read_codes__takes_what_encode_answers(value: Any) -> None:
    (code,) = read_codes(body_of(value), 4)
    torch.testing.assert_close(code.localization, L[:1])
    assert code.grid_size == (2, 3)


@pytest.mark.parametrize(
    "body",
    [
        Body(b"", "", ""),
        Body(b"\xff" * 50, "application/safetensors", ""),
        Body(b"", "multipart/form-data", ""),
        file_of({"grid_size": "[2, 2]"}),
        file_of({"grid_size": "[" * 5000}),
        file_of(),  # 6 patches are no square
        file_of({"grid_size": "[2, 3]"}, semantics=torch.full((2, 3, 4), torch.inf)),
        file_of({"grid_size": "[2, 3]"}, semantics=torch.full((2, 3, 4), 1e300, dtype=torch.float64)),
        file_of({"grid_size": "[2, 3]"}, semantics=torch.ones(2, 3, 4, dtype=torch.int32)),
        file_of({"grid_size": "[2, 3]"}, localization=torch.rand(2, 6, 2)),
        file_of({"grid_size": "[2, 3]"}, semantics=torch.rand(0, 3, 4), localization=torch.rand(0, 6, 3)),
        body_of({}),
        body_of({"data": []}),
        body_of({"data": [3]}),
        body_of(ITEM | {"S": [[1, 2], [3]]}),
        body_of(ITEM | {"S": [["a"]]}),
        body_of(ITEM | {"S": [[10**400] * 4] * 3}),
        body_of(ITEM | {"S": [[float("nan")] * 4] * 3}),
        body_of(ITEM | {"S": [[None] * 4] * 3}),
        body_of(ITEM | {"S": 1.0}),
        body_of(ITEM | {"S": [[1.0] * 5] * 3}),
        body_of(ITEM | {"grid_size": [1, 6.0]}),
        body_of(ITEM | {"grid_size": [-2, -3]}),
        body_of(ITEM | {"grid_size": "2x3"}),
        body_of(ITEM | {"grid": [2, 3]}),
        body_of({"data": [ITEM], "x": 1}),
    ],
)
def test_read_codes__refuses_in_a_sentence_without_a_path(body: Body) -> None:
    with pytest.raises(ValueError, match=r"body|image|data|codes|key|JSON") as caught:
        read_codes(body, 4)
    assert "/tmp" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_read_codes__names_the_content_type_that_json_needs() -> None:
    with pytest.raises(ValueError, match="Content-Type"):
        read_codes(Body(json.dumps(ITEM).encode(), "application/x-www-form-urlencoded", ""), 4)


def test_read_codes__bounds_patches_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_REQUEST_PATCHES", "5")
    with pytest.raises(ValueError, match="STELLAR_HUB_MAX_REQUEST_PATCHES"):
        read_codes(body_of(ITEM), 4)
    monkeypatch.setenv("STELLAR_HUB_MAX_REQUEST_PATCHES", "6")
    monkeypatch.setenv("STELLAR_HUB_MAX_REQUEST_IMAGES", "1")
    with pytest.raises(ValueError, match="STELLAR_HUB_MAX_REQUEST_IMAGES"):
        read_codes(file_of({"grid_size": "[2, 3]"}), 4)
