"""Everything an evaluation found, and how it was found."""

import importlib.metadata
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

from PIL import Image

from stellar_hub.features.backbones.backbone import Backbone

FORMAT = 1
LIBRARIES = ("stellar_hub", "torch", "timm", "transformers")


@dataclass(frozen=True)
class Measurement:
    """One row: what was measured of one model.

    Attributes:
        model: As it was asked for; or a baseline's name.
        features: Which of its features; empty where it does not apply.
        metrics: Numbers by name, in the order of a table's columns; a name's end says the unit. None where a metric
            does not apply.
        details: More than fits a table, such as the learning rate chosen or accuracy by class.
    """

    model: str
    features: str
    metrics: dict[str, float | None]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Report:
    """What one protocol found.

    Attributes:
        task: "knn", "linear", "segmentation", "reconstruction" or "diagnostics".
        protocol: All fields of the protocol.
        data: Names, counts and hashes of the data.
        models: Facts of each model.
        measurements: The rows.
        backends: Libraries that computed a metric, with their versions.
        notes: What a reader has to know.
        legend: What each metric is, where names do not say it: source, range, what is good.
        images: By file name, without suffix.
    """

    task: str
    protocol: dict[str, Any]
    data: dict[str, Any]
    models: list[dict[str, Any]]
    measurements: list[Measurement]
    backends: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    legend: dict[str, dict[str, str]] = field(default_factory=dict)
    images: dict[str, Image.Image] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """All but the images, of which the names stay; what JSON cannot hold is named ("nan", "inf")."""
        fields = {
            "format": FORMAT,
            "task": self.task,
            "protocol": self.protocol,
            "data": self.data,
            "models": self.models,
            "measurements": [asdict(each) for each in self.measurements],
            "backends": self.backends,
            "versions": versions(LIBRARIES),
            "notes": self.notes,
            "legend": self.legend,
            "images": [f"{name}.png" for name in self.images],
        }
        return plain(fields)

    def as_json(self) -> str:
        """`as_dict` as text."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n"


def make_report(
    task: str,
    protocol: Any,
    data: dict[str, Any],
    backbones: Iterable[Backbone],
    rows: Sequence[Measurement],
    **more: Any,
) -> Report:
    """A report from a protocol's dataclass and the models that were evaluated."""
    return Report(task, asdict(protocol), data, [asdict(each.facts) for each in backbones], list(rows), **more)


def versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of installed libraries."""
    return {name: importlib.metadata.version(name) for name in names}


def plain(value: Any) -> Any:
    """A value as JSON can hold it: tuples as lists, numbers that are not finite by their name."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
