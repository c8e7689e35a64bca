"""A backbone as the pipeline sees it, whatever library it comes from; raw pixels are the simplest one."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stellar_hub.data.sources.image_source import ImageItem, encoded_and_name
from stellar_hub.features.identity import sha256_of_json, weights_hash
from stellar_hub.features.names import in_table_order
from stellar_hub.features.preparation import check_fixed_size
from stellar_hub.modeling import StellarImageProcessor
from stellar_hub.modeling.image_geometry import ImageGeometry


@dataclass(frozen=True)
class BackboneFacts:
    """What distinguishes one backbone from another; reports hold all of it.

    Attributes:
        name: Name that the user gave.
        kind: "stellar", "timm", "transformers" or "pixels".
        weights: Origin of the weights, in words.
        revision: Commit of the Hub repository, if known.
        sha256: SHA-256 of all weights; empty for a model that was given in memory.
        num_parameters: Number of parameters.
        preprocessing: Settings that turn an image into the network's input.
        seed: Seed of random weights; None for other weights.
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
    """A frozen network and the processor that prepares its images.

    Args:
        facts: Description of the backbone.
        network: Network in evaluation mode.
        processor: Processor that brings images to the network's size; values stay in [0, 1].

    Attributes:
        poolings: Names of its features that compare images, the usual one first.
        dense: Names of its features that compare patches, the usual one first.
        takes_bytes: Whether the network takes uint8 pixels and divides them by 255 itself.
        device: Device of the network.
    """

    poolings: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()
    takes_bytes = False

    def __init__(self, facts: BackboneFacts, network: nn.Module, processor: StellarImageProcessor):
        self.facts = facts
        self.network = network
        self.processor = processor
        self.device = torch.device("cpu")

    @property
    def name(self) -> str:
        """Name that the user gave."""
        return self.facts.name

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of all its features, in the order of the table of features."""
        return in_table_order(dict.fromkeys((*self.poolings, *self.dense)))

    def to(self, device: str) -> None:
        """Moves the network to a device."""
        self.device = torch.device(device)
        self.network.to(device)

    def geometry(self, height: int, width: int) -> ImageGeometry:
        """Returns how an image of this size is fitted to the network's size."""
        return self.processor.geometry_of_shape(torch.Size((3, height, width)))

    @abstractmethod
    def grid_size(self) -> tuple[int, int]:
        """Returns the height and the width of the network's patch grid."""

    @abstractmethod
    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Computes features of prepared images.

        Args:
            pixel_values: Images, `(B, 3, H, W)` in [0, 1]; uint8 as well if `takes_bytes`.
            names: Names of the features.

        Returns:
            Features by name, `(B, ...)` each.
        """

    @torch.inference_mode()
    def feature_shapes(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each feature for one image."""
        blank = torch.zeros(1, 3, *check_fixed_size(self.processor), device=self.device)
        return {name: tuple(feature.shape[1:]) for name, feature in self.features(blank, names).items()}

    def describe_model(self) -> dict[str, Any]:
        """Returns the identity of the model, as the manifest of a store holds it."""
        dtype = next((parameter.dtype for parameter in self.network.parameters()), torch.float32)
        return {
            "kind": self.facts.kind,
            "name": self.name,
            "revision": self.facts.revision,
            "weights_sha256": self.facts.sha256,
            "dtype": str(dtype).removeprefix("torch."),
        }

    def describe_preprocessing(self) -> dict[str, Any]:
        """Returns the settings of the preprocessing and their SHA-256, as the manifest of a store holds them."""
        return {"id": sha256_of_json(self.facts.preprocessing), "settings": self.facts.preprocessing}

    def choose(self, wanted: Iterable[str], offered: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the wanted features that are offered, or the usual one if none of them is."""
        return tuple(name for name in wanted if name in offered) or offered[:1]


class PixelBackbone(Backbone):
    """Images of 128 x 128 pixels, as stellar-tiny sees them, without a network.

    Its features are the image averaged to 16 x 16 pixels, as one vector, and the pixels of each patch of 8 x 8.
    """

    SIDE, PATCH_SIZE, POOLED_SIDE = 128, 8, 16  # in pixels; side and patch are those of stellar-tiny

    poolings = ("pixels",)
    dense = ("patches",)

    @classmethod
    def load(cls, display_name: str = "pixels") -> "PixelBackbone":
        """Returns the backbone; there is nothing to load."""
        processor = square_processor(round(256 * cls.SIDE / 224), cls.SIDE, cls.PATCH_SIZE)
        network = nn.Identity()
        preprocessing = preprocessing_of(processor)
        facts = BackboneFacts(display_name, "pixels", "none", None, weights_hash(network), 0, preprocessing)
        return cls(facts, network, processor)

    def grid_size(self) -> tuple[int, int]:
        """Returns the height and the width of the patch grid."""
        return self.SIDE // self.PATCH_SIZE, self.SIDE // self.PATCH_SIZE

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Returns "pixels" `(B, 768)` and "patches" `(B, 256, 192)`, in [0, 1]."""
        made = {
            "pixels": lambda: F.adaptive_avg_pool2d(pixel_values, self.POOLED_SIDE).flatten(1),
            "patches": lambda: F.pixel_unshuffle(pixel_values, self.PATCH_SIZE).flatten(2).transpose(1, 2),
        }
        return {name: made[name]() for name in names}

    def feature_shapes(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each feature for one image."""
        grid = self.grid_size()
        shapes = {"pixels": (3 * self.POOLED_SIDE**2,), "patches": (grid[0] * grid[1], 3 * self.PATCH_SIZE**2)}
        return {name: shapes[name] for name in names}


def pixel_values_of(processor: StellarImageProcessor, image: ImageItem) -> Tensor:
    """Returns one image as a network's input, `(3, H, W)` in [0, 1]."""
    pixels, _ = processor.fit_image(*encoded_and_name(image))
    return pixels if pixels.is_floating_point() else pixels.float() / 255


def square_processor(shortest_edge: int, side: int, patch_size: int = 1) -> StellarImageProcessor:
    """Returns a processor that resizes the shortest side and crops a square from the centre.

    Args:
        shortest_edge: Length of the shortest side after resizing, in pixels.
        side: Side of the square, in pixels.
        patch_size: Side of a patch, in pixels.
    """
    options: dict[str, Any] = {
        "size": {"shortest_edge": shortest_edge},
        "crop_size": {"height": side, "width": side},
        "patch_size": patch_size,
    }
    return StellarImageProcessor(**options)


def preprocessing_of(
    processor: StellarImageProcessor, mean: Sequence[float] = (), std: Sequence[float] = ()
) -> dict[str, Any]:
    """Returns the settings that decide what a network sees of an image, for reports and manifests."""
    return {
        "resize_shortest_edge": int(processor.size["shortest_edge"]),
        "crop": [int(processor.crop_size["height"]), int(processor.crop_size["width"])],
        "fit": processor.fit,
        "apply_icc_profile": processor.apply_icc_profile,
        "interpolation": "bicubic, antialiased, uint8",
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Starts torch's global generator from a seed inside the block, and restores it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
