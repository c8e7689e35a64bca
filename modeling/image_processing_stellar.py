"""The image processor: from images of any kind to `pixel_values` in [0, 1], and from `L` back to the image's pixels."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs

from .config_checks import is_model_folder, read_json_object, refuse_empty_folder
from .configuration_stellar import StellarConfig
from .image_fitting import FitSettings, read_fitted
from .image_geometry import Fit, ImageGeometry
from .image_loading import ImageInput, load_reduced, load_rgb, own_name
from .image_settings import (
    KEYS_OF_FILES,
    OPTIONS_OF_LOADING,
    check_sizes,
    check_values,
    refuse_unknown,
    with_image_size,
)
from .localization_maps import maps_of_image, overlay_assignment, overlay_token, resample_maps, unpack_maps
from .pretrained_names import check_is_name, published_config, resolve_pretrained
from .safe_paths import refuse_file
from .safe_text import one_line, refuse_keywords
from .saved_folder import SAVE_OPTIONS_OF_PROCESSORS

OPTIONS_OF_AUTO_CLASSES = ("_commit_hash", "_from_auto", "_from_pipeline")
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")

logger = logging.getLogger(__name__)


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
    apply_icc_profile (`bool`, *optional*, defaults to `True`):
        Whether the colour profile of a file is applied, so that the model sees sRGB. False takes the numbers as they
        are.
    """

    fit: str
    patch_size: int
    fill_value: float | int
    return_geometry: bool
    apply_icc_profile: bool


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
    # Both are read by `_fit_settings`: each image is fitted as soon as it is read.
    do_resize = True  # trf-ignore: TRF016
    do_center_crop = True  # trf-ignore: TRF016
    do_rescale = True
    do_normalize = False  # trf-ignore: TRF016  # another value is refused
    do_convert_rgb = True
    fit: Fit = "crop"
    patch_size = 16
    fill_value = 0.5
    return_geometry = False
    apply_icc_profile = True

    def __init__(self, **kwargs: Any):
        """Makes a processor.

        Args:
            **kwargs: Its settings, and `image_size`, the size of the model's input in pixels, `(height, width)` or the
                side of a square. It sets `size` and `crop_size` together.

        Raises:
            TypeError: if a setting does not exist.
            ValueError: if a value is not allowed, or sizes do not fit together.
        """
        refuse_unknown(kwargs, _settings(), KEYS_OF_FILES)
        passed = (*_settings(), "auto_map")  # with it, a saved processor says where its code is
        given = {key: value for key, value in kwargs.items() if value is not None and key in passed}
        super().__init__(**with_image_size(given))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Loads a processor by the model's name ("stellar-b16"), from a folder, or from a Hub repository.

        A folder of the same name is preferred. The published original files and the checkpoints of a training run have
        no processor: it is then built from the model's size.

        Args:
            pretrained_model_name_or_path: Name of a model, a folder, or a repository id.
            **kwargs: Settings to change, such as `image_size=448`, and options of
                `transformers.ImageProcessingMixin.from_pretrained`.

        Raises:
            OSError: if there is no such processor.
            TypeError: if a setting does not exist.
            ValueError: if a value is not allowed, or sizes do not fit together.
        """
        if not kwargs.get("return_unused_kwargs"):
            refuse_unknown(kwargs, _settings(), (*OPTIONS_OF_LOADING, *OPTIONS_OF_AUTO_CLASSES))
        of_models = ("dtype", "torch_dtype")
        kwargs = with_image_size({key: value for key, value in kwargs.items() if key not in of_models})
        check_is_name(pretrained_model_name_or_path)
        name = resolve_pretrained(pretrained_model_name_or_path)
        folder = Path(name, kwargs.get("subfolder") or "")
        files = [folder / file for file in PROCESSOR_FILES if (folder / file).exists()]
        if published_config(name) is not None or (not files and is_model_folder(folder)):
            derived = cls.from_config(StellarConfig.from_pretrained(folder if folder.exists() else name))
            # A dictionary drops keywords that are not settings, such as `token`; the processor must not keep them.
            return cls.from_dict(derived.to_dict(), **kwargs)
        for path in files:
            read_json_object(path)
        if not files:
            refuse_empty_folder(folder)
        try:
            return super().from_pretrained(name, **kwargs)
        except (StrictDataclassError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = one_line(error.__cause__ or error)
            raise ValueError(f"the processor of {one_line(name)}: {reason}") from error

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Saves the settings as preprocessor_config.json; it creates the folder, and refuses unknown keywords."""
        refuse_file(save_directory)
        refuse_keywords("save_pretrained of a processor", kwargs, SAVE_OPTIONS_OF_PROCESSORS)
        return super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Makes a processor from the settings in a file; settings that do not exist are passed over with a warning."""
        known = (*KEYS_OF_FILES, *_settings())
        unknown = [repr(key) for key in image_processor_dict if key not in known]
        if unknown:  # perhaps of a newer release
            logger.warning(
                "the processor's file has settings that do not exist and are passed over: %s",
                one_line(", ".join(unknown)),
            )
        return super().from_dict(
            {key: image_processor_dict[key] for key in image_processor_dict if key in known}, **kwargs
        )

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike) -> Self:
        """Makes a processor from a file; settings that do not exist are passed over with a warning."""
        return cls.from_dict(read_json_object(json_file))

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Self:
        """Builds the processor of a [`StellarConfig`]: shortest side to `256 / 224` of its image size, centre crop.

        Args:
            config: The model's configuration.
            **kwargs: Settings that differ from these.
        """
        kwargs = with_image_size(kwargs)
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
            images: A path, the bytes or the open file of an image, a PIL image, an array or a tensor; a list of these;
                or an array or tensor with a batch dimension.
            **kwargs: Settings of the processor for this call, `image_size` among them, and `return_tensors="pt"`, which
                raises an error if the results have different sizes. Without it, results of different sizes are
                returned as a list.

        Returns:
            A dictionary with `pixel_values`, `(B, 3, H, W)` in [0, 1]. With `return_geometry=True` also
            `original_sizes`, `(B, 2)`, and `crop_boxes`, `(B, 4)`: top, left, bottom, right in the original's pixels.

        Raises:
            FileNotFoundError: if a path does not exist.
            TypeError: if an item is not an image, its values have a wrong type, or a setting does not exist.
            ValueError: if an image cannot be read (it is named), values are out of range, or settings do not fit.
        """
        return self.preprocess(images, **kwargs)

    def preprocess(self, images: ImageInput | Sequence[ImageInput], *args: Any, **kwargs: Any) -> BatchFeature:
        """Prepares images as a call of the processor does."""
        refuse_unknown(kwargs, _settings())
        check_values(kwargs)  # before transformers does, in errors of several lines
        changed = {key: value for key, value in with_image_size(kwargs).items() if value is not None}
        return super().preprocess(images, *args, **changed)

    def fetch_images(self, images: Any) -> Any:
        """Returns the images unchanged, because `process_image` opens paths."""
        return images

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[ImageInput]:
        is_batch = isinstance(images, np.ndarray | Tensor) and images.ndim == 4
        flat: list[ImageInput] = list(images) if isinstance(images, list | tuple) or is_batch else [images]
        if not flat:
            raise ValueError("images is empty: pass at least one image")
        if any(isinstance(image, list | tuple) for image in flat):
            raise TypeError("images must be one image or a flat list of images, got a list of lists")
        return flat

    def process_image(self, image: ImageInput, **kwargs: Any) -> Tensor:
        """Reads one image as RGB, `(3, H, W)`, uint8 or float32; see `load_rgb`."""
        return load_rgb(image, apply_icc_profile=kwargs.get("apply_icc_profile", self.apply_icc_profile)).cpu()

    def fit_image(self, image: ImageInput, name: str | None = None) -> tuple[Tensor, ImageGeometry]:
        """Reads one image and fits it with this processor's own settings; it is not rescaled to [0, 1].

        Args:
            image: A path, the bytes or the open file of an image, a PIL image, an array or a tensor.
            name: Name of the image in errors; None takes the path.

        Returns:
            Its pixels, `(3, h, w)`, uint8 or float32 in [0, 1], and how it was resized and cropped.
        """
        return read_fitted(image, self._fit_settings(), name)

    def _prepare_image_like_inputs(  # each image is fitted as soon as it is read, so that one is held in full size
        self, images: Any, *args: Any, expected_ndims: int = 3, **kwargs: Any
    ) -> list[tuple[Tensor, ImageGeometry]]:
        settings = self._fit_settings(**kwargs)
        flat = self._prepare_images_structure(images)
        return [
            read_fitted(
                image, settings, own_name(image) or (f"image {number} of {len(flat)}" if len(flat) > 1 else None)
            )
            for number, image in enumerate(flat, 1)
        ]

    def _fit_settings(self, **changed: Any) -> FitSettings:
        """Returns the settings that decide about pixels, those of one call before the processor's own."""
        own = {name: getattr(self, name) for name in StellarImageProcessorKwargs.__annotations__}
        setting = own | changed
        crop = setting["crop_size"]
        output: tuple[int, int] | None = (int(crop["height"]), int(crop["width"]))
        if setting["fit"] == "crop" and not setting["do_center_crop"]:
            output = None
        return FitSettings(
            fit=setting["fit"],
            shortest_edge=int(setting["size"]["shortest_edge"]) if setting["do_resize"] else None,
            output_size=output,
            patch_size=setting["patch_size"],
            fill_value=setting["fill_value"],
            apply_icc_profile=setting["apply_icc_profile"],
        )

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        check_values(kwargs)
        kwargs |= {"resample": type(self).resample, "device": None}  # one spelling, which JSON has
        kwargs = super()._standardize_kwargs(**kwargs)
        check_sizes(kwargs)
        return kwargs

    def _preprocess(
        self,
        images: list[tuple[Tensor, ImageGeometry]],
        do_rescale: bool,
        return_geometry: bool,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        fitted, plans = [image.cpu() for image, _ in images], [plan for _, plan in images]
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
        settings = self._fit_settings()
        return settings.plan(*load_reduced(image, settings.reduction)[1])

    def geometry_of_shape(self, image_shape: torch.Size) -> ImageGeometry:
        """Returns how this processor, with its own settings, resizes and crops an image of shape `(3, H, W)`."""
        return self._fit_settings().plan(*image_shape[-2:])

    def post_process_localization(
        self,
        localization: Tensor | tuple[Tensor, Tensor],
        original_sizes: Any,
        crop_boxes: Any,
        grid_size: tuple[int, int] | None = None,
    ) -> list[Tensor]:
        """Resamples `L` to the original's pixels.

        Args:
            localization: `L`, `(B, n, r)`, or the whole encoding.
            original_sizes: Height and width of each original, `(B, 2)`, from `return_geometry=True`.
            crop_boxes: Box of each original that the model saw, `(B, 4)`, from `return_geometry=True`.
            grid_size: Rows and columns `(h, w)` of the patches. None means those of the encoding, or a square grid.

        Returns:
            One float32 tensor `(r, H, W)` per image, in [0, 1], with 0 outside of the crop box.

        Raises:
            ValueError: if `L` does not have three dimensions, or the numbers of images, sizes and boxes differ.
        """
        localization, grid_size = unpack_maps(localization, grid_size)
        counts = (len(localization), len(original_sizes), len(crop_boxes))
        if localization.ndim != 3 or len(set(counts)) > 1:
            raise ValueError(
                "post_process_localization needs L of shape (B, n, r), B sizes and B boxes, "
                f"got {tuple(localization.shape)}, {counts[1]} sizes and {counts[2]} boxes"
            )
        sizes, boxes = (torch.as_tensor(each).tolist() for each in (original_sizes, crop_boxes))
        return [
            resample_maps(maps, tuple(size), tuple(box), grid_size)
            for maps, size, box in zip(localization, sizes, boxes, strict=True)
        ]

    def overlay(
        self, image: ImageInput, localization: Tensor | tuple[Tensor, Tensor], token: int | None = None
    ) -> Image.Image:
        """Draws `L` over the original image, in its own pixels.

        Args:
            image: The image that was encoded, after this processor prepared it with its own settings.
            localization: `L` of the image, `(n, r)` or `(1, n, r)`, or its whole encoding.
            token: Number of the token whose map is drawn, from its lowest value (dim) to its highest (bright). None
                gives each pixel the colour of its strongest token.

        Returns:
            An RGB image of the original's size. Parts that the model did not see are dim.

        Raises:
            ValueError: if `L` does not fit this image's grid, or the token does not exist.
        """
        pixels = load_rgb(image, apply_icc_profile=self.apply_icc_profile)
        plan = self.geometry_of_shape(pixels.shape)
        grid = (plan.output_size[0] // self.patch_size, plan.output_size[1] // self.patch_size)
        maps = maps_of_image(localization, grid)
        if token is None:
            return overlay_assignment(pixels, maps, plan.crop_box, grid)
        return overlay_token(pixels, maps, token, plan.crop_box, grid)


def _settings() -> tuple[str, ...]:
    """The names of all settings of a processor, and `image_size`, which sets two of them."""
    return (*StellarImageProcessorKwargs.__annotations__, "image_size")


__all__ = ["StellarImageProcessor"]
