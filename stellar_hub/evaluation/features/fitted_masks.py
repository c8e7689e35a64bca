"""Masks as a backbone sees their pictures: resized and cropped alike."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.data.segmentation_folders import UNLABELLED, SegmentationPictures
from stellar_hub.evaluation.backbones.backbone import Backbone
from stellar_hub.modeling.image_geometry import ImageGeometry


def fit_mask(mask: Tensor, geometry: ImageGeometry) -> Tensor:
    """Carry a mask through a picture's resizing and cropping; each pixel takes the nearest one's class.

    Args:
        mask: `(H, W)` uint8, in the size of the picture.
        geometry: How the picture was fitted.

    Returns:
        `(H', W')` uint8, 255 where there is no picture.
    """
    large = F.interpolate(mask[None, None].float(), geometry.resized_size, mode="nearest-exact")[0, 0].to(torch.uint8)
    (top, left), (height, width) = geometry.offset, geometry.output_size
    fitted = torch.full((height, width), UNLABELLED, dtype=torch.uint8)
    inside = large[max(top, 0) : top + height, max(left, 0) : left + width]
    above, before = max(-top, 0), max(-left, 0)
    fitted[above : above + inside.shape[0], before : before + inside.shape[1]] = inside
    return fitted


def fit_masks(backbone: Backbone, pictures: SegmentationPictures, indices: Iterable[int]) -> Tensor:
    """The masks of pictures as a backbone sees them, `(N, H, W)` uint8.

    Raises:
        ValueError: if one does not fit its picture.
    """
    masks = [pictures.mask(index) for index in indices]
    return torch.stack([fit_mask(mask, backbone.geometry(*mask.shape)) for mask in masks])
