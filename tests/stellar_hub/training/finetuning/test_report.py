"""The report: its numbers, the page, the section of the card, the files."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from stellar_hub.training.finetuning import FinetuneReport, FinetuneSettings
from stellar_hub.training.finetuning.measuring import Answers

CLASSES = ("cat", "d|g<b>", "eel", "fox", "gnu", "hen", "i\x1b[31m")


@pytest.fixture
def report() -> FinetuneReport:
    """Ten images of seven classes, of which the classifier gets six right."""
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 4, 6])
    predictions = torch.tensor([0, 0, 1, 1, 0, 0, 2, 3, 5, 6])
    in_top = torch.tensor([True] * 9 + [False])
    return FinetuneReport(
        settings=FinetuneSettings(model="/home/somebody/models/mine", mode="lora"),
        answers=Answers(CLASSES, labels, predictions, in_top, 0.75, ("test/z.png: damaged",)),
        num_train=70,
        train_counts=(30, 10, 10, 5, 5, 5, 5),
        names=("/home/somebody/photos", "photos/test"),
        held_out=False,
        kept_step=12,
        num_steps=20,
        skipped=(),
    )


def test_numbers__are_those_of_the_answers(report: FinetuneReport) -> None:
    assert report.accuracy == pytest.approx(0.6)
    assert report.majority_accuracy == pytest.approx(0.3)
    assert report.numbers() == [
        ("accuracy", "60.0% (6 of 10)"),
        ("top-5 accuracy", "90.0%"),
        ("most frequent class", "30.0% (3 of 10)"),
    ]
    rows = {name: (count, accuracy) for name, count, accuracy in report.class_rows()}
    assert rows["cat"] == (3, pytest.approx(2 / 3))
    assert rows["hen"] == (0, None)
    assert report.confused_pairs()[0] == ("cat", "d|g<b>", 1)
    assert sum(count for _, _, count in report.confused_pairs()) == 4


def test_json__has_everything(report: FinetuneReport) -> None:
    content = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert content["accuracy"] == pytest.approx(0.6)
    assert content["top5_accuracy"] == pytest.approx(0.9)
    assert content["confusion"][2][0] == 1
    assert content["test"]["left_out"] == ["test/z.png: damaged"]
    assert content["settings"]["mode"] == "lora"
    assert (content["kept_step"], content["classes"][0]) == (12, "cat")


def test_page_and_card__escape_names_and_name_no_folders(report: FinetuneReport) -> None:
    for text in (report.page(), report.card_section()):
        assert r"| d\|g&lt;b&gt; | 10 | 2 | 50.0% |" in text
        assert r"| i\x1b[31m |" in text
        assert "somebody" not in text
        assert "mine" in text
        assert "1 test image could not be read" in text
        assert "confusion.png" in text


def test_card__has_the_size_of_the_images_if_it_is_not_the_models_own(report: FinetuneReport) -> None:
    assert "image size" not in report.card_section()
    settings = dataclasses.replace(report.settings, image_size=224)
    assert "| image size | 224 x 224 |" in dataclasses.replace(report, settings=settings).card_section()


def test_best_of_several__is_said(report: FinetuneReport) -> None:
    assert any("step 12 of 20" in note for note in report.notes())


def test_files__are_written_with_the_report_last(finished: tuple[Path, FinetuneReport]) -> None:
    output, report = finished
    assert json.loads((output / "report.json").read_text())["accuracy"] == report.accuracy
    with Image.open(output / "confusion.png") as image:
        assert image.size[0] > 400
    card = (output / "model" / "README.md").read_text()
    assert "<!-- stellar-hub finetune -->" in card
    assert "| classes | blue, green, red |" in card
    assert (output / "model" / "confusion.png").read_bytes() == (output / "confusion.png").read_bytes()
