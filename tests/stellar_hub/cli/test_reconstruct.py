"""`stellar-hub reconstruct`."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from stellar_hub.modeling import StellarImageProcessor, StellarModel

from .conftest import Command


def test_reconstruct__writes_a_image_and_says_its_psnr(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    result = command("reconstruct", image_folder / "wide.png", "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 0, result.output
    assert "PSNR" in result.stdout
    with Image.open(tmp_path / "out" / "wide.png") as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")


def test_reconstruct__of_an_encoding_equals_that_of_its_image(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    options = ["-m", model_folder, "--fit", "aspect"]  # not square: the grid is read from the file
    command("encode", image_folder / "wide.png", "-o", tmp_path / "codes", *options)
    assert command("reconstruct", image_folder / "wide.png", "-o", tmp_path / "direct", *options).exit_code == 0
    assert command("reconstruct", tmp_path / "codes", "-o", tmp_path / "decoded", *options).exit_code == 0
    direct, decoded = (np.asarray(Image.open(tmp_path / name / "wide.png")) for name in ("direct", "decoded"))
    assert direct.shape == (32, 48, 3)
    np.testing.assert_allclose(direct, decoded, atol=1)


def test_num_tokens__of_codes_or_of_the_image_decode_alike(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    image, few = image_folder / "wide.png", ["-m", model_folder, "--num-tokens", "2"]
    command("encode", image, "-o", tmp_path / "codes", *few)
    command("encode", image, "-o", tmp_path / "whole", "-m", model_folder)
    sources = {"direct": image, "few": tmp_path / "codes", "cut": tmp_path / "whole"}
    for name, source in sources.items():
        assert command("reconstruct", source, "-o", tmp_path / name, *few).exit_code == 0
    direct, *others = (np.asarray(Image.open(tmp_path / name / "wide.png")) for name in sources)
    for other in others:
        np.testing.assert_allclose(direct, other, atol=1)
    again = command("reconstruct", image, "-o", tmp_path / "direct", "-m", model_folder)
    assert again.exit_code != 0  # it was made with another number of tokens
    assert "--num-tokens" in again.stderr


def test_num_tokens__of_codes_warn_that_tokens_have_no_order(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["-m", model_folder]
    command("encode", image_folder, "-o", tmp_path / "codes", *options)
    command("reconstruct", tmp_path / "codes", "-o", tmp_path / "all", *options, "--num-tokens", 4)
    assert "nested_dropout" not in caplog.text
    command("reconstruct", tmp_path / "codes", image_folder, "-o", tmp_path / "few", *options, "--num-tokens", 2)
    assert caplog.text.count("not trained with nested_dropout") == 1


def test_fit__changes_nothing_for_codes(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    options = ["-m", model_folder, "-o", tmp_path / "out"]
    command("encode", image_folder / "wide.png", "-o", tmp_path / "codes", "-m", model_folder)
    other = tmp_path / "other.png"
    shutil.copy(image_folder / "wide.png", other)
    assert command("reconstruct", tmp_path / "codes", other, *options).exit_code == 0
    again = command("reconstruct", tmp_path / "codes", *options, "--fit", "pad")
    assert again.exit_code == 0, again.output
    assert "--fit pad applies to images" in again.stderr
    assert "had been reconstructed before" in again.stderr
    both = command("reconstruct", tmp_path / "codes", other, *options, "--fit", "pad")
    assert both.exit_code == 1
    assert f"{tmp_path / 'out' / 'other.png'} exists already, but it was made with another --fit" in both.stderr


def test_num_tokens__above_the_models_are_refused(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    result = command("encode", image_folder, "-o", tmp_path / "out", "-m", model_folder, "--num-tokens", "99")
    assert result.exit_code == 2
    assert "--num-tokens must be at most 4" in result.stderr


def test_reconstruct__names_a_damaged_encoding(command: Command, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"not safetensors at all")
    result = command("reconstruct", tmp_path / "bad.safetensors", "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 1
    assert "bad.safetensors cannot be read as safetensors" in result.stderr


def test_reconstruct__with_a_features_only_model_says_what_is_missing(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    model = StellarModel.from_pretrained(model_folder, decoder=False)
    model.save_pretrained(tmp_path / "features")
    StellarImageProcessor.from_config(model.config).save_pretrained(tmp_path / "features")
    result = command("reconstruct", image_folder, "-o", tmp_path / "out", "-m", tmp_path / "features")
    assert result.exit_code == 1
    assert "load it with decoder=False" in result.stderr


def test_reconstruct__refuses_codes_of_another_model(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    command("encode", image_folder / "wide.png", "-o", tmp_path / "codes", "-m", model_folder)
    model_folder.rename(tmp_path / "other")
    result = command("reconstruct", tmp_path / "codes", "-o", tmp_path / "out", "-m", tmp_path / "other")
    assert result.exit_code == 1
    assert f"was encoded by {model_folder}, not by {tmp_path / 'other'}" in result.stderr


def test_reconstruct__refuses_a_file_of_several_images(
    command: Command, pixel_model: StellarModel, images: Tensor, model_folder: Path, tmp_path: Path
) -> None:
    pixel_model.encode(images).save(tmp_path / "two.safetensors")
    result = command("reconstruct", tmp_path / "two.safetensors", "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 1
    assert "two.safetensors holds 2 images" in result.stderr


def test_reconstruct__goes_on_after_a_damaged_encoding(
    command: Command, pixel_model: StellarModel, images: Tensor, model_folder: Path, tmp_path: Path
) -> None:
    codes = tmp_path / "codes"
    codes.mkdir()
    encoding = pixel_model.encode(images).select(0)
    encoding.save(codes / "c.safetensors")
    save_file(
        {"semantics": encoding.semantics.detach() * torch.nan, "localization": encoding.localization.detach()},
        codes / "a.safetensors",
    )
    save_file(
        dict(encoding._asdict())
        | {
            "semantics": encoding.semantics.detach()[:, :, :8].clone(),
            "localization": encoding.localization.detach().clone(),
        },
        codes / "b.safetensors",
    )
    result = command("reconstruct", codes, "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["c.png"]
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert ["a.safetensors" in errors[0], "b.safetensors" in errors[1], len(errors)] == [True, True, 2]
    assert "2 of 3 failed" in result.stderr


def test_reconstruct__reads_a_code_whose_name_is_not_utf8(
    command: Command, pixel_model: StellarModel, images: Tensor, model_folder: Path, tmp_path: Path
) -> None:
    pixel_model.encode(images).select(0).save(tmp_path / "caf\udce9.safetensors")
    result = command("reconstruct", tmp_path / "caf\udce9.safetensors", "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "caf\udce9.png").is_file()


def test_reconstruct__shows_no_control_characters_of_a_code(
    command: Command, pixel_model: StellarModel, images: Tensor, model_folder: Path, tmp_path: Path
) -> None:
    pixel_model.encode(images).select(0).save(tmp_path / "a.safetensors", metadata={"model": "evil\x1b[2Jmodel"})
    result = command("reconstruct", tmp_path / "a.safetensors", "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 1
    assert r"evil\x1b[2Jmodel" in result.stderr


def test_reconstruct__says_that_codes_have_their_own_size(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    command("encode", image_folder / "wide.png", "-o", tmp_path / "codes", "-m", model_folder)
    options = ["-o", tmp_path / "out", "-m", model_folder, "--image-size", 64]
    refused = command("reconstruct", tmp_path / "codes", *options)
    assert refused.exit_code == 2
    assert "--image-size 64 does not apply to codes" in refused.stderr
    assert not (tmp_path / "out").exists()
    mixed = command("reconstruct", tmp_path / "codes", image_folder / "below", *options)
    assert mixed.exit_code == 0, mixed.output
    assert "note: --image-size 64 applies to images; codes" in mixed.stderr
    sizes = [Image.open(path).size for path in sorted((tmp_path / "out").rglob("*.png"))]
    assert sizes == [(64, 64), (32, 32)]
