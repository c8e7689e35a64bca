"""The numbers of `evaluate_stellar_tiny.py` and how they are written: as tables, as JSON, into a model card."""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

MARKERS = ("<!-- evaluation -->", "<!-- /evaluation -->")


class KnnRow(NamedTuple):
    """Percent."""

    features: str
    accuracy: float


class IouRow(NamedTuple):
    """Percent, means over objects; None where a reading does not apply."""

    regions: str
    argmax: float
    threshold: float | None


class PsnrRow(NamedTuple):
    """Decibels, means over images."""

    images_from: str
    scenes: float
    photographs: float


class Report(NamedTuple):
    """All that was measured, and on what."""

    model: str
    num_train: int
    num_test: int
    size: int
    max_objects: int
    class_cue: str  # what the objects of a class have in common
    num_objects: int  # in all test scenes together
    num_classes: int
    num_neighbours: int
    temperature: float
    knn: list[KnnRow]
    iou: list[IouRow]
    psnr: list[PsnrRow]

    def knn_gain(self) -> float:
        """Points of accuracy that training gave the mean of S."""
        accuracy = dict(self.knn)
        return accuracy["trained: mean of S"] - accuracy["untrained: mean of S"]


def table(header: list[str], rows: Sequence[tuple], digits: int) -> str:
    """Rows of a name and its numbers as Markdown; the first, which is the model's, in bold."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for index, (name, *values) in enumerate(rows):
        bold = "**" if index == 0 else ""
        cells = [name, *("" if value is None else f"{value:.{digits}f}" for value in values)]
        lines.append("| " + " | ".join(f"{bold}{cell}{bold}" if cell else "" for cell in cells) + " |")
    return "\n".join(lines)


def markdown(report: Report) -> str:
    """Three tables, each after a paragraph on what it says."""
    scenes = f"{report.size} x {report.size} pixels and at most {report.max_objects} objects"
    knn = f"k = {report.num_neighbours}, cosine of centred features, temperature {report.temperature}"
    classes = {"outline": "by outline alone", "texture": "by outline and texture"}.get(
        report.class_cue, "by outline, texture and hue"
    )
    error = 50 / report.num_test**0.5  # of a share of one half, where it is largest
    return f"""\
**Recognition.** Which of {report.num_classes} classes ({classes}) is the largest object of a drawn scene of
{scenes}? kNN ({knn})
from {report.num_train} scenes to {report.num_test} others; standard error at most {error:.1f} points.

{table(["features", "accuracy, %"], report.knn, 1)}

**Objects.** IoU of each object's mask with its best token, mean of {report.num_objects} objects. A token owns the
patches where its `L` is the largest; in the other reading it takes those where it reaches half of its own maximum.
k-means has as many clusters as there are tokens.

{table(["regions", "IoU, %", "half of maximum, %"], report.iou, 1)}

**Reconstruction.** PSNR, mean of the {report.num_test} scenes and of the photographs of `examples/images`.

{table(["from", "scenes, dB", "photographs, dB"], report.psnr, 2)}"""


def as_json(report: Report) -> str:
    """All fields, rows as objects."""
    fields = report._asdict()
    for name in ("knn", "iou", "psnr"):
        fields[name] = [row._asdict() for row in fields[name]]
    return json.dumps(fields, indent=2) + "\n"


def replace_section(card: str, section: str) -> str:
    """The card's text with the section between its two markers.

    Raises:
        ValueError: if the card has not one such pair.
    """
    start, end = MARKERS
    pattern = re.compile(f"({re.escape(start)}\n).*?({re.escape(end)})", flags=re.DOTALL)
    if card.count(start) != 1 or card.count(end) != 1 or not pattern.search(card):
        raise ValueError(f"there is not one pair of lines {start} and {end} to put the tables between: add them")
    return pattern.sub(lambda match: f"{match[1]}{section}\n{match[2]}", card)
