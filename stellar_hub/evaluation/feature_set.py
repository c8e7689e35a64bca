"""Features by name with the labels beside them: all that a protocol needs to know of a data set."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.data.labelled.segmentation_folders import SegmentationImages
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.measures import UNLABELLED
from stellar_hub.modeling.image_geometry import ImageGeometry

MAX_NAMED = 3


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of `N` images, in memory.

    Attributes:
        features: By name, each `(N, ...)`.
        names: What to call each image in messages.
        labels: `(N,)` int64; None where there are none.
        classes: What labels are indices into.

    Raises:
        ValueError: if lengths differ, or a feature is not finite: the first images where it is not are named.
    """

    features: Mapping[str, Tensor]
    names: Sequence[str]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(feature) for name, feature in self.features.items()}
        lengths |= {} if self.labels is None else {"labels": len(self.labels)}
        if any(length != len(self.names) for length in lengths.values()):
            raise ValueError(f"there are {len(self.names)} images, and of features {lengths}: lengths must be equal")
        for name, feature in self.features.items():
            check_finite(name, feature, self.names)

    def __len__(self) -> int:
        return len(self.names)


def check_finite(name: str, feature: Tensor, names: Sequence[str]) -> None:
    """Raise ValueError if a feature `(N, ...)` holds NaN or infinite values, naming images where it does."""
    if feature.isfinite().all():
        return
    bad = (~feature.flatten(1).isfinite().all(dim=1)).nonzero().flatten().tolist()
    shown = ", ".join(names[index] for index in bad[:MAX_NAMED])
    raise ValueError(
        f"the feature {name!r} is not finite for {len(bad)} of {len(names)} images ({shown}"
        f"{', ...' if len(bad) > MAX_NAMED else ''}): look at the weights, or compute in a wider type"
    )


def fit_mask(mask: Tensor, geometry: ImageGeometry) -> Tensor:
    """Carry a mask through an image's resizing and cropping; each pixel takes the nearest one's class.

    Args:
        mask: `(H, W)` uint8, in the size of the image.
        geometry: How the image was fitted.

    Returns:
        `(H', W')` uint8, 255 where there is no image.
    """
    large = F.interpolate(mask[None, None].float(), geometry.resized_size, mode="nearest-exact")[0, 0].to(torch.uint8)
    (top, left), (height, width) = geometry.offset, geometry.output_size
    fitted = torch.full((height, width), UNLABELLED, dtype=torch.uint8)
    inside = large[max(top, 0) : top + height, max(left, 0) : left + width]
    above, before = max(-top, 0), max(-left, 0)
    fitted[above : above + inside.shape[0], before : before + inside.shape[1]] = inside
    return fitted


def fit_masks(backbone: Backbone, images: SegmentationImages, indices: Iterable[int]) -> Tensor:
    """The masks of images as a backbone sees them, `(N, H, W)` uint8.

    Raises:
        ValueError: if one does not fit its image.
    """
    masks = [images.mask(index) for index in indices]
    return torch.stack([fit_mask(mask, backbone.geometry(*mask.shape)) for mask in masks])
