"""The images that an evaluation leaves out because they cannot be read, and how a report says it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stellar_hub.data.sources import ImageSource
from stellar_hub.modeling.safe_text import one_line

MAX_NAMED = 5  # images in a sentence
MAX_KEPT = 100  # images in the JSON of a report, for each part


class LeftOut(NamedTuple):
    """An image that an evaluation leaves out.

    Attributes:
        part: Part of the data that the image belongs to: "train", "test" or "data".
        image: Name of the image, as `stellar_hub.features.rows.printable` writes it.
        reason: Why it, or its mask, cannot be used.
    """

    part: str
    image: str
    reason: str


class UnreadableImagesError(ValueError):
    """Some images of an evaluation cannot be read.

    Args:
        images: Source of the images.
        reasons: Why each image cannot be read, by its index in the source.
        complete: Whether these are all images of the source that cannot be read.
    """

    def __init__(self, images: ImageSource, reasons: Mapping[int, str], complete: bool = False):
        super().__init__(reasons[min(reasons)])
        self.images = images
        self.reasons = dict(reasons)
        self.complete = complete


def remaining(name: str, total: int, reasons: Mapping[int, str]) -> list[int]:
    """Returns the indices of the images that stay.

    Args:
        name: Name of the images.
        total: Number of the images.
        reasons: Why images are left out, by their index.

    Raises:
        ValueError: if no image stays.
    """
    rows = [row for row in range(total) if row not in reasons]
    if not rows:
        raise ValueError(f"none of the {total} images of {name} can be used; the first error: {reasons[min(reasons)]}")
    return rows


def describe_left_out(left_out: Sequence[LeftOut], short: bool = False) -> list[str]:
    """Returns a sentence for each part of the data that says how many images are left out, and names the first ones.

    Args:
        left_out: The images.
        short: Whether to name an image by the last two parts of its path, as a page needs it that others read.
    """
    lines = []
    for part in dict.fromkeys(each.part for each in left_out):
        of_part = [each for each in left_out if each.part == part]
        names = [one_line(_short(each.image) if short else each.image) for each in of_part[:MAX_NAMED]]
        more = f" and {len(of_part) - MAX_NAMED} more" if len(of_part) > MAX_NAMED else ""
        reason = one_line(of_part[0].reason).replace(one_line(of_part[0].image), names[0])
        of_which = "" if part == "data" else f" of {part}"
        if len(of_part) == 1:
            lines.append(f"1 image{of_which} is left out: {_with_name(reason, names[0])}")
        else:
            listed = ", ".join(names) + more
            lines.append(f"{len(of_part)} images{of_which} are left out: {listed}; the first error: {reason}")
    return lines


def notes_on_damage(images: ImageSource, name: str) -> list[str]:
    """Returns a note on the parts of a source that cannot be read to their end, if there are any."""
    damaged = getattr(images, "damaged", ())
    if not damaged:
        return []
    files = "1 file" if len(damaged) == 1 else f"{len(damaged)} files"
    return [
        f"images may be missing, because {files} of {one_line(name)} cannot be read to the end: {one_line(damaged[0])}"
    ]


def left_out_facts(left_out: Iterable[LeftOut]) -> list[dict[str, Any]]:
    """Returns the first images that each part leaves out, as a report's JSON holds them."""
    kept: dict[str, list[dict[str, Any]]] = {}
    for each in left_out:
        of_part = kept.setdefault(each.part, [])
        if len(of_part) < MAX_KEPT:
            of_part.append(each._asdict())
    return [each for of_part in kept.values() for each in of_part]


def _with_name(reason: str, name: str) -> str:
    return reason if name in reason else f"{name}: {reason}"


def _short(image: str) -> str:
    return "/".join(image.replace("\\\\", "/").split("/")[-2:])  # a backslash alone begins an escape
