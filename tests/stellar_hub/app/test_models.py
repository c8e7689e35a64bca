"""The models of the page."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stellar_hub.app import models as module
from stellar_hub.app.models import Models, fitted
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.modeling.image_loading import read_encoded

CAT = "examples/images/cat.jpg"


def test_load__refuses_what_is_not_on_the_list(models: Models) -> None:
    with pytest.raises(ValueError, match="no model of this page"):
        models.load("/etc")


def test_names__are_needed_and_unique() -> None:
    assert Models(["a", "b", "a"]).names == ("a", "b")
    with pytest.raises(ValueError, match="at least one"):
        Models([])


def test_load__keeps_a_few_and_drops_the_one_used_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    monkeypatch.setattr(module, "_loaded", lambda name, device: loads.append(name))
    shelf = Models(["a", "b", "c"])
    for name in ("a", "b", "a", "c", "a", "b"):
        shelf.load(name)
    assert loads == ["a", "b", "c", "b"]


def test_encode_and_decode__are_those_of_the_model(
    models: Models, model_folder: str, shared_pixel_model: StellarModel
) -> None:
    expected = StellarImageProcessor.from_pretrained(model_folder)(CAT, return_tensors="pt")["pixel_values"]
    pixels = fitted(models.load(model_folder).processor, read_encoded(CAT)[0], "cat")
    torch.testing.assert_close(pixels, expected[0], rtol=0, atol=0)
    with torch.inference_mode():
        encoding = shared_pixel_model.encode(expected)
        image = shared_pixel_model.decode(encoding)
    ours = models.encode(model_folder, pixels)
    torch.testing.assert_close(ours.localization, encoding.localization, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(models.decode(model_folder, ours), image[0], rtol=1e-5, atol=1e-5)


def test_decode__is_none_without_a_decoder(
    monkeypatch: pytest.MonkeyPatch, build_model: Callable[..., StellarModel], tmp_path: Any
) -> None:
    network = build_model(use_decoder=False)
    network.save_pretrained(tmp_path / "m")
    StellarImageProcessor.from_config(network.config).save_pretrained(tmp_path / "m")
    shelf = Models([str(tmp_path / "m")], "cpu")
    side = network.config.image_size
    assert shelf.decode(str(tmp_path / "m"), shelf.encode(str(tmp_path / "m"), torch.rand(3, side, side))) is None


def test_on_gpu__wraps_what_computes_and_gets_tensors_alone(model_folder: str) -> None:
    seen: list[tuple[str, list[type]]] = []

    def record(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            seen.append((function.__name__, [type(value) for value in values]))
            return function(*values)

        return call

    shelf = Models([model_folder], "cpu", record)
    side = shelf.load(model_folder).model.config.image_size
    encoding = shelf.encode(model_folder, torch.rand(3, side, side))
    shelf.decode(model_folder, encoding)
    assert seen == [("_encode_here", [str, torch.Tensor]), ("_decode_here", [str, type(encoding)])]
