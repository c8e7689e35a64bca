"""The settings of an image processor: which exist, what each may be, and which sizes fit together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from torchvision.transforms.v2 import InterpolationMode
from transformers.image_utils import PILImageResampling

from .image_geometry import Fit
from .input_checks import nearest_multiples
from .limits import check_limit
from .safe_text import did_you_mean, one_line

# What files of processors hold beside settings. The last three chose between Pillow and torchvision in releases of
# transformers; this processor is one for both, so that they mean nothing here.
KEYS_OF_FILES = (
    *("auto_map", "feature_extractor_type", "image_processor_type", "processor_class", "_processor_class"),
    *("_valid_processor_keys", "backend", "use_fast"),
)
# What `from_pretrained` of transformers takes beside settings.
OPTIONS_OF_LOADING = (
    *("cache_dir", "code_revision", "force_download", "image_processor_filename", "local_files_only", "proxies"),
    *("resume_download", "return_unused_kwargs", "revision", "subfolder", "token", "trust_remote_code"),
    *("use_auth_token", "use_fast", "user_agent", "backend", "dtype", "torch_dtype"),
)
SWITCHES = (
    *("apply_icc_profile", "default_to_square", "disable_grouping", "do_center_crop", "do_rescale", "do_resize"),
    "return_geometry",
)
_BY_MODEL = "the model normalizes inside"
_BY_PAD = 'fit="pad" pads to crop_size'
# Settings of transformers that have one value here: that value, spellings of it, and why another would be without use.
FIXED: dict[str, tuple[tuple[object, ...], str]] = {
    "data_format": (("channels_first",), "the model takes (B, 3, H, W)"),
    "device": (("cpu",), 'images are prepared on the CPU: move them with ["pixel_values"].to(device)'),
    "do_convert_rgb": ((True,), "the model takes RGB"),
    "do_normalize": ((False,), _BY_MODEL),
    "do_pad": ((False,), _BY_PAD),
    "image_mean": ((None,), _BY_MODEL),
    "image_seq_length": ((None,), "it is for language models"),
    "image_std": ((None,), _BY_MODEL),
    "input_data_format": ((None,), "arrays are (H, W, C) and tensors (C, H, W)"),
    "pad_size": ((None,), _BY_PAD),
    "resample": (
        (PILImageResampling.BICUBIC, "bicubic", InterpolationMode.BICUBIC),
        "the model was trained on images resized with it",
    ),
    "rescale_factor": ((1 / 255,), "the model takes values in [0, 1]; do_rescale=False keeps uint8"),
}
CHOICES: dict[str, tuple[str, ...]] = {"fit": get_args(Fit), "return_tensors": ("pt", "np", "mlx")}
# The smallest share of a square image's side that a crop keeps. 0.875 is usual (256 to 224), and no model of timm has
# less. Far below, the sizes are a mistake: the model would see a small part of the image.
MIN_CROP_SHARE = 0.75


def refuse_unknown(kwargs: Iterable[str], known: Sequence[str], passed: Iterable[str] = ()) -> None:
    """Raises TypeError for a keyword that is none of `known` and none of `passed`, which the error does not list."""
    passed = set(passed)
    for key in kwargs:
        if key not in known and key not in passed:
            hint = did_you_mean(key, known) or f"; it takes {', '.join(useful(known))}"
            raise TypeError(f"the image processor got an unexpected keyword argument {one_line(repr(key), 100)}{hint}")


def useful(known: Iterable[str]) -> list[str]:
    """Returns the settings that have an effect, sorted."""
    return sorted(key for key in known if key not in FIXED and key not in ("default_to_square", "disable_grouping"))


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
    if len(sides) != 2 or not all(map(_is_side, sides)):
        raise ValueError(
            f"image_size must be a side or (height, width) in pixels, got {one_line(repr(image_size), 80)}"
        )
    height, width = sides
    return kwargs | {
        "size": {"shortest_edge": round(256 * max(sides) / 224)},
        "crop_size": {"height": height, "width": width},
    }


def check_values(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for a setting whose value is not allowed, whatever the others are; None means its default."""
    for name, value in settings.items():
        if value is None:
            continue
        problem = _problem(name, value)
        if problem:
            raise ValueError(f"{name} must be {problem}, got {one_line(repr(value), 80)}")


def _problem(name: str, value: Any) -> str:
    """Returns what a setting must be, or "" if it is so."""
    if name in SWITCHES:
        return "" if isinstance(value, bool) else "True or False"
    if name in CHOICES:
        allowed = CHOICES[name]
        return "" if value in allowed else f"{', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}"
    if name in FIXED:
        values, reason = FIXED[name]
        return "" if _is_one_of(value, values) else f"{_shown(values[0])}, because {reason}"
    if name == "patch_size":
        return "" if _is_side(value) else "an integer of at least 1"
    if name == "fill_value":
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if is_number and 0 <= value <= 1 else "a number in [0, 1]"
    if name == "size":
        sides = _sides(value) if not isinstance(value, int) else {"shortest_edge": value}
        hint = '{"shortest_edge": pixels} (image_size sets the size of the model\'s input)'
        return "" if sides.keys() == {"shortest_edge"} and _is_side(*sides.values()) else hint
    if name == "crop_size":
        pair = _pair(value)
        return "" if len(pair) == 2 and all(map(_is_side, pair)) else '{"height": pixels, "width": pixels}'
    return ""


def _shown(value: object) -> str:
    names: dict[object, str] = {PILImageResampling.BICUBIC: "bicubic", 1 / 255: "1/255"}
    return names.get(value, repr(value)) if type(value) is not bool else repr(value)


def _is_one_of(value: Any, allowed: tuple[object, ...]) -> bool:
    value = str(value) if "cpu" in allowed else value  # a torch.device
    return isinstance(value, str | int | float | InterpolationMode) and value in allowed


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _pair(value: Any) -> tuple[Any, ...]:
    """Returns the two sides of a size as users write it, and another number of items for what is none."""
    if isinstance(value, int):
        return (value, value)
    if isinstance(value, list | tuple):
        return tuple(value)
    sides = _sides(value)
    return tuple(sides[name] for name in ("height", "width")) if sides.keys() == {"height", "width"} else ()


def _sides(value: Any) -> dict[str, Any]:
    """Returns the sides that a dictionary, or transformers' class for sizes, sets; an empty one for what is none."""
    try:
        return {name: side for name, side in dict(value).items() if side is not None}
    except (TypeError, ValueError):
        return {}


def _is_derived(edge: int, patch_size: int) -> bool:
    """Returns whether `with_image_size` gives this size for a side that fits the patch size."""
    side = round(edge * 224 / 256 / patch_size) * patch_size
    return edge == round(256 * side / 224)


def check_sizes(settings: Mapping[str, Any]) -> None:
    """Raises ValueError if the sizes of a processor, which are allowed each for itself, do not fit together."""
    edge, patch_size = settings["size"].shortest_edge, settings["patch_size"]
    crop = (settings["crop_size"].height, settings["crop_size"].width)
    check_limit("image_pixels", crop[0] * crop[1], "an image of the crop_size")
    wrong = next((side for side in crop if side % patch_size), None)
    if wrong is not None:
        nearest = " or ".join(map(str, nearest_multiples(wrong, patch_size)))
        raise ValueError(
            f"image_size and crop_size must be multiples of the patch size {patch_size}, got {crop}: use {nearest}"
        )
    if settings["fit"] != "crop" or not settings["do_resize"]:
        return
    if not settings["do_center_crop"]:
        raise ValueError('do_center_crop=False needs do_resize=False; to keep the whole image, use fit="aspect"')
    if not min(crop) <= edge <= max(crop) / MIN_CROP_SHARE:
        # Not the side of which the size was made: nobody who sets crop_size alone asked for it.
        nearest_side = max(1, round(edge / patch_size)) * patch_size
        sides = [nearest_side] if edge == nearest_side and not _is_derived(edge, patch_size) else []
        shown = " or ".join(f"image_size={side}" for side in (*sides, crop[0] if crop[0] == crop[1] else crop))
        raise ValueError(
            f"size and crop_size do not fit together: of an image whose shortest side is resized to {edge} pixels, the "
            f"model would see {crop[0]} x {crop[1]}. For a crop of {max(crop)}, size may be {min(crop)} to "
            f"{int(max(crop) / MIN_CROP_SHARE)}; {shown} without size and crop_size sets both"
        )
