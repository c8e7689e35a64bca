"""Augmented views of images, the same in every run and for every model."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from stellar_hub.data.random_numbers import sample_generator
from stellar_hub.data.sources.image_source import ImageItem, read_image
from stellar_hub.data.views.crops import ViewSettings, draw_views
from stellar_hub.data.views.photometric import PhotometricSettings, apply_photometric, draw_photometric
from stellar_hub.modeling import StellarImageProcessor


@dataclass(frozen=True)
class AugmentedView:
    """One of several views of each image: a crop, perhaps mirrored, and changed colours.

    Attributes:
        number: Which view; views of different numbers are drawn independently.
        seed: Of the draws.
        area: Smallest and largest part of the image that it shows.
        flip_probability: Of mirroring it.
        jitter: Brightness, contrast and saturation change by a factor within 1 ± this.
    """

    number: int
    seed: int = 0
    area: tuple[float, float] = (0.5, 1.0)
    flip_probability: float = 0.5
    jitter: float = 0.2

    def prepare(self, processor: StellarImageProcessor, image: ImageItem, index: int) -> Tensor:
        """The view of an image in a network's size, `(3, H, W)` in [0, 1].

        Raises:
            ValueError: if the image cannot be read, or the network's input is not square.
        """
        height, width = processor.crop_size["height"], processor.crop_size["width"]
        if height != width:
            raise ValueError(f"views are square, and the network takes {height} x {width} pixels")
        pixels = read_image(image)
        pixels = pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().to(torch.uint8)
        generator = sample_generator(self.seed, self.number, index)
        views, _ = draw_views(pixels, self._crops(height), generator)
        parameters = draw_photometric(1, self._colors(), generator)
        return apply_photometric(views.float() / 255, parameters)[0]

    def facts(self) -> dict[str, Any]:
        """All settings, for reports and for the names of cached features."""
        return asdict(self)

    def _crops(self, side: int) -> ViewSettings:
        return ViewSettings(side, side, 1, 0, self.area, (0.1, 0.2), self.flip_probability)

    def _colors(self) -> PhotometricSettings:
        return PhotometricSettings(True, self.jitter, self.jitter, self.jitter, 0.0, 1.0, 0.0, 0.0, (0.1, 0.2), 3)
