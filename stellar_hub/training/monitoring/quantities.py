"""The numbers that a training run records: their order, their names for people, and what is good."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stellar_hub.visualization import Curve


@dataclass(frozen=True)
class Quantity:
    """A number that a run records.

    Attributes:
        label: Name for people, short enough for the title of a small plot.
        good: What to hope for, in a few words.
        log: Whether a logarithmic axis shows it best.
    """

    label: str
    good: str
    log: bool = False


QUANTITIES = {
    "loss": Quantity("loss, total", "falls; the sum of the terms below, each with its weight"),
    "reconstruction_loss": Quantity("reconstruction loss", "falls; before its weight", log=True),
    "koleo_loss": Quantity("KoLeo loss", "low: the tokens of an image are far apart; weighted"),
    "clustering_loss": Quantity("clustering loss", "falls"),
    "cls_clustering_loss": Quantity("cls clustering loss", "falls"),
    "mask_loss": Quantity("mask loss", "falls: masked views find the tokens of the whole image"),
    "cls_loss": Quantity("cls loss", "falls: masked and local views agree with the whole image"),
    "sop_token_loss": Quantity("SOP token loss", "falls: masked views find the teacher's tokens or patches"),
    "sop_cls_loss": Quantity("SOP cls loss", "falls: masked and local views agree with the teacher's other views"),
    "baseline_loss": Quantity("baseline loss", "falls; before its weight", log=True),
    "assignment_entropy": Quantity("assignment entropy", "near 1: all prototypes, or anchors, are used; 0 is collapse"),
    "token_cosine": Quantity("token cosine", "low: the tokens of an image differ; near 1 is collapse"),
    "effective_rank": Quantity("effective rank", "high: tokens use many directions; near 1 is collapse"),
    "localization_entropy": Quantity("localization entropy", "falls from 1: each place belongs to few tokens"),
    "agreement": Quantity("agreement", "rises while token cosine stays low: views find the tokens they are matched to"),
    "memory_diversity": Quantity("memory diversity", "rises from near 1: the cls in SOP's memory differ"),
    "projection_diversity": Quantity("projection diversity", "high: a batch's images differ; near 1 is collapse"),
    "probe_knn": Quantity("probe: kNN accuracy", "rises: images find their class among the others by pooled tokens"),
    "probe_knn_cls": Quantity("probe: kNN accuracy of cls", "rises: images find their class among the others by cls"),
    "probe_rank": Quantity("probe: rank of pooled tokens", "high: pooled tokens use many directions; 1 is collapse"),
    "probe_rank_cls": Quantity("probe: rank of cls", "high: cls uses many directions; 1 is collapse"),
    "probe_token_rank": Quantity("probe: rank within an image", "high: the tokens of an image differ"),
    "probe_token_cosine": Quantity("probe: token cosine", "low: the tokens of an image differ; near 1 is collapse"),
    "probe_map_sharpness": Quantity("probe: sharpness of maps", "rises: each place belongs to few tokens"),
    "probe_map_area": Quantity("probe: area of maps", "near 1 / tokens: they divide the image among themselves"),
    "probe_owning_tokens": Quantity("probe: owning tokens", "near 1: most tokens are the strongest at some place"),
    "learning_rate": Quantity("learning rate", "follows the schedule"),
    "gradient_norm": Quantity("gradient norm", "steady; before clipping", log=True),
    "images_per_second": Quantity("images per second", "high"),
    "data_wait_share": Quantity("share of time waiting for data", "near 0; else more workers"),
    "memory_gb": Quantity("memory, GB", "steady"),
}


def in_order(names: set[str]) -> list[str]:
    """Returns names of numbers in the order of `QUANTITIES`; other names follow in alphabetical order."""
    known = [name for name in QUANTITIES if name in names]
    return known + sorted(names - set(known))


def label(name: str) -> str:
    """Returns the name for people; a name that is not in `QUANTITIES` has spaces for its underscores."""
    return QUANTITIES[name].label if name in QUANTITIES else name.replace("_", " ")


def good(name: str) -> str:
    """Returns what to hope for, or "" for a name that is not in `QUANTITIES`."""
    return QUANTITIES[name].good if name in QUANTITIES else ""


def curves_of(records: Sequence[dict[str, Any]]) -> list[Curve]:
    """Returns one curve per number in the records of a journal, in the order of `in_order`.

    Args:
        records: Records from `read_journal`: "step", and numbers by name. A record may lack some numbers. If a step
            occurs twice, the last record counts.
    """
    by_step = sorted({record["step"]: record for record in records}.values(), key=lambda record: record["step"])
    curves = []
    for name in in_order({name for record in by_step for name in record if name != "step"}):
        points = [(record["step"], record[name]) for record in by_step if name in record]
        steps, values = np.array(points, dtype=np.float64).T
        curves.append(Curve(label(name), steps, values, name in QUANTITIES and QUANTITIES[name].log))
    return curves
