"""The images of a protocol without labels: drawn from a source, and hashed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stellar_hub.data.sources import ImageSource, SampledImages, sample_images
from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.digests import digests_of, join_digests, name_of
from stellar_hub.evaluation.left_out import LeftOut, notes_on_damage, remaining

PART = "data"


@dataclass(frozen=True, eq=False)
class Sample:
    """Images without labels; `draw_sample` makes it.

    Attributes:
        name: Name in reports.
        images: The images.
        digests: SHA-256 of each image.
        num_available: Number of images that the sample was drawn from.
        left_out: Drawn images that cannot be read.
        notes: Remarks on the data.
    """

    name: str
    images: SampledImages
    digests: Sequence[str]
    num_available: int
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """SHA-256 of the images in their order."""
        return join_digests(self.digests)

    def __len__(self) -> int:
        return len(self.images)

    def facts(self) -> dict[str, Any]:
        """Returns names, counts and hashes of the data, for reports."""
        return {
            PART: {"name": self.name, "num_images": len(self), "sha256": self.sha256},
            "num_available": self.num_available,
        }

    def parts(self) -> dict[str, ImageSource]:
        """Returns the images."""
        return {PART: self.images}

    def without(self, unreadable: Mapping[str, Mapping[int, str]]) -> "Sample":
        """Returns the sample without some images. No others are drawn instead.

        Args:
            unreadable: By "data", and by the index of an image: why it cannot be read.

        Raises:
            ValueError: if no image stays.
        """
        reasons = unreadable.get(PART, {})
        if not reasons:
            return self
        rows = remaining(self.name, len(self), reasons)
        lost = [LeftOut(PART, name_of(self.images, row), reasons[row]) for row in sorted(reasons)]
        return Sample(
            self.name,
            SampledImages(self.images, rows),
            [self.digests[row] for row in rows],
            self.num_available - len(reasons),
            (*self.left_out, *lost),
            self.notes,
        )


def draw_sample(images: ImageSource, name: str, max_images: int, seed: int, run: RunSettings) -> Sample:
    """Draws at most `max_images` images of a source at random, and hashes them.

    Files that cannot be read at all are left out. Images that cannot be decoded are noticed by the evaluation.

    Args:
        images: The images.
        name: Name in reports.
        max_images: Largest number of images.
        seed: Seed of the draw.
        run: How to compute; processes share the reading.

    Raises:
        ValueError: if no image can be read.
    """
    drawn = sample_images(images, max_images, seed)
    digests, unreadable = digests_of(drawn, run, f"hashing {name}")
    sample = Sample(name, drawn, digests, len(images), notes=tuple(notes_on_damage(images, name)))
    return sample.without({PART: unreadable})
