"""The size of images is compared with the model before its weights are read."""

from pathlib import Path

import pytest

from stellar_hub.cli.errors import WrongUsage
from stellar_hub.cli.models import check_image_size, open_model
from stellar_hub.modeling import StellarModel


@pytest.mark.parametrize("size", [None, 8, 64, (8, 64)])
def test_check_image_size__accepts_what_fits(model_folder: Path, size: int | tuple[int, int] | None) -> None:
    check_image_size(str(model_folder), size)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (100, r"--image-size .* 8 pixels.* such as 96 or 104; got 100$"),
        (3, r"such as 8; got 3$"),
        ((96, 101), r"such as 96x104; got 96x101$"),
        (99_999 * 8, "image_pixels|pixels"),
    ],
)
def test_check_image_size__names_the_nearest(model_folder: Path, size: int | tuple[int, int], message: str) -> None:
    with pytest.raises(WrongUsage, match=message):
        check_image_size(str(model_folder), size)


def test_check_image_size__refuses_more_patches_than_a_code_may_have(model_folder: Path) -> None:
    check_image_size(str(model_folder), 2048)  # 256 x 256 patches
    with pytest.raises(WrongUsage, match=r"65,792 patches.*65,536"):
        check_image_size(str(model_folder), (2048, 2056))


def test_many_patches__get_a_note(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_image_size(str(model_folder), 1024)  # 128 x 128 patches
    assert capsys.readouterr().err == ""
    check_image_size(str(model_folder), 1032)
    assert "16,641 patches" in capsys.readouterr().err


def test_weights__are_not_read_for_a_wrong_size(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StellarModel, "from_pretrained", None)
    with pytest.raises(WrongUsage):
        open_model(str(model_folder), "cpu", image_size=9)


def test_file_of_weights__has_its_size_checked_too(tmp_path: Path, pixel_model: StellarModel) -> None:
    pixel_model.save_pretrained(tmp_path / "both", save_original_format=True)
    file = next(path for path in (tmp_path / "both").iterdir() if path.suffix in (".safetensors", ".ckpt"))
    with pytest.raises((WrongUsage, ValueError)):
        open_model(str(file), "cpu", image_size=9)
