"""From one image to a sample of pretraining, and from samples to a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from stellar_hub.data.sources.image_source import ImageItem, encoded_and_name
from stellar_hub.data.views.crops import View, ViewSettings, boxes_of_views, plan_views, render_views
from stellar_hub.data.views.photometric import PhotometricSettings, draw_photometric, identity_parameters
from stellar_hub.modeling.image_loading import HUGE_PIXELS, load_reduced

REDUCTIONS = (8, 4, 2)


def read_planned(
    image: ImageItem, settings: ViewSettings, generator: torch.Generator
) -> tuple[Tensor, dict[str, list[View]]]:
    """Draws the views of an image, and reads it at a size that is enough for them.

    With `reduced_decoding`, JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if no view is enlarged by that. So are
    all images of more than `HUGE_PIXELS`, JPEGs or not.

    Args:
        image: Image of a source.
        settings: Number, size and range of the views.
        generator: Generator of all draws.

    Returns:
        The image, `(3, H, W)` uint8, and its "global" and "local" views within it.

    Raises:
        FileNotFoundError: if the path does not exist.
        UnreadableImageError: if it cannot be read as an image. The message names it.
    """
    plans: list[list[View]] = []

    def reduction(height: int, width: int) -> int:
        plans.extend(plan_views(height, width, settings, generator))
        is_reduced = settings.reduced_decoding or height * width > HUGE_PIXELS
        return reduction_factor([*plans[0], *plans[1]]) if is_reduced else 1

    source, name = encoded_and_name(image)
    pixels, (height, width) = load_reduced(source, reduction, name)
    if pixels.shape[1:] != (height, width):
        down, right = pixels.shape[1] / height, pixels.shape[2] / width
        plans[:] = [[view.scaled(down, right, *pixels.shape[1:]) for view in views] for views in plans]
    return to_uint8(pixels), {"global": plans[0], "local": plans[1]}


def reduction_factor(views: Sequence[View]) -> int:
    """Returns how many times smaller an image may be so that no view has to be enlarged: 1, 2, 4 or 8."""
    largest = min(min(view.box[2:]) / view.size for view in views)
    return next((factor for factor in REDUCTIONS if factor <= largest), 1)


class ViewMaker:
    """A maker of samples.

    A sample is a dictionary with these entries:

    - `global_views`: `(V, 3, image_size, image_size)` uint8, before photometric augmentation;
    - `local_views`: `(V', 3, local_size, local_size)` uint8, absent without local views;
    - with `views.device_crops`, instead of these two: `image`, `(3, H, W)` uint8, and `global_boxes`, `local_boxes`,
      `(V, 5)` and `(V', 5)` int64, for `cut_views`;
    - `photometric`: `(V + V', 6)` float32 parameters for `apply_photometric`, global views first;
    - `kept_patches`: result of `draw_kept`, `(V, kept)` int64, absent without `draw_kept`;
    - `num_tokens`: result of `draw_num_tokens`, a scalar int64, absent without `draw_num_tokens`.

    Args:
        views: Settings of the crops.
        photometric: Settings of the photometric augmentation. None: no augmentation.
        draw_kept: Function that draws the patches to keep of the global views. It is called with the sample's
            generator, after all draws of the views.
        draw_num_tokens: Function that draws how many tokens of the image to keep. It is called last.
    """

    def __init__(
        self,
        views: ViewSettings,
        photometric: PhotometricSettings | None,
        draw_kept: Callable[[torch.Generator], Tensor] | None = None,
        draw_num_tokens: Callable[[torch.Generator], Tensor] | None = None,
    ):
        self.views = views
        self.photometric = photometric
        self.draw_kept = draw_kept
        self.draw_num_tokens = draw_num_tokens

    def __call__(self, image: ImageItem, generator: torch.Generator) -> dict[str, Any]:
        """Makes the sample of an image. All draws come from the generator.

        Raises:
            OSError: if the path does not exist.
            ValueError: if the image cannot be read.
        """
        sample: dict[str, Any]
        pixels, plans = read_planned(image, self.views, generator)
        if self.views.device_crops:
            sample = {"image": pixels}
            sample |= {f"{kind}_boxes": boxes_of_views(views) for kind, views in plans.items() if views}
        else:
            sample = {f"{kind}_views": render_views(pixels, views) for kind, views in plans.items() if views}
        sample["photometric"] = self._draw_photometric(generator)
        if self.draw_kept is not None:
            sample["kept_patches"] = self.draw_kept(generator)
        if self.draw_num_tokens is not None:
            sample["num_tokens"] = self.draw_num_tokens(generator)
        return sample

    def _draw_photometric(self, generator: torch.Generator) -> Tensor:
        """Draws the parameters of all views, `(V + V', 6)`."""
        num_global = self.views.num_global_views
        num_views = num_global + self.views.num_local_views
        if self.photometric is None:
            return identity_parameters(num_views)
        # Drawn for the global views in any case, so that local views do not depend on `global_views`.
        parameters = draw_photometric(num_views, self.photometric, generator)
        if not self.photometric.global_views:
            parameters[:num_global] = identity_parameters(num_global)
        return parameters


def to_uint8(image: Tensor) -> Tensor:
    """Converts floats in [0, 1] to uint8 by rounding; returns uint8 unchanged."""
    return image if image.dtype == torch.uint8 else image.clamp(0, 1).mul(255).round().to(torch.uint8)


class ImagesOfManySizes(list[Tensor]):
    """A list of tensors of one dtype that travels between processes as one tensor.

    Each tensor on its way holds a file descriptor until it is freed, and a process may have about 1000.
    """

    def __reduce__(self) -> Any:
        if not self:
            return ImagesOfManySizes, ()
        return _unpack_images, (torch.cat([image.flatten() for image in self]), [image.shape for image in self])

    def __copy__(self) -> "ImagesOfManySizes":
        return ImagesOfManySizes(self)


def _unpack_images(packed: Tensor, shapes: Sequence[torch.Size]) -> ImagesOfManySizes:
    parts = packed.split([shape.numel() for shape in shapes])
    return ImagesOfManySizes(part.view(shape) for part, shape in zip(parts, shapes, strict=True))


def collate_samples(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacks the tensors of samples to a batch.

    Returns:
        The entries of `ViewMaker` with a batch dimension first, such as `global_views` `(B, V, 3, H, W)`, and

        - `kept_patches`: `(B * V, kept)`, view index fastest;
        - `images`: list of one image per sample, if the device cuts the views;
        - `paths`: list of one path per sample;
        - `skipped`: list of the entries of all samples.
    """
    names = [name for name, value in samples[0].items() if isinstance(value, Tensor) and name != "image"]
    # `default_collate` stacks into shared memory when a worker calls it, which saves a copy.
    batch: dict[str, Any] = {name: default_collate([sample[name] for sample in samples]) for name in names}
    if "kept_patches" in batch:
        batch["kept_patches"] = batch["kept_patches"].flatten(0, 1)
    if "image" in samples[0]:  # of different sizes
        batch["images"] = ImagesOfManySizes(sample["image"] for sample in samples)
    batch["paths"] = [sample["path"] for sample in samples]
    batch["skipped"] = [entry for sample in samples for entry in sample["skipped"]]
    return batch
