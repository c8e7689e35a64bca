"""`stellar-hub visualize`."""

from pathlib import Path

from PIL import Image

from stellar_hub.modeling import StellarImageProcessor, StellarModel

from .conftest import Command


def test_visualize__writes_a_page_for_each_image(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    result = command("visualize", image_folder, "-o", tmp_path / "out", "-m", model_folder)
    assert result.exit_code == 0, result.output
    for name in ("wide.png", "below/tall.png"):
        with Image.open(tmp_path / "out" / name) as page:
            assert page.width > 1000


def test_visualize__works_without_a_decoder(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    model = StellarModel.from_pretrained(model_folder, decoder=False)
    model.save_pretrained(tmp_path / "features")
    StellarImageProcessor.from_config(model.config).save_pretrained(tmp_path / "features")
    result = command("visualize", image_folder / "wide.png", "-o", tmp_path / "out", "-m", tmp_path / "features")
    assert result.exit_code == 0, result.output
    assert "PSNR" not in result.stdout
