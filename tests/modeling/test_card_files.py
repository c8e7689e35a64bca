"""The card of a model goes along where the model is saved."""

import pickle
from pathlib import Path

import pytest
from PIL import Image

from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.card_files import carry_card

CARD = """\
---
license: apache-2.0
tags:
- mine
---
# Ours

By hand. ![curves](curves.png) ![a b](images/a%20b.png) ![gone](gone.png) ![elsewhere](../secret.png)

<!-- training -->
## Training
<!-- /training -->
"""


@pytest.fixture
def folder(tmp_path: Path, pixel_model: StellarModel) -> Path:
    """A saved model with a card of a training run, and its images."""
    folder = tmp_path / "model"
    pixel_model.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "images").mkdir()
    for path in (folder / "curves.png", folder / "images" / "a b.png", folder.parent / "secret.png"):
        Image.new("RGB", (2, 2)).save(path)
    return folder


def test_save__carries_the_card_and_its_images(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = StellarModel.from_pretrained("model")
    monkeypatch.chdir(folder)  # the folder is not looked for from where the process is now
    model.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == CARD
    assert (tmp_path / "copy" / "curves.png").read_bytes() == (folder / "curves.png").read_bytes()
    assert (tmp_path / "copy" / "images" / "a b.png").exists()
    assert not list((tmp_path / "copy").glob("**/secret.png"))


def test_save__renews_the_license_of_the_card_it_carries(tmp_path: Path, folder: Path) -> None:
    StellarModel.from_pretrained(folder).save_pretrained(tmp_path / "copy", license="mit")
    card = (tmp_path / "copy" / "README.md").read_text()
    assert "license: mit" in card
    assert "## Training" in card


def test_save__keeps_the_card_that_stands_there(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "README.md").write_text("# Another\n")
    StellarModel.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == "# Another\n"
    assert not (tmp_path / "copy" / "curves.png").exists()


def test_save__carries_the_card_of_the_model_in_the_package(tmp_path: Path) -> None:
    StellarModel.from_pretrained("stellar-tiny").save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert (tmp_path / "curves.png").exists()


def test_source__is_in_no_file_and_survives_a_pickle(tmp_path: Path, folder: Path) -> None:
    model: StellarModel = pickle.loads(pickle.dumps(StellarModel.from_pretrained(folder)))
    model.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == CARD
    written = list((tmp_path / "copy").glob("*.json"))
    assert written
    assert not any(str(tmp_path) in path.read_text() for path in written)


def test_carry_card__without_a_card_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    for source in (None, tmp_path, "stellar-tiny"):
        carry_card(source, tmp_path / "target")
    assert not list((tmp_path / "target").iterdir())
