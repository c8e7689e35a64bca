"""`stellar-hub encode`."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from stellar_hub.features.rows import file_name
from stellar_hub.modeling import StellarEncoding, StellarImageProcessor, StellarModel
from stellar_hub.modeling.outputs import open_safetensors

from .conftest import Command


def test_encode__writes_what_the_model_gives(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    result = command("encode", image_folder / "wide.png", "--output", tmp_path / "out", "--model", model_folder)
    assert result.exit_code == 0, result.output
    model = StellarModel.from_pretrained(model_folder)
    processor = StellarImageProcessor.from_pretrained(model_folder)
    with torch.inference_mode():
        expected = model.encode(processor(image_folder / "wide.png", return_tensors="pt")["pixel_values"])
    encoding = StellarEncoding.load(tmp_path / "out" / "wide.safetensors")
    torch.testing.assert_close(encoding.semantics, expected.semantics, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(encoding.localization, expected.localization, rtol=1e-5, atol=1e-6)


def test_encode__records_where_it_came_from(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    source = image_folder / "wide.png"
    command("encode", source, "-o", tmp_path / "out", "-m", model_folder, "--fit", "aspect")
    with safe_open(tmp_path / "out" / "wide.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["source"] == str(source)
    assert metadata["model"] == str(model_folder)
    assert json.loads(metadata["original_size"]) == [40, 60]
    assert json.loads(metadata["grid_size"]) == [4, 6]


def test_encode__takes_folders_recursively(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    result = command("encode", image_folder, "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 0, result.output
    assert files_below(tmp_path / "out") == ["below/tall.safetensors", "wide.safetensors"]


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_encode__goes_on_after_an_unreadable_image_and_exits_with_1(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    (image_folder / "broken.jpg").write_bytes((image_folder / "below" / "tall.jpg").read_bytes()[:100])
    result = command("encode", image_folder, "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 1
    assert f"error: {image_folder / 'broken.jpg'} cannot be read as an image" in result.stderr
    assert "1 of 3 failed" in result.stderr
    assert files_below(tmp_path / "out") == ["below/tall.safetensors", "wide.safetensors"]


def test_encode__does_not_replace_files_unless_told(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out" / "wide.safetensors"
    target.parent.mkdir()
    target.write_text("precious")
    arguments = ["encode", image_folder / "wide.png", "-o", target.parent, "-m", model_folder]
    refused = command(*arguments)
    assert refused.exit_code == 1
    assert "exists already: pass --overwrite" in refused.stderr
    assert target.read_text() == "precious"
    assert command(*arguments, "--overwrite").exit_code == 0
    assert StellarEncoding.load(target).semantics.shape[0] == 1


def test_encode__refuses_two_sources_for_one_output_before_any_work(
    command: Command, image_folder: Path, tmp_path: Path
) -> None:
    Image.open(image_folder / "wide.png").save(image_folder / "below" / "wide.png")
    sources = (image_folder / "wide.png", image_folder / "below" / "wide.png")
    result = command("encode", *sources, "-o", tmp_path / "out", "-m", "nope")
    assert result.exit_code == 1
    assert "would all be written to" in result.stderr
    assert not (tmp_path / "out").exists()


def test_encode__names_an_unknown_model(command: Command, image_folder: Path, tmp_path: Path) -> None:
    result = command("encode", image_folder, "-o", tmp_path / "out", "-m", "stellar-tiney")
    assert result.exit_code == 2
    assert "did you mean 'stellar-tiny'" in result.stderr


def test_encode__names_an_unavailable_device(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    image = image_folder / "wide.png"
    result = command("encode", image, "-o", tmp_path / "out", "-m", model_folder, "--device", "xpu:999")
    assert result.exit_code == 1
    assert "the device 'xpu:999' is not available" in result.stderr
    assert not (tmp_path / "out").exists()
    assert [line.split()[0] for line in result.stderr.splitlines()] == ["loading", "error:"]


def test_encode__refuses_a_folder_without_images(command: Command, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    result = command("encode", tmp_path / "none", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "no images in the folder" in result.stderr


def test_encode__refuses_a_file_as_output_folder(command: Command, image_folder: Path) -> None:
    result = command("encode", image_folder / "wide.png", "-o", image_folder / "notes.txt")
    assert result.exit_code == 1
    assert "is a file; name a folder" in result.stderr


def test_encode__shows_the_traceback_with_debug(command: Command, tmp_path: Path) -> None:
    result = command("encode", tmp_path / "no.jpg", "-o", tmp_path, "--debug")
    assert isinstance(result.exception, FileNotFoundError)


@pytest.mark.parametrize("name", ["encode", "reconstruct", "visualize"])
def test_commands__leave_nothing_half_written_when_the_disk_is_full(
    command: Command,
    model_folder: Path,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    result = command(name, image_folder / "wide.png", "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2  # loading, and one sentence
    assert f"No space left on device: {tmp_path / 'out' / 'wide'}." in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_encode__names_the_file_whose_values_are_out_of_range(
    command: Command, model_folder: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.full((40, 40), 200, dtype=np.float32)).save(tmp_path / "wide_range.tiff")
    result = command("encode", tmp_path / "wide_range.tiff", "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 1
    assert "wide_range.tiff must lie in [0, 1]" in result.stderr


def test_encode__refuses_a_image_too_long_for_fit_aspect(command: Command, model_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9000, 3)).save(tmp_path / "strip.png")
    result = command("encode", tmp_path / "strip.png", "-o", tmp_path / "out", "-m", model_folder, "--fit", "aspect")
    assert result.exit_code == 1
    assert "too long for fit='aspect'" in result.stderr


def test_encode__keeps_a_name_that_is_not_utf8(command: Command, model_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "caf\udce9.png"
    Image.new("RGB", (40, 40)).save(tmp_path / "plain.png")
    os.rename(tmp_path / "plain.png", source)
    result = command("encode", source, "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 0, result.output
    assert r"caf\xe9.safetensors" in result.stdout
    target = tmp_path / "out" / "caf\udce9.safetensors"
    assert StellarEncoding.load(target).semantics.shape[0] == 1
    with open_safetensors(target) as file:
        assert file_name(file.metadata()["source"]) == str(source)


def test_encode__of_another_size_has_another_grid(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    arguments = ["encode", image_folder / "wide.png", "-m", model_folder, "-o", tmp_path / "out", "--image-size"]
    assert command(*arguments, "16x48").exit_code == 0
    assert StellarEncoding.load(tmp_path / "out" / "wide.safetensors").grid_size == (2, 6)
    refused = command(*arguments, "17", "--overwrite")
    assert refused.exit_code == 2
    assert "such as 16 or 24" in refused.stderr


@pytest.mark.parametrize(("key", "value"), [("num_attention_heads", 5), ("hidden_size", "wide"), ("patch_size", 0)])
def test_encode__reports_a_wrong_configuration_in_one_line(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path, key: str, value: object
) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps(config | {key: value}))
    result = command("encode", image_folder / "wide.png", "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 1
    assert [line.split()[0] for line in result.stderr.splitlines()] == ["loading", "error:"]
    assert key in result.stderr
