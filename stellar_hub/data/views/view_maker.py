"""From one encoded image to its views and all that is drawn for them."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from stellar_hub.data.sources import EncodedImage, read_image
from stellar_hub.data.sources.image_source import ImageItem, open_undecoded
from stellar_hub.data.views.crops import View, ViewSettings, plan_views, render_views
from stellar_hub.data.views.device_crops import as_boxes
from stellar_hub.data.views.photometric import PhotometricSettings, draw_photometric, identity_parameters
from stellar_hub.modeling.image_loading import decode_image, pil_to_rgb, upright_size

REDUCTIONS = (8, 4, 2)

Plan = Callable[[int, int], Sequence[View]]  # the views of an image of this height and width


def read_for_views(image: ImageItem, plan: Plan) -> tuple[Tensor, tuple[int, int]]:
    """Read an image at a size that is enough for its views.

    Args:
        image: What a source gives.
        plan: Called once with the image's height and width, upright.

    Returns:
        The image, `(3, H, W)`, and its height and width in the file, upright. No view's part is smaller at the size
        read than it will be shown; images that are no JPEGs, or whose views need all pixels, are read whole.

    Raises:
        FileNotFoundError: if it is a path to nothing.
        ValueError: if it is no readable image; it is named.
    """
    name = str(image)
    if not isinstance(image, EncodedImage) and not os.path.isfile(image):
        read_image(image)  # says what is wrong
    with open_undecoded(image) as opened:
        height, width = upright_size(opened, name)
        factor = reduction(plan(height, width))
        if opened.format == "JPEG" and factor > 1:
            opened.draft(None, (opened.width // factor, opened.height // factor))
        return pil_to_rgb(decode_image(opened, name), name), (height, width)


def reduction(views: Sequence[View]) -> int:
    """How many times smaller an image may be so that no view has to be enlarged for it: 1, 2, 4 or 8."""
    room = min(min(view.box[2:]) / view.size for view in views)
    return next((factor for factor in REDUCTIONS if factor <= room), 1)


class ViewMaker:
    """Makes samples, dictionaries with these entries.

    - `global_views`: `(V, 3, image_size, image_size)` uint8, before photometric augmentation;
    - `local_views`: `(V', 3, local_size, local_size)` uint8; absent without local views;
    - with `views.device_crops` in place of these two: `image`, `(3, H, W)` uint8, and `global_boxes`, `local_boxes`,
      `(V, 5)` and `(V', 5)` int64, for `cut_views`;
    - `photometric`: `(V + V', 6)` float32 parameters for `apply_photometric`, global views first;
    - `kept_patches`: what `draw_kept` gave, `(V, kept)` int64; absent without it.

    Args:
        views: How views are cropped.
        photometric: How they are changed; None leaves all as they are.
        draw_kept: Draws the patches to keep of the global views; called last, with the sample's generator.
    """

    def __init__(
        self,
        views: ViewSettings,
        photometric: PhotometricSettings | None,
        draw_kept: Callable[[torch.Generator], Tensor] | None = None,
    ):
        self.views = views
        self.photometric = photometric
        self.draw_kept = draw_kept

    def __call__(self, image: ImageItem, generator: torch.Generator) -> dict[str, Any]:
        """The sample of an image; all draws are of the generator.

        Raises:
            OSError: if the image is a path to nothing.
            ValueError: if it cannot be read.
        """
        sample: dict[str, Any]
        if self.views.device_crops:
            pixels, plans = self._planned(image, generator)
            sample = {"image": pixels}
            sample |= {f"{kind}_boxes": as_boxes(views) for kind, views in plans.items() if views}
        else:
            sample = self._rendered(image, generator)
        sample["photometric"] = self._draw_photometric(generator)
        if self.draw_kept is not None:
            sample["kept_patches"] = self.draw_kept(generator)
        return sample

    def _draw_photometric(self, generator: torch.Generator) -> Tensor:
        num_global = self.views.num_global_views
        num_views = num_global + self.views.num_local_views
        if self.photometric is None:
            return identity_parameters(num_views)
        # Drawn for the global views in any case, so that local views do not depend on that switch.
        parameters = draw_photometric(num_views, self.photometric, generator)
        if not self.photometric.global_views:
            parameters[:num_global] = identity_parameters(num_global)
        return parameters

    def _rendered(self, image: ImageItem, generator: torch.Generator) -> dict[str, Tensor]:
        """Views by their names, of an image that can be read."""
        pixels, plans = self._planned(image, generator)
        return {f"{kind}_views": render_views(pixels, views) for kind, views in plans.items() if views}

    def _planned(self, image: ImageItem, generator: torch.Generator) -> tuple[Tensor, dict[str, list[View]]]:
        """An image as bytes, and its global and local views."""
        plans: list[list[View]] = []

        def plan(height: int, width: int) -> list[View]:
            plans.extend(plan_views(height, width, self.views, generator))
            return [*plans[0], *plans[1]]

        if not self.views.reduced_decoding:
            pixels = as_bytes(read_image(image))
            plan(*pixels.shape[1:])
        else:
            pixels, (height, width) = read_for_views(image, plan)
            pixels = as_bytes(pixels)
            down, right = pixels.shape[1] / height, pixels.shape[2] / width
            plans[:] = [[view.scaled(down, right, *pixels.shape[1:]) for view in views] for views in plans]
        return pixels, {"global": plans[0], "local": plans[1]}


def as_bytes(image: Tensor) -> Tensor:
    """Floats in [0, 1] to uint8, rounded; uint8 as it is."""
    return image if image.dtype == torch.uint8 else image.clamp(0, 1).mul(255).round().to(torch.uint8)


def collate_samples(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples to a batch: views and parameters stacked, `(B, V, 3, H, W)` and the like.

    Returns:
        The samples' tensors by their names, `kept_patches` being `(B * V, kept)`, view index fastest; `images`, where
        the device cuts the views, and `paths`, one for each sample; `skipped`, those of all samples in one list.
    """
    names = [name for name, value in samples[0].items() if isinstance(value, Tensor) and name != "image"]
    # `default_collate` stacks into shared memory when a worker calls it, which saves a copy.
    batch: dict[str, Any] = {name: default_collate([sample[name] for sample in samples]) for name in names}
    if "kept_patches" in batch:
        batch["kept_patches"] = batch["kept_patches"].flatten(0, 1)
    if "image" in samples[0]:  # of different sizes
        batch["images"] = [sample["image"] for sample in samples]
    batch["paths"] = [sample["path"] for sample in samples]
    batch["skipped"] = [entry for sample in samples for entry in sample["skipped"]]
    return batch
