"""What every evaluated model is to the protocols: it prepares images, and names the features it makes of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stellar_hub.data.sources.image_source import ImageItem, read_image
from stellar_hub.modeling import StellarImageProcessor
from stellar_hub.modeling.image_geometry import ImageGeometry
from stellar_hub.modeling.image_processing_stellar import plan_geometry


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global generator starts from the seed; afterwards it goes on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def fetching(name: str, local: bool) -> Iterator[None]:
    """Turn the many ways in which fetching weights fails into one line.

    Args:
        name: The model.
        local: Whether nothing has to be fetched: then errors stay as they are.

    Raises:
        OSError: if something inside fails, saying what would work without a network.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if local:
            raise
        reason = " ".join(str(error).split())
        short = reason if len(reason) <= 160 else f"{reason[:157]}..."
        raise OSError(
            f"the weights of {name} could not be fetched ({short or type(error).__name__}); without a network name "
            f"{name}:random for random weights, or {name}:PATH for weights in a file"
        ) from error


# One vector per image, or a set of vectors.
POOLINGS = {
    "pooled": "mean of the sparse tokens S, (d,)",
    "cls": "cls token, (d,)",
    "patches_mean": "mean of the patch features, (d,)",
    "S": "the sparse tokens themselves, (r, d), compared by matching",
    "pixels": "the image averaged down, (768,)",
}
# One vector per patch.
DENSE = {
    "patches": "patch features, (n, d)",
    "Z": "the low-rank product L S, (n, d)",
    "L": "the localization maps, (n, r)",
}


@dataclass(frozen=True)
class BackboneFacts:
    """What tells one evaluated model from another; all of it stands in the report.

    Attributes:
        name: As it was asked for.
        kind: "stellar", "timm", "transformers" or "pixels".
        weights: Where they come from, in words.
        revision: Commit of the Hub repository, where known.
        sha256: Of all weights, names, shapes and types included.
        num_parameters: How many there are.
        preprocessing: How an image becomes the network's input.
        seed: Of random weights; None for others.
    """

    name: str
    kind: str
    weights: str
    revision: str | None
    sha256: str
    num_parameters: int
    preprocessing: dict[str, Any]
    seed: int | None = None


class Backbone(ABC):
    """A frozen network with a way to prepare images.

    Args:
        facts: What it is.
        network: In evaluation mode.
        processor: Brings images to the network's size; values stay in [0, 1].

    Attributes:
        poolings: The features of `POOLINGS` it has, the usual one first.
        dense: The features of `DENSE` it has, the usual one first.
    """

    poolings: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()

    def __init__(self, facts: BackboneFacts, network: nn.Module, processor: StellarImageProcessor):
        self.facts = facts
        self.network = network
        self.processor = processor
        self.device = torch.device("cpu")

    @property
    def name(self) -> str:
        """As it was asked for."""
        return self.facts.name

    def to(self, device: str) -> None:
        """Move the network."""
        self.device = torch.device(device)
        self.network.to(device)

    def geometry(self, height: int, width: int) -> ImageGeometry:
        """How an image of this size is brought to the network's."""
        processor = self.processor
        return plan_geometry(
            torch.Size((3, height, width)),
            processor.size,
            processor.crop_size,
            processor.fit,
            processor.patch_size,
            processor.do_resize,
            processor.do_center_crop,
        )

    @abstractmethod
    def grid_size(self) -> tuple[int, int]:
        """Patches `(h, w)` of the network's input."""

    @abstractmethod
    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Features of prepared images `(B, 3, H, W)`, each with the batch as its first dimension."""

    def choose(self, wanted: Iterable[str], offered: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the features wanted that it has; the usual one if it has none of them."""
        return tuple(name for name in wanted if name in offered) or offered[:1]


def prepare_image(processor: StellarImageProcessor, image: ImageItem) -> Tensor:
    """An image as a network's input, `(3, H, W)` in [0, 1]."""
    return processor(read_image(image))["pixel_values"][0]


def square_processor(shortest_edge: int, side: int, patch_size: int = 1) -> StellarImageProcessor:
    """Shortest side to `shortest_edge` pixels, then the centre of `side` x `side`."""
    options: dict[str, Any] = {
        "size": {"shortest_edge": shortest_edge},
        "crop_size": {"height": side, "width": side},
        "patch_size": patch_size,
    }
    return StellarImageProcessor(**options)


def preprocessing_of(
    processor: StellarImageProcessor, mean: Sequence[float] = (), std: Sequence[float] = ()
) -> dict[str, Any]:
    """The settings that decide what a network sees, for reports and for the names of cached features."""
    return {
        "resize_shortest_edge": int(processor.size["shortest_edge"]),
        "crop": [int(processor.crop_size["height"]), int(processor.crop_size["width"])],
        "fit": processor.fit,
        "interpolation": "bicubic, antialiased, uint8",
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
    }
