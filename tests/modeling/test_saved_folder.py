"""Saving over what is there: what is loaded later is what was saved last, and a full disk leaves nothing behind."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ViTConfig, ViTImageProcessor

from stellar_hub.modeling import StellarConfig, StellarImageProcessor, StellarModel
from stellar_hub.modeling.saved_folder import filled_folder

FORMS: list[dict[str, Any]] = [{}, {"max_shard_size": "100KB"}, {"max_shard_size": "200KB"}]


@pytest.fixture
def other_model(pixel_model: StellarModel) -> StellarModel:
    """A model of the same sizes with other weights."""
    other = StellarModel(pixel_model.config)
    with torch.no_grad():
        other.encoder.sparse_tokens.fill_(3)
    return other


@pytest.mark.parametrize("first", FORMS)
@pytest.mark.parametrize("second", FORMS)
def test_save__over_any_form_is_what_loads(
    tmp_path: Path, pixel_model: StellarModel, other_model: StellarModel, first: dict[str, Any], second: dict[str, Any]
) -> None:
    pixel_model.save_pretrained(tmp_path, **first)
    other_model.save_pretrained(tmp_path, **second)
    assert torch.equal(StellarModel.from_pretrained(tmp_path).encoder.sparse_tokens, other_model.encoder.sparse_tokens)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "shard-00001-model-00001-of-00001.safetensors"])
def test_save__removes_weights_that_would_be_loaded_instead(
    tmp_path: Path, pixel_model: StellarModel, name: str
) -> None:
    (tmp_path / name).write_bytes(b"old")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model.fp16.safetensors").write_bytes(b"another variant")
    pixel_model.save_pretrained(tmp_path)
    assert not (tmp_path / name).exists()
    assert {"notes.txt", "model.fp16.safetensors", "model.safetensors"} <= set(os.listdir(tmp_path))


def test_save__refuses_a_folder_with_an_adapter(tmp_path: Path, pixel_model: StellarModel) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter"):
        pixel_model.save_pretrained(tmp_path)
    assert os.listdir(tmp_path) == ["adapter_config.json"]


class TestProcessor:
    def test_of_a_larger_model__is_replaced(self, tmp_path: Path, pixel_model: StellarModel) -> None:
        larger = StellarConfig(**{**pixel_model.config.to_dict(), "image_size": 64})
        StellarModel(larger).save_pretrained(tmp_path)
        pixel_model.save_pretrained(tmp_path)
        assert StellarImageProcessor.from_pretrained(tmp_path).crop_size["height"] == pixel_model.config.image_size

    def test_of_another_type_of_model__is_replaced(self, tmp_path: Path, pixel_model: StellarModel) -> None:
        ViTConfig().save_pretrained(tmp_path)
        ViTImageProcessor().save_pretrained(tmp_path)
        pixel_model.save_pretrained(tmp_path)
        content = json.loads((tmp_path / "preprocessor_config.json").read_text())
        assert content["image_processor_type"] == "StellarImageProcessor"

    @pytest.mark.parametrize("model_first", [False, True])
    def test_of_the_users_own__stays(self, tmp_path: Path, pixel_model: StellarModel, model_first: bool) -> None:
        processor = StellarImageProcessor.from_config(pixel_model.config, image_size=96)
        if model_first:
            pixel_model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        pixel_model.save_pretrained(tmp_path)
        assert StellarImageProcessor.from_pretrained(tmp_path).crop_size["height"] == 96


class TestFullDisk:
    @pytest.fixture(params=["safetensors", "config"])
    def full(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that is full for the weights, or for the configuration."""
        from safetensors import SafetensorError

        def refuse_weights(*args: object, **kwargs: object) -> None:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        def refuse_config(*args: object, **kwargs: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        if request.param == "safetensors":
            monkeypatch.setattr("transformers.modeling_utils.safe_save_file", refuse_weights)
        else:
            monkeypatch.setattr(StellarConfig, "save_pretrained", refuse_config)

    @pytest.mark.usefixtures("full")
    def test_new_folder__is_not_made(self, tmp_path: Path, pixel_model: StellarModel) -> None:
        with pytest.raises(OSError, match=r"No space left on device.*new") as caught:
            pixel_model.save_pretrained(tmp_path / "new")
        assert caught.value.filename == str(tmp_path / "new")
        assert os.listdir(tmp_path) == []

    @pytest.mark.usefixtures("full")
    def test_folder_of_before__stays(self, tmp_path: Path, pixel_folder: Path, other_model: StellarModel) -> None:
        for file in pixel_folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        with pytest.raises(OSError, match="No space left on device"):
            other_model.save_pretrained(tmp_path)
        assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == {
            f.name: f.read_bytes() for f in pixel_folder.iterdir()
        }


def test_filled_folder__a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a file")
    with pytest.raises(NotADirectoryError), filled_folder(tmp_path / "model"):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"licence": "mit"}, "'licence'; did you mean 'license'"),
        ({"foo": 1}, "'foo'; it takes license"),
        ({"metrics": 3}, "metrics must be a dictionary of numbers by name, .* got 3"),
        ({"metrics": {"psnr": "high"}}, "metrics must be a dictionary of numbers by name"),
    ],
)
def test_save__refuses_what_would_have_no_effect(
    tmp_path: Path, pixel_model: StellarModel, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        pixel_model.save_pretrained(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_save__takes_what_frameworks_pass(tmp_path: Path, pixel_model: StellarModel) -> None:
    options: dict[str, Any] = {"is_main_process": True, "save_function": torch.save, "safe_serialization": True}
    pixel_model.save_pretrained(tmp_path, state_dict=pixel_model.state_dict(), **options)
    assert (tmp_path / "model.safetensors").exists()


def test_save__over_a_file_is_refused(tmp_path: Path, pixel_model: StellarModel) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(NotADirectoryError, match="a is a file"):
        pixel_model.save_pretrained(tmp_path / "a")
