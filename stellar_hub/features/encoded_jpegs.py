"""JPEGs that a worker hands on as they are stored, because the device decodes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stellar_hub.data.jpeg_headers import plain_size
from stellar_hub.modeling import StellarImageProcessor
from stellar_hub.modeling.color_profiles import srgb_transform
from stellar_hub.modeling.image_formats import open_encoded
from stellar_hub.modeling.image_geometry import MAX_ASPECT, ImageGeometry
from stellar_hub.modeling.image_loading import HUGE_PIXELS
from stellar_hub.modeling.image_metadata import SIDEWAYS_ORIENTATIONS, orientation_of


class JpegFacts(NamedTuple):
    """What the header of a JPEG says.

    `stored_size` is the height and width of the stored pixels, `orientation` the EXIF orientation (1 to 8), which turns
    them upright, and `geometry` how the upright image is fitted. `name` is the image's name in errors.
    """

    name: str
    stored_size: tuple[int, int]
    orientation: int
    geometry: ImageGeometry

    @property
    def num_pixels(self) -> int:
        """Number of stored pixels."""
        return self.stored_size[0] * self.stored_size[1]


@dataclass(frozen=True)
class EncodedJpeg:
    """A JPEG: its facts and its bytes."""

    facts: JpegFacts
    data: bytes


@dataclass(frozen=True)
class EncodedJpegs:
    """Some JPEGs of a batch. They travel between processes as one tensor.

    Attributes:
        places: Place of each JPEG among the rows of its batch.
        facts: Facts of each JPEG.
        data: The bytes of all of them, `(N,)` uint8.
        lengths: Number of bytes of each.
    """

    places: Sequence[int]
    facts: Sequence[JpegFacts]
    data: Tensor
    lengths: Sequence[int]

    @classmethod
    def pack(cls, jpegs: dict[int, EncodedJpeg]) -> "EncodedJpegs | None":
        """Packs JPEGs by their places in a batch; None for none."""
        if not jpegs:
            return None
        data = torch.frombuffer(bytearray(b"".join(jpeg.data for jpeg in jpegs.values())), dtype=torch.uint8)
        facts = [jpeg.facts for jpeg in jpegs.values()]
        return cls(list(jpegs), facts, data, [len(jpeg.data) for jpeg in jpegs.values()])

    def parts(self) -> Iterator[tuple[int, JpegFacts, Tensor]]:
        """Yields the place, the facts and the bytes of each JPEG."""
        yield from zip(self.places, self.facts, self.data.split(list(self.lengths)), strict=True)


def for_the_device(data: bytes, name: str, processor: StellarImageProcessor) -> EncodedJpeg | None:
    """Returns an image for the device if its decoder gives what Pillow gives; None sends the image to Pillow.

    A device decodes plain JPEGs (`plain_size`) in sRGB that are not huge, not very long, and have sound metadata.
    """
    stored = plain_size(data)
    if stored is None:
        return None
    try:
        with open_encoded(data, name) as image:
            if image.format != "JPEG" or image.size != stored[::-1]:
                return None
            if processor.apply_icc_profile and srgb_transform(image) is not None:
                return None
            orientation = orientation_of(image)
        upright = stored[::-1] if orientation in SIDEWAYS_ORIENTATIONS else stored
        if stored[0] * stored[1] > HUGE_PIXELS or max(stored) > MAX_ASPECT * min(stored):
            return None
        geometry = processor.geometry_of_shape(torch.Size((3, *upright)))
    except Exception:  # whatever it is, Pillow's path says it in the usual words
        return None
    return EncodedJpeg(JpegFacts(name, stored, orientation, geometry), data)
