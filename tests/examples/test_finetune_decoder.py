"""Training the decoder alone: what changes, what stays, and a run that was stopped."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from stellar_hub.modeling import StellarImageProcessor, StellarModel

SCRIPT = Path(__file__).parents[2] / "examples" / "finetune_decoder.py"


@pytest.fixture
def script() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("finetune_decoder", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model_folder(tmp_path: Path, pixel_model: StellarModel) -> Path:
    """A model to train."""
    pixel_model.save_pretrained(tmp_path / "before")
    return tmp_path / "before"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images of noise, one of them larger than the crops need."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for name, side in (("a.png", 40), ("b.png", 90)):
        noise = torch.randint(256, (side, side + 10, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(noise.numpy()).save(folder / name)
    return folder


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str | Path) -> None:
    """Runs the command in this process."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, options)])
    script.main()


def test_script__trains_the_decoder_and_leaves_the_codes(
    script: ModuleType, model_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--model", model_folder, "--data", images, "--repeats", "2", "--batch-size", "2", "--precision", "fp32")
    run(
        script,
        monkeypatch,
        *options,
        "--steps",
        "6",
        "--learning-rate",
        "0.01",
        "--overlap",
        "--output",
        tmp_path / "o",
    )
    before, after = StellarModel.from_pretrained(model_folder), StellarModel.from_pretrained(tmp_path / "o" / "model")
    assert after.config.pixel_head_overlap
    assert after.decoder.head.weight.shape[-1] == 2 * before.config.patch_size
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        codes = before.encode(pixels)
        torch.testing.assert_close(after.encode(pixels).semantics, codes.semantics, rtol=0, atol=0)
        changes = (after.decode(codes) - before.decode(codes)).abs()
    assert changes.mean() > 1e-3
    assert (
        StellarImageProcessor.from_pretrained(tmp_path / "o" / "model").to_dict()
        == StellarImageProcessor.from_pretrained(model_folder).to_dict()
    )


def test_difference_loss__sees_a_border_that_the_error_does_not(script: ModuleType) -> None:
    image, even, border = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1), torch.full((1, 3, 4, 4), 0.1)
    border[..., 2:] = -0.1
    assert script.difference_loss(even, image) == 0
    torch.testing.assert_close(script.difference_loss(border, image), torch.tensor(0.04 / 3))  # 1 of 3 in a row


def test_stopped_run__ends_with_the_same_weights(
    script: ModuleType, model_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--model", model_folder, "--data", images, "--batch-size", "2", "--steps", "4", "--save-every", "2")
    run(script, monkeypatch, *options, "--output", tmp_path / "whole")
    original, taken = script.Run.take_step, []

    def stop(self: object, pixel_values: torch.Tensor) -> float:
        taken.append(1)
        if len(taken) == 4:
            raise OSError("stopped")
        return float(original(self, pixel_values))

    monkeypatch.setattr(script.Run, "take_step", stop)
    with pytest.raises(SystemExit, match="stopped"):
        run(script, monkeypatch, *options, "--output", tmp_path / "stopped")
    run(script, monkeypatch, *options, "--output", tmp_path / "stopped")
    assert len(taken) == 6  # the third step was not saved
    whole, stopped = (StellarModel.from_pretrained(tmp_path / name / "model") for name in ("whole", "stopped"))
    for name, weights in whole.state_dict().items():
        torch.testing.assert_close(stopped.state_dict()[name], weights, rtol=0, atol=0)


def test_other_options__are_refused(
    script: ModuleType, model_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--model", model_folder, "--data", images, "--batch-size", "2", "--output", tmp_path / "o")
    run(script, monkeypatch, *options, "--steps", "1")
    with pytest.raises(SystemExit, match="other options"):
        run(script, monkeypatch, *options, "--steps", "2")


def test_vq_model__is_refused(
    script: ModuleType, vq_model: StellarModel, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vq_model.save_pretrained(tmp_path / "vq")
    with pytest.raises(SystemExit, match="no 'pixel' head"):
        run(script, monkeypatch, "--model", tmp_path / "vq", "--data", images, "--output", tmp_path / "o")
