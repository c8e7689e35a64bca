"""The report on a trained classifier: JSON, a page with the confusion matrix, and a section of the model's card."""

import importlib.metadata
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from stellar_hub.data.sources.files import counted
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.modeling.card_sections import write_section
from stellar_hub.modeling.model_card import markdown_text, read_card
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.training.exports import CURVES_FILE, MODEL_FOLDER, without_folders
from stellar_hub.training.finetuning.measuring import TOP, Answers
from stellar_hub.training.finetuning.settings import FinetuneSettings
from stellar_hub.training.monitoring.journal import read_journal
from stellar_hub.training.monitoring.quantities import curves_of
from stellar_hub.training.run import JOURNAL_FILE
from stellar_hub.visualization import draw_confusion, draw_curves

FORMAT = 1
CONFUSION_FILE, JSON_FILE, PAGE_FILE = "confusion.png", "report.json", "report.md"
SECTION = "stellar-hub finetune"
LIBRARIES = ("stellar_hub", "torch", "timm", "transformers")
MAX_LISTED = 100  # images that were left out, in the JSON
MAX_PAIRS = 10  # confusions on the page
MAX_ON_CARD = 50  # classes whose accuracy the card shows


@dataclass(frozen=True, eq=False)
class FinetuneReport:
    """What is known about a trained classifier.

    Attributes:
        settings: Settings of the run.
        answers: Answers of the saved model for the test images.
        num_train: Number of training images.
        train_counts: Number of training images of each class.
        names: Names of the training and of the test images.
        held_out: Whether the test images were held out of the training images.
        kept_step: Step whose weights the saved model has.
        num_steps: Number of steps of the run.
        skipped: Training images that could not be read, each as "path: reason".
    """

    settings: FinetuneSettings
    answers: Answers
    num_train: int
    train_counts: tuple[int, ...]
    names: tuple[str, str]
    held_out: bool
    kept_step: int
    num_steps: int
    skipped: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """Share of the test images that are classified correctly, in [0, 1]."""
        return self.answers.accuracy

    @property
    def majority_accuracy(self) -> float:
        """Accuracy of the answer that is the most frequent class of the training images, always."""
        most = self.train_counts.index(max(self.train_counts))
        return (self.answers.labels == most).double().mean().item()

    def class_rows(self) -> list[tuple[str, int, float | None]]:
        """Returns name, number of test images and accuracy of each class; None for a class without test images."""
        counts = self.answers.confusion()
        right, total = counts.diagonal().tolist(), counts.sum(dim=1).tolist()
        return [
            (name, number, correct / number if number else None)
            for name, number, correct in zip(self.answers.classes, total, right, strict=True)
        ]

    def confused_pairs(self) -> list[tuple[str, str, int]]:
        """Returns the pairs of classes that are confused most: the true one, the answer, and how often."""
        counts = self.answers.confusion().clone()
        counts.fill_diagonal_(0)
        pairs = [(int(counts[true, answer]), true, answer) for true, answer in counts.nonzero().tolist()]
        pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
        names = self.answers.classes
        return [(names[true], names[answer], count) for count, true, answer in pairs[:MAX_PAIRS]]

    def confusion_figure(self) -> Image.Image:
        """Draws the confusion matrix of the test images."""
        title = f"{without_folders(self.settings.model)}, {self.settings.mode}"
        return draw_confusion(self.answers.confusion(), self.answers.classes, title)

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as JSON can hold it."""
        answers = self.answers
        return {
            "format": FORMAT,
            "settings": self.settings.as_dict(),
            "classes": list(answers.classes),
            "train": {
                "name": self.names[0],
                "num_images": self.num_train,
                "images_of_each_class": list(self.train_counts),
                **_left_out(self.skipped),
            },
            "test": {
                "name": self.names[1],
                "held_out_of_train": self.held_out,
                "num_images": len(answers.labels),
                **_left_out(answers.skipped),
            },
            "accuracy": self.accuracy,
            f"top{TOP}_accuracy": answers.top_accuracy if len(answers.classes) > TOP else None,
            "test_loss": answers.loss,
            "majority_accuracy": self.majority_accuracy,
            "accuracy_of_each_class": [accuracy for _, _, accuracy in self.class_rows()],
            "confusion": answers.confusion().tolist(),
            "kept_step": self.kept_step,
            "num_steps": self.num_steps,
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        }

    def numbers(self) -> list[tuple[str, str]]:
        """Returns the lines of the table that page, card and terminal show."""
        answers = self.answers
        total = len(answers.labels)
        right = int((answers.predictions == answers.labels).sum())
        rows = [("accuracy", f"{self.accuracy:.1%} ({right} of {total})")]
        if len(answers.classes) > TOP:
            rows.append((f"top-{TOP} accuracy", f"{answers.top_accuracy:.1%}"))
        majority = int((answers.labels == self.train_counts.index(max(self.train_counts))).sum())
        rows.append(("most frequent class", f"{self.majority_accuracy:.1%} ({majority} of {total})"))
        return rows

    def notes(self) -> list[str]:
        """Returns what a reader has to know to judge the numbers."""
        notes = []
        if self.settings.keep == "best":
            notes.append(
                f"The weights are those of step {self.kept_step} of {self.num_steps}, which had the best accuracy on "
                "these test images, so that on new images it may be lower"
            )
        if self.held_out:
            notes.append("The test images were held out of the training images")
        for part, entries in (("training", self.skipped), ("test", self.answers.skipped)):
            if entries:
                count = counted(len(entries), f"{part} image", f"{part} images")
                notes.append(f"{count} could not be read, and no number counts them")
        return notes

    def page(self) -> str:
        """Returns the report in Markdown; it shows the confusion matrix, which is beside it."""
        settings = self.settings
        how = f"{without_folders(settings.model)}, mode {settings.mode}, {settings.epochs} epochs"
        parts = [f"# Report\n\n{markdown_text(how)}", self._summary()]
        parts.append("## Classes\n\n" + self._class_table())
        pairs = self.confused_pairs()
        if pairs:
            rows = [(_cell(true), _cell(answer), str(count)) for true, answer, count in pairs]
            parts.append("## Confused most\n\n" + _table(("true class", "answer", "images"), rows))
        parts.append(f"![Confusion matrix]({CONFUSION_FILE})")
        left_out = [*self.skipped, *self.answers.skipped][:MAX_LISTED]
        if left_out:
            parts.append("## Left out\n\n" + "\n".join(f"- {markdown_text(entry)}" for entry in left_out))
        return "\n\n".join(parts) + "\n"

    def card_section(self) -> str:
        """Returns the section of the model's card."""
        settings = self.settings
        facts = {"full": "encoder and head", "frozen": "head alone", "lora": "head, and low-rank updates of attention"}
        how = [
            ("start", _cell(str(without_folders(settings.model)))),
            ("trained", facts[settings.mode]),
            *([("image size", f"{settings.image_size} x {settings.image_size}")] if settings.image_size else []),
            ("training", f"{self.num_train} images, {settings.epochs} epochs, batch {settings.batch_size}"),
            ("test", f"{len(self.answers.labels)} images of {_cell(str(without_folders(self.names[1])))}"),
        ]
        parts = ["## Fine-tuning", _table(("", ""), how), self._summary()]
        if len(self.answers.classes) <= MAX_ON_CARD:
            parts.append(self._class_table())
        return "\n\n".join([*parts, f"![Confusion matrix]({CONFUSION_FILE})"])

    def _summary(self) -> str:
        return "\n\n".join([_table(("", "test images"), self.numbers()), *(f"{note}." for note in self.notes())])

    def _class_table(self) -> str:
        rows = [
            (_cell(name), str(trained), str(number), "" if accuracy is None else f"{accuracy:.1%}")
            for (name, number, accuracy), trained in zip(self.class_rows(), self.train_counts, strict=True)
        ]
        return _table(("class", "training images", "test images", "accuracy"), rows)


def _left_out(entries: Sequence[str]) -> dict[str, Any]:
    return {"num_left_out": len(entries), "left_out": [one_line(entry) for entry in entries[:MAX_LISTED]]}


def _cell(text: str) -> str:
    return markdown_text(text).replace("|", "\\|")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_report(output: Path, report: FinetuneReport) -> None:
    """Writes confusion matrix, curves, page and JSON into a run's folder, and the section into the card of its model.

    Args:
        output: Folder of the run, with `model/`.
        report: The report.

    Raises:
        OSError: if a file cannot be written.
    """
    confusion = _png(report.confusion_figure())
    write_atomically(output / CONFUSION_FILE, confusion)
    records = read_journal(output / JOURNAL_FILE) if (output / JOURNAL_FILE).exists() else []
    if records:
        write_atomically(output / CURVES_FILE, _png(draw_curves(curves_of(records))))
    write_atomically(output / PAGE_FILE, report.page().encode(errors="backslashreplace"))
    write_atomically(output / MODEL_FOLDER / CONFUSION_FILE, confusion)
    path = output / MODEL_FOLDER / "README.md"
    card = write_section(read_card(path) or "", SECTION, report.card_section(), path)
    write_atomically(path, card.encode(errors="surrogateescape"))
    # Last: if it exists, the report is complete.
    text = json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n"
    write_atomically(output / JSON_FILE, text.encode(errors="backslashreplace"))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
