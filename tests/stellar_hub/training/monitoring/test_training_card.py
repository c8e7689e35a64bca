"""The section of the model card about the training."""

import os
from pathlib import Path
from typing import Any

import pytest

from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.model_card import model_card
from stellar_hub.training.monitoring.training_card import training_section, write_training_card

OPENING, CLOSING = "<!-- training -->", "<!-- /training -->"
RECIPE = "run:\n  seed: 0\n"


def section(**changes: Any) -> str:
    arguments: dict[str, Any] = {
        "recipe_yaml": RECIPE,
        "facts": {"steps": 200, "device": "cpu", "time": None},
        "final": {"mask_loss": 1.23456, "loss": 2.5},
        "has_curves": True,
        "has_preview": True,
    }
    return training_section(**(arguments | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the card of a model."""
    (tmp_path / "README.md").write_text(model_card(StellarConfig(), "a-model", "mit"), encoding="utf-8")
    return tmp_path


def test_training_section__has_facts_values_images_and_recipe() -> None:
    text = section()
    assert text.startswith("## Training\n")
    assert "| steps | 200 |\n| device | cpu |\n" in text
    assert "time" not in text.split("Last values")[0]
    assert text.index("| loss, total | 2.5 |") < text.index("| mask loss | 1.235 | falls")
    assert "](curves.png)" in text
    assert "](reconstructions.png)" in text
    assert f"```yaml\n{RECIPE}```\n\n</details>" in text


def test_training_section__leaves_out_what_is_not_there() -> None:
    text = section(facts={}, final={}, has_curves=False, has_preview=False)
    assert "|" not in text
    assert ".png" not in text
    assert RECIPE in text


def test_training_section__keeps_text_within_its_cell() -> None:
    text = section(facts={"folders": "a|b\nc"})
    assert "| folders | a\\|b c |\n" in text


def test_training_section__shows_neither_secrets_nor_control_characters_nor_marks() -> None:
    address = "https://me:SECRET@host/a.tar?sig=SECRET"
    facts = {"initialized from": f"<b>\x1b[31m {address}"}
    text = section(facts=facts, recipe_yaml=f"sources: ['stream:{address}', '<!-- /training -->', '\x1b[2J']\n")
    assert "SECRET" not in text
    assert "\x1b" not in text
    assert "<!--" not in text
    assert "<b>" not in text
    assert "https://***@host/a.tar?***" in text


def test_training_section__fences_a_recipe_with_fences() -> None:
    text = section(recipe_yaml="note: '```'\n")
    assert "````yaml\nnote: '```'\n````" in text


def test_write_training_card__goes_before_limits_and_license(folder: Path) -> None:
    before = (folder / "README.md").read_text()
    write_training_card(folder, section())
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: mit")
    positions = [card.index(mark) for mark in (OPENING, "## Training", CLOSING, "## What the weights", "## License")]
    assert positions == sorted(positions)
    start, end = card.index(OPENING), card.index(CLOSING) + len(CLOSING)
    assert card[:start] + card[end:].lstrip("\n") == before


def test_write_training_card__replaces_an_earlier_section(folder: Path) -> None:
    write_training_card(folder, section(facts={"steps": 1}))
    write_training_card(folder, section())
    once = (folder / "README.md").read_text()
    assert once.count(OPENING) == once.count(CLOSING) == once.count("## Training") == 1
    assert "| steps | 1 |" not in once


def test_write_training_card__needs_a_card(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="save_pretrained"):
        write_training_card(tmp_path, section())


def test_write_training_card__refuses_a_section_without_an_end(folder: Path) -> None:
    (folder / "README.md").write_text(f"# A model\n{OPENING}\n## Training\n")
    with pytest.raises(ValueError, match="<!-- /training -->"):
        write_training_card(folder, section())
    assert (folder / "README.md").read_text() == f"# A model\n{OPENING}\n## Training\n"


def test_write_training_card__leaves_the_old_card_if_writing_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: Any) -> None:
        raise OSError("No space left on device")

    before = (folder / "README.md").read_bytes()
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_training_card(folder, section())
    assert (folder / "README.md").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["README.md"]


def test_training_section__shows_neither_passwords_nor_control_characters() -> None:
    address = "stream:https://me:SECRET@host/a.tar?sig=SECRET"
    yaml = f'data:\n  sources: ["{address}", "\u202eevil"]\n'
    section = training_section(yaml, {"initialized from": f"{address}\x1b[31m\nx"}, {}, False, False)
    assert "SECRET" not in section
    assert "https://***@host/a.tar?***" in section
    assert "\\u202eevil" in section
    assert all(line.isprintable() for line in section.split("\n"))
