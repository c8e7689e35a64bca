"""Augmented views of images for evaluation, the same in every run and for every model."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from stellar_hub.data.random_numbers import sample_generator
from stellar_hub.data.sources.image_source import ImageItem
from stellar_hub.data.views.crops import ViewSettings, render_views
from stellar_hub.data.views.photometric import PhotometricSettings, apply_photometric, draw_photometric
from stellar_hub.data.views.view_maker import read_planned
from stellar_hub.modeling import StellarImageProcessor


@dataclass(frozen=True)
class AugmentedView:
    """One of several views of each image: a crop, perhaps mirrored, with changed colours.

    Attributes:
        number: Number of the view. Views of different numbers are drawn independently.
        seed: Seed of the draws.
        area: Smallest and largest part of the image's area that the view shows, in (0, 1].
        flip_probability: Probability that the view is mirrored left to right.
        jitter: Largest relative change of brightness, contrast and saturation: their factors are within 1 ± jitter.
    """

    number: int
    seed: int = 0
    area: tuple[float, float] = (0.5, 1.0)
    flip_probability: float = 0.5
    jitter: float = 0.2

    def prepare(self, processor: StellarImageProcessor, image: ImageItem, index: int) -> Tensor:
        """Reads an image and returns its view in the size of the processor, `(3, H, W)` in [0, 1].

        Args:
            processor: Processor of the network that reads the view.
            image: Image of a source.
            index: Index of the image in its source, from which the draws follow.

        Raises:
            ValueError: if the image cannot be read, or the network's input is not square.
        """
        height, width = processor.crop_size["height"], processor.crop_size["width"]
        if height != width:
            raise ValueError(f"views are square, but the network takes {height} x {width} pixels")
        generator = sample_generator(self.seed, self.number, index)
        pixels, plans = read_planned(image, self._view_settings(height), generator)
        views = render_views(pixels, plans["global"])
        parameters = draw_photometric(1, self._photometric_settings(), generator)
        return apply_photometric(views.float() / 255, parameters)[0]

    def facts(self) -> dict[str, Any]:
        """Returns all settings, for reports and for the keys of cached features."""
        return asdict(self)

    def _view_settings(self, side: int) -> ViewSettings:
        return ViewSettings(
            image_size=side,
            local_size=side,
            num_global_views=1,
            num_local_views=0,
            global_area=self.area,
            local_area=(0.1, 0.2),  # there are no local views
            flip_probability=self.flip_probability,
        )

    def _photometric_settings(self) -> PhotometricSettings:
        return PhotometricSettings(
            global_views=True,
            brightness=self.jitter,
            contrast=self.jitter,
            saturation=self.jitter,
            hue=0.0,
            jitter_probability=1.0,
            grayscale_probability=0.0,
            blur_probability=0.0,
            blur_sigma=(0.1, 0.2),  # unused: without blur
            blur_kernel_size=3,
        )
