"""The settings of an image processor: which exist, and which sizes fit together."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from .limits import check_limit
from .safe_text import one_line

# What files of processors hold beside settings, and what `from_pretrained` of transformers takes beside them.
KEYS_OF_FILES = ("auto_map", "feature_extractor_type", "image_processor_type", "processor_class")
OPTIONS_OF_LOADING = (
    *("cache_dir", "code_revision", "force_download", "image_processor_filename", "local_files_only", "proxies"),
    *("resume_download", "return_unused_kwargs", "revision", "subfolder", "token", "trust_remote_code"),
    *("use_auth_token", "use_fast", "user_agent", "backend", "dtype", "torch_dtype"),
)


def refuse_unknown(kwargs: dict[str, Any], known: Sequence[str]) -> None:
    """Raises TypeError for a keyword that is none of `known`."""
    for key in kwargs:
        if key not in known and not key.startswith("_"):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"the image processor got an unexpected keyword argument {key!r}{hint}")


def with_image_size(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns settings with `image_size` written as `size` and `crop_size`.

    Raises:
        ValueError: if it is no size, or `size` or `crop_size` is given as well.
    """
    image_size = kwargs.get("image_size")
    kwargs = {key: value for key, value in kwargs.items() if key != "image_size"}
    if image_size is None:
        return kwargs
    if kwargs.get("size") is not None or kwargs.get("crop_size") is not None:
        raise ValueError("image_size sets size and crop_size: pass either image_size, or size and crop_size")
    if isinstance(image_size, Mapping):
        image_size = (image_size.get("height"), image_size.get("width"))
    sides = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        raise ValueError(
            f"image_size must be a side or (height, width) in pixels, got {one_line(repr(image_size), 80)}"
        )
    height, width = sides
    return kwargs | {
        "size": {"shortest_edge": round(256 * max(sides) / 224)},
        "crop_size": {"height": height, "width": width},
    }


def check_sizes(settings: dict[str, Any]) -> None:
    """Raises ValueError if the sizes of a processor do not fit together."""
    size, crop_size, patch_size = dict(settings["size"]), settings["crop_size"], settings["patch_size"]
    if "shortest_edge" not in size:
        raise ValueError(
            f'size must be {{"shortest_edge": pixels}}, got {size}: crop_size has height and width; '
            "image_size sets both together"
        )
    crop = (crop_size.height, crop_size.width)
    if None in crop or min(crop) < 1:
        raise ValueError(f'crop_size must be {{"height": pixels, "width": pixels}}, got {dict(crop_size)}')
    check_limit("image_pixels", crop[0] * crop[1], "an image of the crop_size")
    if not isinstance(patch_size, int):
        return  # `preprocess` says so
    if patch_size < 1:
        raise ValueError(f"patch_size must be at least 1, got {patch_size}")
    if crop[0] % patch_size or crop[1] % patch_size:
        raise ValueError(f"image_size and crop_size must be multiples of the patch size {patch_size}, got {crop}")
    is_cropped = settings["fit"] == "crop" and settings["do_resize"] and settings["do_center_crop"]
    edge = size["shortest_edge"]
    if is_cropped and not min(crop) <= edge < 2 * max(crop):
        nearest = max(1, round(edge / patch_size)) * patch_size
        raise ValueError(
            f"size and crop_size do not fit together: the model would see {crop[0]} x {crop[1]} pixels of an image "
            f"whose shortest side is {edge}. Pass image_size={nearest} or image_size={crop} alone, which sets both"
        )
