"""Features of a data set with its labels, and its masks as a backbone sees them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.data.labelled.segmentation_folders import SegmentationImages
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.measures import UNLABELLED
from stellar_hub.modeling.image_geometry import ImageGeometry
from stellar_hub.modeling.safe_text import one_line

_MAX_NAMED = 3


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of `N` images, in memory.

    Attributes:
        features: Features by name, each `(N, ...)`.
        names: Name of each image, for messages.
        labels: Class of each image, `(N,)` int64; None without labels.
        classes: Names of the classes that labels are indices of.

    Raises:
        ValueError: if lengths differ, or a feature is not finite; the message names the first images with such values.
    """

    features: Mapping[str, Tensor]
    names: Sequence[str]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(feature) for name, feature in self.features.items()}
        lengths |= {} if self.labels is None else {"labels": len(self.labels)}
        if any(length != len(self.names) for length in lengths.values()):
            raise ValueError(f"all lengths must be equal, got {len(self.names)} images and {lengths}")
        for name, feature in self.features.items():
            check_finite(name, feature, self.names)

    def __len__(self) -> int:
        return len(self.names)


def check_finite(name: str, feature: Tensor, names: Sequence[str]) -> None:
    """Raises ValueError if a feature `(N, ...)` has values that are NaN or infinite; the message names their images."""
    if feature.isfinite().all():
        return
    bad = (~feature.flatten(1).isfinite().all(dim=1)).nonzero().flatten().tolist()
    shown = ", ".join(one_line(names[index]) for index in bad[:_MAX_NAMED])
    raise ValueError(
        f"the feature {name!r} is not finite for {len(bad)} of {len(names)} images ({shown}"
        f"{', ...' if len(bad) > _MAX_NAMED else ''}): check the weights, or compute in a wider type"
    )


def fit_mask(mask: Tensor, geometry: ImageGeometry) -> Tensor:
    """Resizes and crops a mask like its image; each pixel takes the class of the nearest pixel.

    Args:
        mask: Mask `(H, W)` uint8, in the size of the image.
        geometry: How the image was fitted.

    Returns:
        The mask `(H', W')` uint8; it is 255 outside the image.
    """
    large = F.interpolate(mask[None, None].float(), geometry.resized_size, mode="nearest-exact")[0, 0].to(torch.uint8)
    (top, left), (height, width) = geometry.offset, geometry.output_size
    fitted = torch.full((height, width), UNLABELLED, dtype=torch.uint8)
    inside = large[max(top, 0) : top + height, max(left, 0) : left + width]
    above, before = max(-top, 0), max(-left, 0)
    fitted[above : above + inside.shape[0], before : before + inside.shape[1]] = inside
    return fitted


def fit_masks(backbone: Backbone, images: SegmentationImages, indices: Iterable[int]) -> Tensor:
    """Returns the masks of images in the size of a backbone's input, `(N, H, W)` uint8.

    Raises:
        ValueError: if a mask does not fit its image.
    """
    masks = [images.mask(index) for index in indices]
    return torch.stack([fit_mask(mask, backbone.geometry(*mask.shape)) for mask in masks])
