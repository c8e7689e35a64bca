"""The numbers a training run records: the order they are shown in, their names for people, and what is good."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """What one recorded number is.

    Attributes:
        label: Its name for people, short enough for the head of a small plot.
        good: What to hope for, in a few words.
    """

    label: str
    good: str


QUANTITIES = {
    "loss": Quantity("loss, total", "falls; the sum of the terms below, each with its weight"),
    "reconstruction_loss": Quantity("reconstruction loss", "falls; before its weight"),
    "koleo_loss": Quantity("KoLeo loss", "low: the tokens of an image lie apart; weighted"),
    "clustering_loss": Quantity("clustering loss", "falls"),
    "cls_clustering_loss": Quantity("cls clustering loss", "falls"),
    "mask_loss": Quantity("mask loss", "falls: masked views find the tokens of the whole image"),
    "cls_loss": Quantity("cls loss", "falls: masked and local views agree with the whole image"),
    "assignment_entropy": Quantity("assignment entropy", "near 1: all prototypes are used; near 0 is collapse"),
    "token_cosine": Quantity("token cosine", "low: the tokens of an image differ; near 1 is collapse"),
    "effective_rank": Quantity("effective rank", "high: tokens use many directions; near 1 is collapse"),
    "localization_entropy": Quantity("localization entropy", "falls from 1: each place belongs to few tokens"),
    "agreement": Quantity("agreement", "rises while token cosine stays low: views find the tokens they are matched to"),
    "learning_rate": Quantity("learning rate", "as the schedule has it"),
    "gradient_norm": Quantity("gradient norm", "steady; before clipping"),
    "images_per_second": Quantity("images per second", "high"),
    "data_wait_share": Quantity("share of time waiting for data", "near 0; else more workers"),
    "memory_gb": Quantity("memory, GB", "steady"),
}


def in_order(names: set[str]) -> list[str]:
    """Names of numbers in the order of `QUANTITIES`; those it does not know come last, by the alphabet."""
    known = [name for name in QUANTITIES if name in names]
    return known + sorted(names - set(known))


def label(name: str) -> str:
    """The name for people; an unknown one is read out as it is spelt, spaces for underscores."""
    return QUANTITIES[name].label if name in QUANTITIES else name.replace("_", " ")


def good(name: str) -> str:
    """What is good; nothing for a number that is not known."""
    return QUANTITIES[name].good if name in QUANTITIES else ""
