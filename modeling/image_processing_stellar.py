"""The image processor: from images of any kind to `pixel_values` in [0, 1], and from `L` back to the image's pixels."""

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
    """Options of [`StellarImageProcessor`] that other image processors do not have.

    fit (`str`, *optional*, defaults to `"crop"`):
        How the image is brought to the model's size. "crop" resizes the shortest side to `size` and keeps the centre,
        as for the published numbers. "aspect" keeps the whole image and rounds its sides to the patch. "pad" keeps the
        whole image and adds bars.
    patch_size (`int`, *optional*, defaults to 16):
        Side of a patch in pixels. Output sides are multiples of it.
    fill_value (`float`, *optional*, defaults to 0.5):
        Grey value of the bars, in [0, 1].
    return_geometry (`bool`, *optional*, defaults to `False`):
        Whether to add `original_sizes` and `crop_boxes` to the output.
    """

    fit: str
    patch_size: int
    fill_value: float | int
    return_geometry: bool


class StellarImageProcessor(TorchvisionBackend):
    """The image processor of [`StellarModel`]: antialiased bicubic resize and centre crop, values in [0, 1].

    The model normalizes inside, not the processor, so that images from `decode` and `pixel_values` have the same
    range. The processor accepts paths, PIL images, arrays and tensors, alone or in a list. It applies EXIF orientation,
    composites alpha on white, and converts grey, palette, CMYK and 16-bit images.

    Resizing always runs on the CPU in uint8, or in float32 for float input, so that results do not depend on the
    device.

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
        """Loads a processor by the model's name ("stellar-b16"), from a folder, or from a Hub repository.

        A folder of the same name is preferred. The published original files have no processor: it is then built from
        the model's size.

        Args:
            pretrained_model_name_or_path: Name of a model, a folder, or a repository id.
            **kwargs: Settings to change, and options of `transformers.ImageProcessingMixin.from_pretrained`.
        """
        if published_config(pretrained_model_name_or_path) is not None:
            derived = cls.from_config(StellarConfig.from_pretrained(pretrained_model_name_or_path))
            # A dictionary drops keywords that are not settings, such as `token`; the processor must not keep them.
            return cls.from_dict(derived.to_dict(), **kwargs)
        return super().from_pretrained(resolve_pretrained(pretrained_model_name_or_path), **kwargs)

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Self:
        """Builds the processor of a [`StellarConfig`]: shortest side to `256 / 224` of its image size, centre crop.

        Args:
            config: The model's configuration.
            **kwargs: Settings that differ from these.
        """
        side = config.image_size
        options = {
            "size": {"shortest_edge": round(256 * side / 224)},
            "crop_size": {"height": side, "width": side},
            "patch_size": config.patch_size,
        }
        return cls(**(options | kwargs))

    def __call__(self, images: ImageInput | Sequence[ImageInput], **kwargs: Any) -> BatchFeature:
        """Prepares one image or several.

        Args:
            images: A path, a PIL image, an array or a tensor; a list of these; or an array or tensor with a batch
                dimension.
            **kwargs: Settings of the processor for this call, and `return_tensors="pt"`, which raises an error if the
                results have different sizes. Without it, results of different sizes are returned as a list.

        Returns:
            A dictionary with `pixel_values`, `(B, 3, H, W)` in [0, 1]. With `return_geometry=True` also
            `original_sizes`, `(B, 2)`, and `crop_boxes`, `(B, 4)`: top, left, bottom, right in the original's pixels.

        Raises:
            FileNotFoundError: if a path does not exist.
            TypeError: if an item is not an image, or its values have a wrong type.
            ValueError: if an image cannot be read (it is named), values are out of range, or settings do not fit.
        """
        return super().__call__(images, **kwargs)  # type: ignore[arg-type]  # it takes paths too

    def fetch_images(self, images: Any) -> Any:
        """Returns the images unchanged, because `process_image` opens paths."""
        return images

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[ImageInput]:
        if isinstance(images, list | tuple) or (
            not isinstance(images, str | os.PathLike | Image.Image) and getattr(images, "ndim", 0) == 4
        ):
            flat = list(images)
        else:
            flat = [images]
        if not flat:
            raise ValueError("images is empty: pass at least one image")
        if any(isinstance(image, list | tuple) for image in flat):
            raise TypeError("images must be one image or a flat list of images, got a list of lists")
        return flat

    def process_image(self, image: ImageInput, **kwargs: Any) -> Tensor:
        """Reads one image as RGB, `(3, H, W)`, uint8 or float32; see `load_rgb`."""
        return load_rgb(image).cpu()

    def _validate_preprocess_kwargs(self, **kwargs: Any) -> None:
        size = dict(kwargs["size"])
        if "shortest_edge" not in size:
            raise ValueError(f'size must be {{"shortest_edge": pixels}}, got {size}; crop_size has height and width')
        if not 0 <= kwargs["fill_value"] <= 1:
            raise ValueError(f"fill_value must be in [0, 1], got {kwargs['fill_value']}")
        crop_size, patch_size = kwargs["crop_size"], kwargs["patch_size"]
        if crop_size.height % patch_size or crop_size.width % patch_size:
            raise ValueError(
                f"crop_size must be multiples of the patch size {patch_size}, got {(crop_size.height, crop_size.width)}"
            )
        # `_preprocess` refuses normalization, but the base class would first ask for a mean.
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
            raise ValueError("do_normalize must be False, because the model normalizes inside")
        plans = [
            plan_geometry(image.shape, size, crop_size, fit, patch_size, do_resize, do_center_crop) for image in images
        ]
        fitted = [apply_geometry(image, plan, fill_value) for image, plan in zip(images, plans, strict=True)]
        if do_rescale:
            fitted = [image.float() / 255 if image.dtype == torch.uint8 else image for image in fitted]
        same_shape = len({(image.shape, image.dtype) for image in fitted}) == 1
        if return_tensors is not None and not same_shape:
            raise ValueError(
                f"the images have different sizes or types, {sorted({tuple(i.shape[1:]) for i in fitted})}, and cannot "
                'be stacked: use fit="crop" or fit="pad", or process images of one size together'
            )
        data: dict[str, Any] = {"pixel_values": torch.stack(fitted) if same_shape else fitted}
        if return_geometry:
            data["original_sizes"] = torch.tensor([plan.original_size for plan in plans])
            data["crop_boxes"] = torch.tensor([plan.crop_box for plan in plans], dtype=torch.float64)
        return BatchFeature(data=data, tensor_type=return_tensors)

    def geometry(self, image: ImageInput) -> ImageGeometry:
        """Returns how this processor, with its own settings, resizes and crops an image."""
        return self.geometry_of_shape(load_rgb(image).shape)

    def geometry_of_shape(self, image_shape: torch.Size) -> ImageGeometry:
        """Returns how this processor, with its own settings, resizes and crops an image of shape `(3, H, W)`."""
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
        """Resamples `L` to the original's pixels.

        Args:
            localization: `L`, `(B, n, r)`.
            original_sizes: Height and width of each original, `(B, 2)`, from `return_geometry=True`.
            crop_boxes: Box of each original that the model saw, `(B, 4)`, from `return_geometry=True`.
            grid_size: Rows and columns `(h, w)` of the patches, which is `encoding.grid_size`; None means a square
                grid.

        Returns:
            One float32 tensor `(r, H, W)` per image, in [0, 1], with 0 outside of the crop box.

        Raises:
            ValueError: if `L` does not have three dimensions, or the numbers of images, sizes and boxes differ.
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
        """Draws `L` over the original image, in its own pixels.

        Args:
            image: The image that was encoded, after this processor prepared it with its own settings.
            localization: `L` of the image, `(n, r)` or `(1, n, r)`.
            token: Number of the token whose map is drawn, from its lowest value (dim) to its highest (bright). None
                gives each pixel the colour of its strongest token.

        Returns:
            An RGB image of the original's size. Parts that the model did not see are dim.

        Raises:
            ValueError: if `L` does not fit this image's grid, or the token does not exist.
        """
        maps = localization[0] if localization.ndim == 3 and localization.shape[0] == 1 else localization
        plan = self.geometry(image)
        grid = (plan.output_size[0] // self.patch_size, plan.output_size[1] // self.patch_size)
        if maps.ndim != 2 or maps.shape[0] != grid[0] * grid[1]:
            raise ValueError(
                f"localization must have shape (n, r) with n = {grid[0] * grid[1]}, for the grid {grid} of this image, "
                f"got {tuple(localization.shape)}: encode the image with pixel_values of this processor"
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
    """Returns how an image of shape `(3, H, W)` is resized and cropped with these settings of a processor."""
    height, width = image_shape[-2:]
    output = (int(crop_size["height"]), int(crop_size["width"]))
    if fit == "crop" and not do_center_crop:
        output = (height, width)
        if do_resize:
            raise ValueError('do_center_crop=False needs do_resize=False; to keep the whole image, use fit="aspect"')
    shortest_edge = int(size["shortest_edge"]) if do_resize else None
    return fit_geometry((height, width), fit, shortest_edge, output, patch_size)


def apply_geometry(image: Tensor, plan: ImageGeometry, fill_value: float) -> Tensor:
    """Resizes, crops and pads an image `(3, H, W)` as planned: antialiased bicubic, floats clamped to [0, 1]."""
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
