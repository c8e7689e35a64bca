"""The image processor: images of any kind to `pixel_values` in [0, 1], and `L`'s maps back onto the image."""

import os
from collections.abc import Sequence
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvF
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs

from .configuration_stellar import StellarConfig
from .image_geometry import Fit, ImageGeometry, fit_geometry
from .image_loading import ImageInput, load_rgb
from .localization_maps import overlay_assignment, overlay_token, resample_maps
from .pretrained_names import published_config, resolve_pretrained


class StellarImageProcessorKwargs(ImagesKwargs, total=False):
    """Options of [`StellarImageProcessor`] beyond those of every image processor.

    fit (`str`, *optional*, defaults to `"crop"`):
        How the image meets the model's size: "crop" (shortest side to `size`, then the centre; the published
        numbers), "aspect" (the whole image, sides rounded to the patch), "pad" (the whole image, with bars).
    patch_size (`int`, *optional*, defaults to 16):
        Side of a patch in pixels; output sides are multiples of it.
    fill_value (`float`, *optional*, defaults to 0.5):
        Grey value in [0, 1] of the bars.
    return_geometry (`bool`, *optional*, defaults to `False`):
        Whether to add `original_sizes` and `crop_boxes`.
    """

    fit: str
    patch_size: int
    fill_value: float | int
    return_geometry: bool


class StellarImageProcessor(TorchvisionBackend):
    """Prepares images for [`StellarModel`]: antialiased bicubic resize and centre crop, values in [0, 1].

    Normalization is not done here but inside the model, so that what `decode` returns lives in the space of
    `pixel_values`. Accepts paths, PIL images, arrays and tensors, alone or in a list: EXIF orientation is applied,
    alpha composited on white, grey, palette, CMYK and 16-bit images converted.

    Resizing always runs on the CPU in uint8 (float32 for float input), so that results do not depend on the device.

    Example:
    ```python
    >>> import numpy as np
    >>> from stellar_hub import StellarImageProcessor

    >>> processor = StellarImageProcessor.from_pretrained("stellar-tiny")
    >>> batch = processor(np.zeros((120, 160, 3), dtype=np.uint8), return_geometry=True)
    >>> batch["pixel_values"].shape, batch["original_sizes"].tolist()
    (torch.Size([1, 3, 64, 64]), [[120, 160]])

    ```
    """

    valid_kwargs = StellarImageProcessorKwargs
    model_input_names = ["pixel_values"]
    resample = PILImageResampling.BICUBIC
    size: Any = {"shortest_edge": 256}
    crop_size: Any = {"height": 224, "width": 224}
    default_to_square = False
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = False
    do_convert_rgb = True
    fit: Fit = "crop"
    patch_size = 16
    fill_value = 0.5
    return_geometry = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Load by name ("stellar-b16"), from a folder, or from a Hub repository; a folder wins.

        For the published files, which bring none, it follows from the model's size.
        """
        if published_config(pretrained_model_name_or_path) is not None:
            derived = cls.from_config(StellarConfig.from_pretrained(pretrained_model_name_or_path))
            # By way of the dictionary: keywords that are no settings, such as a token, must not stay in the processor.
            return cls.from_dict(derived.to_dict(), **kwargs)
        return super().from_pretrained(resolve_pretrained(pretrained_model_name_or_path), **kwargs)

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Self:
        """The processor that fits a [`StellarConfig`]: shortest side `256 / 224` of its image size, centre crop."""
        side = config.image_size
        options = {
            "size": {"shortest_edge": round(256 * side / 224)},
            "crop_size": {"height": side, "width": side},
            "patch_size": config.patch_size,
        }
        return cls(**(options | kwargs))

    def __call__(self, images: ImageInput | Sequence[ImageInput], **kwargs: Any) -> BatchFeature:
        """Prepare one image or several.

        Args:
            images: Paths, PIL images, arrays or tensors; one, a list, or a batch of rank 4.
            **kwargs: Any setting of the processor for this call, and `return_tensors="pt"`. Without it, images that
                come out in one size are stacked all the same.

        Returns:
            `pixel_values`, `(B, 3, H, W)` in [0, 1]; with `return_geometry=True` also `original_sizes`, `(B, 2)`, and
            `crop_boxes`, `(B, 4)`: top, left, bottom, right in the original's pixels.

        Raises:
            FileNotFoundError: if a path does not exist.
            TypeError: if something is no image, or its values are of a wrong type.
            ValueError: if an image cannot be read (it is named), values are out of range, or settings do not fit.
        """
        return super().__call__(images, **kwargs)  # type: ignore[arg-type]  # it takes paths too

    def fetch_images(self, images: Any) -> Any:
        """Paths are opened by `process_image`; here nothing is fetched."""
        return images

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[ImageInput]:
        if isinstance(images, list | tuple) or (
            not isinstance(images, str | os.PathLike | Image.Image) and getattr(images, "ndim", 0) == 4
        ):
            flat = list(images)
        else:
            flat = [images]
        if not flat:
            raise ValueError("no images: pass at least one")
        if any(isinstance(image, list | tuple) for image in flat):
            raise TypeError("images must be one image or a flat list of images, got a list of lists")
        return flat

    def process_image(self, image: ImageInput, **kwargs: Any) -> Tensor:
        """One image to RGB, `(3, H, W)`, uint8 or float32; see `load_rgb`."""
        return load_rgb(image).cpu()

    def _validate_preprocess_kwargs(self, **kwargs: Any) -> None:
        size = dict(kwargs["size"])
        if "shortest_edge" not in size:
            raise ValueError(f'size must be {{"shortest_edge": pixels}}, got {size}; crop_size gives height and width')
        if not 0 <= kwargs["fill_value"] <= 1:
            raise ValueError(f"fill_value must lie in [0, 1], got {kwargs['fill_value']}")
        crop_size, patch_size = kwargs["crop_size"], kwargs["patch_size"]
        if crop_size.height % patch_size or crop_size.width % patch_size:
            raise ValueError(
                f"crop_size {(crop_size.height, crop_size.width)} must be multiples of the patch size {patch_size}"
            )
        # `_preprocess` refuses normalization; the base class would first ask for a mean.
        super()._validate_preprocess_kwargs(**(kwargs | {"do_normalize": False}))

    def _preprocess(
        self,
        images: list[Tensor],
        size: SizeDict,
        crop_size: SizeDict,
        fit: Fit,
        patch_size: int,
        fill_value: float,
        do_resize: bool,
        do_center_crop: bool,
        do_rescale: bool,
        do_normalize: bool,
        return_geometry: bool,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        if do_normalize:
            raise ValueError("do_normalize must stay False: the model normalizes inside")
        plans = [
            plan_geometry(image.shape, size, crop_size, fit, patch_size, do_resize, do_center_crop) for image in images
        ]
        fitted = [apply_geometry(image, plan, fill_value) for image, plan in zip(images, plans, strict=True)]
        if do_rescale:
            fitted = [image.float() / 255 if image.dtype == torch.uint8 else image for image in fitted]
        same_shape = len({(image.shape, image.dtype) for image in fitted}) == 1
        if return_tensors is not None and not same_shape:
            raise ValueError(
                f"the fitted images differ in size or type, {sorted({tuple(i.shape[1:]) for i in fitted})}: "
                'they make no batch. Use fit="crop" or "pad", or process images of one size together'
            )
        data: dict[str, Any] = {"pixel_values": torch.stack(fitted) if same_shape else fitted}
        if return_geometry:
            data["original_sizes"] = torch.tensor([plan.original_size for plan in plans])
            data["crop_boxes"] = torch.tensor([plan.crop_box for plan in plans], dtype=torch.float64)
        return BatchFeature(data=data, tensor_type=return_tensors)

    def geometry(self, image: ImageInput) -> ImageGeometry:
        """How this processor, with its own settings, fits an image."""
        return self.geometry_of_shape(load_rgb(image).shape)

    def geometry_of_shape(self, image_shape: torch.Size) -> ImageGeometry:
        """How this processor, with its own settings, fits an image `(3, H, W)`."""
        return plan_geometry(
            image_shape,
            self.size,
            self.crop_size,
            self.fit,
            self.patch_size,
            self.do_resize,
            self.do_center_crop,
        )

    def post_process_localization(
        self, localization: Tensor, original_sizes: Any, crop_boxes: Any, grid_size: tuple[int, int] | None = None
    ) -> list[Tensor]:
        """Bring `L` to the original's pixels.

        Args:
            localization: `L`, `(B, n, r)`.
            original_sizes: `(B, 2)`, as `return_geometry=True` gives them.
            crop_boxes: `(B, 4)`, likewise.
            grid_size: `(h, w)`; needed where the grid is not square.

        Returns:
            One `(r, H, W)` float32 tensor per image, in [0, 1]; 0 outside of the crop box.

        Raises:
            ValueError: if `L` has another rank, or there is not one size and one box for each image.
        """
        counts = (len(localization), len(original_sizes), len(crop_boxes))
        if localization.ndim != 3 or len(set(counts)) > 1:
            raise ValueError(
                "post_process_localization needs L of shape (B, n, r), B sizes and B boxes, "
                f"got {tuple(localization.shape)}, {counts[1]} sizes and {counts[2]} boxes"
            )
        return [
            resample_maps(maps, tuple(size), tuple(box), grid_size)
            for maps, size, box in zip(
                localization,
                torch.as_tensor(original_sizes).tolist(),
                torch.as_tensor(crop_boxes).tolist(),
                strict=True,
            )
        ]

    def overlay(self, image: ImageInput, localization: Tensor, token: int | None = None) -> Image.Image:
        """Lay `L` over the original image, in its own pixels.

        Args:
            image: The image that was encoded, prepared by this processor with its own settings.
            localization: Its `L`, `(n, r)` or `(1, n, r)`.
            token: The token whose map to show, from its lowest value (dim) to its highest (bright); None colours each
                pixel by the token it belongs to most.

        Returns:
            An RGB image of the original's size; what the model did not see is left dim.

        Raises:
            ValueError: if `L` is not of this image's grid, or there is no such token.
        """
        maps = localization[0] if localization.ndim == 3 and localization.shape[0] == 1 else localization
        plan = self.geometry(image)
        grid = (plan.output_size[0] // self.patch_size, plan.output_size[1] // self.patch_size)
        if maps.ndim != 2 or maps.shape[0] != grid[0] * grid[1]:
            raise ValueError(
                f"localization of shape {tuple(localization.shape)} is not of this image's grid {grid}: "
                f"pass (n, r) with n = {grid[0] * grid[1]}, from pixel_values of this processor"
            )
        pixels = load_rgb(image)
        if token is None:
            return overlay_assignment(pixels, maps, plan.crop_box, grid)
        return overlay_token(pixels, maps, token, plan.crop_box, grid)


def plan_geometry(
    image_shape: torch.Size,
    size: SizeDict,
    crop_size: SizeDict,
    fit: Fit,
    patch_size: int,
    do_resize: bool,
    do_center_crop: bool,
) -> ImageGeometry:
    """The fitting of an image `(3, H, W)` under the processor's options."""
    height, width = image_shape[-2:]
    output = (int(crop_size["height"]), int(crop_size["width"]))
    if fit == "crop" and not do_center_crop:
        output = (height, width)
        if do_resize:
            raise ValueError('do_center_crop=False goes with do_resize=False; fit="aspect" keeps the whole image')
    shortest_edge = int(size["shortest_edge"]) if do_resize else None
    return fit_geometry((height, width), fit, shortest_edge, output, patch_size)


def apply_geometry(image: Tensor, plan: ImageGeometry, fill_value: float) -> Tensor:
    """Resize, crop and pad `(3, H, W)` as planned; antialiased bicubic, floats kept within [0, 1]."""
    if plan.resized_size != plan.original_size:
        image = tvF.resize(image, list(plan.resized_size), interpolation=InterpolationMode.BICUBIC, antialias=True)
        if image.is_floating_point():
            image = image.clamp(0, 1)
    (top, left), (height, width) = plan.offset, plan.output_size
    image = tvF.crop(image, max(top, 0), max(left, 0), min(height, image.shape[1]), min(width, image.shape[2]))
    if top < 0 or left < 0 or image.shape[1:] != (height, width):
        above, before = max(-top, 0), max(-left, 0)
        fill = round(255 * fill_value) if image.dtype == torch.uint8 else fill_value
        padding = [before, above, width - image.shape[2] - before, height - image.shape[1] - above]
        image = tvF.pad(image, padding, fill=fill)
    return image


__all__ = ["StellarImageProcessor"]
