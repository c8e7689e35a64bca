"""`stellar-hub edit`."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stellar_hub.cli import edit as edit_module
from stellar_hub.editing import drop_tokens, move_token, token_at, transplant_token
from stellar_hub.modeling import StellarEncoding, StellarImageProcessor, StellarModel

from .conftest import Command

OUTPUTS = ["wide-before-after.png", "wide.png", "wide.safetensors"]


@pytest.fixture
def photo(image_folder: Path) -> Path:
    return image_folder / "wide.png"


@pytest.fixture
def donor(image_folder: Path) -> Path:
    return image_folder / "below" / "tall.jpg"


def encode(model: StellarModel, path: Path) -> StellarEncoding:
    processor = StellarImageProcessor.from_config(model.config)
    with torch.inference_mode():
        return model.encode(processor(path, return_tensors="pt")["pixel_values"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_edit__writes_the_code_its_image_and_a_page(
    command: Command, pixel_model: StellarModel, model_folder: Path, photo: Path, tmp_path: Path
) -> None:
    result = command("edit", photo, "--drop", "1", "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "out") == OUTPUTS
    expected = drop_tokens(encode(pixel_model, photo), 1)
    code = StellarEncoding.load(tmp_path / "out" / "wide.safetensors")
    torch.testing.assert_close(code.localization, expected.localization)
    with torch.inference_mode():
        decoded = (pixel_model.decode(expected)[0] * 255).round().permute(1, 2, 0).numpy()
    with Image.open(tmp_path / "out" / "wide.png") as image:
        np.testing.assert_allclose(np.asarray(image), decoded, atol=1)
    with Image.open(tmp_path / "out" / "wide-before-after.png") as page:
        assert page.width > 1300


def test_edits__are_applied_in_the_order_in_which_they_are_written(
    command: Command, pixel_model: StellarModel, model_folder: Path, photo: Path, tmp_path: Path
) -> None:
    before = encode(pixel_model, photo)
    for name, words in {
        "a": ["--move", "0:8,-4", "--drop", "1", "--move", "2:-8,0"],
        "b": ["--drop", "1", "--move", "2:-8,0", "--move", "0:8,-4"],
    }.items():
        assert command("edit", photo, *words, "-o", tmp_path / name, "-m", model_folder).exit_code == 0
    first, second = (StellarEncoding.load(tmp_path / name / "wide.safetensors").localization for name in "ab")
    expected = move_token(drop_tokens(move_token(before, 0, -0.5, 1), 1), 2, 0, -1).localization
    torch.testing.assert_close(first, expected)
    assert not torch.allclose(first, second)


def test_token_moved_out_of_the_image__is_told(
    command: Command, model_folder: Path, photo: Path, tmp_path: Path
) -> None:
    result = command("edit", photo, "--move", "1:4000,0", "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 0, result.output
    assert "note: token 1 without any weight after --move 1:4000,0" in result.stderr


def test_from__puts_the_center_of_a_token_at_a_pixel(
    command: Command, pixel_model: StellarModel, model_folder: Path, photo: Path, donor: Path, tmp_path: Path
) -> None:
    words = ["--from", f"{donor}:@3,4@19.5,11.5"]
    result = command("edit", photo, *words, "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 0, result.output
    source = encode(pixel_model, donor)
    token = int(token_at(source, 0, 0))
    expected = transplant_token(encode(pixel_model, photo), source, token, (1, 2))
    code = StellarEncoding.load(tmp_path / "out" / "wide.safetensors")
    for found, wanted in zip(code, expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert f"token 4 is token {token} of tall.jpg" in result.stdout


def test_every_edit__works_on_codes_and_its_code_is_edited_and_decoded_again(
    command: Command, model_folder: Path, photo: Path, donor: Path, tmp_path: Path
) -> None:
    command("encode", photo, donor, "-o", tmp_path / "codes", "-m", model_folder)
    code, other = tmp_path / "codes" / "wide.safetensors", tmp_path / "codes" / "tall.safetensors"
    words = ["--keep", "0,1,2", "--swap", "0:1", "--move", "2:8,8", "--scale", "2:1.5", "--mirror", "1:vertical"]
    words += ["--paint", "2:0,0,12,20,0.5", "--from", f"{other}:1", "--replace", f"0:{other}:2@9,9"]
    words += ["--blend", f"{other}:0.25", "--interpolate", str(other)]
    result = command("edit", code, *words, "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 0, result.output
    edited = tmp_path / "out" / "wide.safetensors"
    assert StellarEncoding.load(edited).semantics.shape[1] == 9
    assert command("edit", edited, "--drop", "8", "-o", tmp_path / "more", "-m", model_folder).exit_code == 0
    assert command("reconstruct", edited, "-o", tmp_path / "decoded", "-m", model_folder).exit_code == 0
    images = [np.asarray(Image.open(tmp_path / name / "wide.png")) for name in ("out", "decoded")]
    np.testing.assert_allclose(*images, atol=1)


def test_outputs__record_the_edits(command: Command, model_folder: Path, photo: Path, tmp_path: Path) -> None:
    command("edit", photo, "--drop", "1", "--scale", "2:2", "-o", tmp_path / "out", "-m", model_folder)
    with Image.open(tmp_path / "out" / "wide.png") as image:
        record = json.loads(image.info["stellar_hub"])
    assert json.loads(record["edits"]) == ["--drop 1", "--scale 2:2"]
    assert record["command"] == "edit"


def test_existing_outputs__are_replaced_only_if_told(
    command: Command, model_folder: Path, photo: Path, tmp_path: Path
) -> None:
    options = ["-o", tmp_path / "out", "-m", model_folder]
    assert command("edit", photo, "--drop", "1", *options).exit_code == 0
    before = (tmp_path / "out" / "wide.safetensors").read_bytes()
    again = command("edit", photo, "--drop", "2", *options)
    assert again.exit_code == 1
    assert "exist already: pass --overwrite" in again.stderr
    assert (tmp_path / "out" / "wide.safetensors").read_bytes() == before
    assert command("edit", photo, "--drop", "2", *options, "--overwrite").exit_code == 0
    assert (tmp_path / "out" / "wide.safetensors").read_bytes() != before


def test_output__never_replaces_what_is_read(command: Command, model_folder: Path, photo: Path, tmp_path: Path) -> None:
    command("encode", photo, "-o", tmp_path / "codes", "-m", model_folder)
    code = tmp_path / "codes" / "wide.safetensors"
    words = ["--from", f"{code}:1", "-o", code.parent, "-m", model_folder, "--overwrite"]
    for image in (photo, code):
        result = command("edit", image, *words)
        assert result.exit_code == 1
        assert "would replace" in result.stderr
    assert names(code.parent) == ["wide.safetensors"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no edit was given"),
        (["--drop", "4"], "--drop 4: there are the tokens 0 to 3, got 4"),
        (["--drop", "0,1,2,3"], "--drop 0,1,2,3: all tokens that have any weight would be dropped"),
        (["--drop", "x"], "--drop must be written TOKEN"),
        (["--move", "@32,0:1,1"], "--move @32,0:1,1: the model sees 32 x 32 pixels, x from 0 to 31"),
        (["--scale", "1:1000"], "--scale 1:1000: factor must be from 0.01 to 100"),
        (["--paint", "1:8,0,4,4"], "--paint 1:8,0,4,4: LEFT must be less than RIGHT"),
        (["--paint", "1:0,0,4,4,2"], "strength must be from 0 to 1"),
        (["--from", "DONOR:9"], ":9: there are the tokens 0 to 3, got 9"),
        (["--from", "DONOR:1@5,99"], "y from 0 to 31, got @5,99"),
        (["--blend", "DONOR:1.5"], "weight must be from 0 to 1"),
    ],
)
def test_wrong_usage__is_one_line_and_writes_nothing(
    command: Command,
    model_folder: Path,
    photo: Path,
    donor: Path,
    tmp_path: Path,
    words: list[str],
    message: str,
) -> None:
    words = [word.replace("DONOR", str(donor)) for word in words]
    result = command("edit", photo, *words, "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert names(tmp_path / "out") == []


def test_files_that_do_not_fit__are_named(
    command: Command,
    build_model: Callable[..., StellarModel],
    images: Tensor,
    model_folder: Path,
    photo: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "damaged.jpg").write_bytes(photo.read_bytes()[:200])
    wide = build_model(reconstruction_head="pixel", hidden_size=96).encode(images[:1])
    wide.save(tmp_path / "width.safetensors")
    wide.save(tmp_path / "model.safetensors", metadata={"model": "stellar-b16"})
    for name, message in {
        "damaged.jpg": "damaged.jpg",
        "width.safetensors": "width.safetensors has tokens of width 96, and",
        "model.safetensors": "was encoded by stellar-b16, not by",
        "missing.jpg": "no such file or folder",
        "model": "model is not a file",
    }.items():
        for words in ([tmp_path / name, "--drop", "1"], [photo, "--from", f"{tmp_path / name}:1"]):
            result = command("edit", *words, "-o", tmp_path / "out", "-m", model_folder)
            assert result.exit_code == 1, result.output
            assert message in result.stderr
            assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert names(tmp_path / "out") == []


def test_model_without_a_decoder__says_what_is_missing(
    command: Command, model_folder: Path, photo: Path, tmp_path: Path
) -> None:
    model = StellarModel.from_pretrained(model_folder, decoder=False)
    model.save_pretrained(tmp_path / "features")
    StellarImageProcessor.from_config(model.config).save_pretrained(tmp_path / "features")
    result = command("edit", photo, "--drop", "1", "-o", tmp_path / "out", "-m", tmp_path / "features")
    assert result.exit_code == 1
    assert "decoder" in result.stderr
    assert not (tmp_path / "out").exists()


def test_vq_head__says_that_codes_are_an_argmax(
    command: Command, vq_model: StellarModel, photo: Path, tmp_path: Path
) -> None:
    vq_model.save_pretrained(tmp_path / "vq")
    StellarImageProcessor.from_config(vq_model.config).save_pretrained(tmp_path / "vq")
    result = command("edit", photo, "--move", "1:8,0", "-o", tmp_path / "out", "-m", tmp_path / "vq")
    assert result.exit_code == 0, result.output
    assert "argmax" in result.stderr


def test_full_disk__leaves_none_of_the_files(
    command: Command, model_folder: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(edit_module, "_write_png", refuse)
    result = command("edit", photo, "--drop", "1", "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert names(tmp_path / "out") == []


def test_several_sizes__follow_fit_and_image_size(
    command: Command, model_folder: Path, photo: Path, donor: Path, tmp_path: Path
) -> None:
    words = ["--from", f"{donor}:0", "--fit", "aspect", "--image-size", "64"]
    result = command("edit", photo, *words, "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out" / "wide.png") as image:
        assert image.size == (96, 64)
    words[:2] = ["--blend", str(donor)]
    refused = command("edit", photo, *words, "-o", tmp_path / "blend", "-m", model_folder)
    assert refused.exit_code == 2
    assert "96 x 64 pixels of the image and 64 x 96 of the other: pass --fit crop" in refused.stderr
