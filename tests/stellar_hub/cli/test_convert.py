"""`stellar-hub convert`."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stellar_hub.conversion import load_original
from stellar_hub.modeling import StellarImageProcessor, StellarModel

from .conftest import Command

HEADS = ["--num-attention-heads", "3", "--decoder-num-attention-heads", "4"]


def test_convert__gives_a_folder_that_loads_with_equal_outputs(
    command: Command, golden_dir: Path, tmp_path: Path, images: Tensor
) -> None:
    checkpoint, vqgan, output = golden_dir / "original-vq.safetensors", golden_dir / "vqgan.bin", tmp_path / "converted"
    result = command("convert", checkpoint, "--vqgan", vqgan, "-o", output, *HEADS)
    assert result.exit_code == 0, result.output
    original = load_original(checkpoint, vqgan=vqgan, num_attention_heads=3, decoder_num_attention_heads=4)
    converted = StellarModel.from_pretrained(output)
    with torch.inference_mode():
        torch.testing.assert_close(converted.encode(images), original.encode(images), rtol=0, atol=0)
        torch.testing.assert_close(
            converted.decode(*converted.encode(images)), original.decode(*original.encode(images)), rtol=0, atol=0
        )
    assert StellarImageProcessor.from_pretrained(output).crop_size["height"] == 32
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]
    assert "# converted\n" in (output / "README.md").read_text()
    assert not any(b".part" in path.read_bytes() for path in output.glob("*.md"))


def test_convert__without_the_tokenizer_says_that_it_cannot_decode(
    command: Command, golden_dir: Path, tmp_path: Path
) -> None:
    result = command("convert", golden_dir / "original-vq.safetensors", "-o", tmp_path / "out", *HEADS)
    assert result.exit_code == 0, result.output
    assert "Without --vqgan the model encodes but cannot decode" in result.stdout


def test_convert__names_the_argument_that_is_missing(command: Command, golden_dir: Path, tmp_path: Path) -> None:
    result = command("convert", golden_dir / "original-pixel.safetensors", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "pass --num-attention-heads" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_convert__refuses_an_output_that_exists(command: Command, golden_dir: Path, tmp_path: Path) -> None:
    result = command("convert", golden_dir / "original-pixel.safetensors", "-o", tmp_path, *HEADS)
    assert result.exit_code == 1
    assert "exists already" in result.stderr


def test_convert__leaves_nothing_behind_when_saving_fails(
    command: Command, golden_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: StellarImageProcessor, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StellarImageProcessor, "save_pretrained", full)
    result = command("convert", golden_dir / "original-pixel.safetensors", "-o", tmp_path / "out", *HEADS)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert list(tmp_path.iterdir()) == []
