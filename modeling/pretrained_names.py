"""What these files need from the library if it is installed: pretrained names, original files, pushing, features.

The files of this folder travel with pushed weights and must load without the library. `stellar_hub.registry` has the
names. Functions of the rooms above register themselves as entry points of the group `stellar_hub.modeling`, so that
nothing here imports upwards.
"""

import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from inspect import signature
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

from torch import Tensor

from .safe_text import did_you_mean, mask_secrets, one_line, refuse_keywords

registry: Any  # None if the library is not installed
try:
    from stellar_hub import registry
except ImportError:
    registry = None

REGISTERED = "stellar_hub.modeling"  # the group of entry points
_AGAIN = "stellar_hub was installed without its entry points; install it again, with pip install -e . in a clone"

_PROCESSOR = "; pass processor=StellarImageProcessor.from_pretrained(NAME, {}=...), which decides it"
# What options of other calls and other libraries are in `extract` and in `embed`.
_OTHER_WAYS = {name: _PROCESSOR.format(name) for name in ("image_size", "crop_size", "fit", "patch_size", "fill_value")}
_OTHER_WAYS["device"] = "; it runs where the model is: call model.to(device) before"
_IN_EMBED = _OTHER_WAYS | {
    "convert_to_numpy": "; arrays are the default",
    "convert_to_tensor": '; pass return_tensors="pt"',
    "dtype": "; vectors are float32: convert them, as in vectors.astype('float16')",
    "global_pool": '; pass pooling="mean", "cls" or "tokens"',
    "normalize_embeddings": "; pass normalize",
    "output_value": '; pass pooling="tokens" for the tokens of each image',
    "outputs": "; pass pooling, or call model.extract for several features",
    "pool": '; pass pooling="mean", "cls" or "tokens"',
    "show_progress_bar": "; pass show_progress",
}

# The page of a repository, as a browser shows it.
_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?!(?:datasets|spaces|docs|papers|collections)/)"
    r"(?P<name>[\w.-]+/[\w.-]+)(?:/(?:tree|blob|resolve)/(?P<revision>[\w.-]+))?(?:[/?#]|$)"
)

PathT = TypeVar("PathT", str, os.PathLike, str | os.PathLike, str | os.PathLike | None)


class ExtractedBatch(Protocol):
    """What is known here of the library's `FeatureBatch`, which `extract_features` gives."""

    @property
    def records(self) -> Sequence[Any]:
        """One record for each row: `row`, `image`, `original_size`, `crop_box` and `error`."""

    @property
    def features(self) -> Mapping[str, Tensor]:
        """Tensors `(B, ...)` by name."""

    @property
    def row_ids(self) -> Tensor:
        """Indices of the images in their source, `(B,)` int64."""

    @property
    def ok(self) -> Tensor:
        """Which rows have features, `(B,)` bool."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    @overload
    def __getitem__(self, key: str, /) -> Tensor: ...
    @overload
    def __getitem__(self, key: int, /) -> Any: ...


def check_is_name(name: Any) -> None:
    """Raises TypeError or ValueError unless `from_pretrained` was given a name or a path."""
    if name is not None and not isinstance(name, str | os.PathLike):
        raise TypeError(f"from_pretrained needs the name or folder of a model, got {type(name).__name__}")
    if name is None or not str(name).strip():
        raise ValueError(f"from_pretrained needs the name or folder of a model, such as 'stellar-tiny', got {name!r}")


def resolve_pretrained(name_or_path: PathT) -> PathT | str:
    """Returns the folder of a model that comes with the library, and any other argument unchanged.

    A file or folder of the same name is preferred.

    Raises:
        FileNotFoundError: if the argument can only be a path, and the path does not exist.
        ValueError: if the argument is not a path, a known name or a repository id, such as an address.
    """
    if name_or_path is None or Path(name_or_path).exists():
        return name_or_path
    _refuse_address(str(name_or_path))
    if isinstance(name_or_path, os.PathLike) or is_path_alone(name_or_path):
        raise FileNotFoundError(f"no such file or folder: {name_or_path}")
    if registry is None:
        return name_or_path
    registry.check_name(str(name_or_path))
    folder = registry.embedded_folder(str(name_or_path))
    return name_or_path if folder is None else str(folder)


def _refuse_address(name: str) -> None:
    """Raises ValueError for the address of a page or a file; for a page of the Hub it has the repository's name."""
    if not re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", name):
        return
    shown = one_line(repr(mask_secrets(name)), 200)
    page = _PAGE.match(name)
    if page is None:
        raise ValueError(f"{shown} is an address: pass the name of a Hub repository, such as 'user/name', or a folder")
    revision = page["revision"] if page["revision"] not in (None, "main") else ""
    more = f" and revision={revision!r}" if revision else ""
    raise ValueError(f"{shown} is the address of a repository: pass its name, {page['name']!r}{more}")


def is_path_alone(name: str) -> bool:
    """Returns whether a string can only be a path, because a repository id is "name" or "user/name"."""
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.strip("/").count("/") > 1


def published_config(name_or_path: str | os.PathLike | None) -> dict[str, Any] | None:
    """Returns the configuration fields of a published model, which need no file; None for any other argument."""
    if name_or_path is None or registry is None or Path(name_or_path).exists():
        return None
    model = registry.published(str(name_or_path))
    return None if model is None else {**model.config, "name_or_path": str(name_or_path)}


def convert_if_original(
    name_or_path: str | os.PathLike | None, decoder: bool | None, base_only: bool, options: dict[str, Any]
) -> Any:
    """Returns `(config, state_dict, options)` of a published model or an original file; None for any other argument.

    Raises:
        ImportError: if a published model is named, but the library was installed without its entry points.
    """
    convert = None if name_or_path is None else registered("convert_if_original")
    if convert is None and published_config(name_or_path) is not None:
        raise ImportError(f"{name_or_path} cannot be fetched: {_AGAIN}")
    return None if convert is None else convert(str(name_or_path), decoder, base_only, options)


def extract_features(model: Any, source: Any, outputs: Any, **options: Any) -> Iterator[ExtractedBatch]:
    """Calls the library's `extract_features`, which gives the features of a source's images batch by batch.

    Raises:
        ImportError: if the library is not installed.
        TypeError: if there is no such option.
    """
    extract = _with_options("extract_features", "extract", options, _OTHER_WAYS)
    batches: Iterator[ExtractedBatch] = extract(model, source, outputs, **options)
    return batches


def embed_images(model: Any, images: Any, pooling: str, **options: Any) -> Any:
    """Calls the library's `embed_images`, which gives one vector, or one set of tokens, for each image.

    Raises:
        ImportError: if the library is not installed.
        TypeError: if there is no such option.
    """
    return _with_options("embed_images", "embed", options, _IN_EMBED)(model, images, pooling, **options)


def _with_options(name: str, method: str, options: Mapping[str, Any], hints: Mapping[str, str]) -> Callable[..., Any]:
    """Returns a registered function, if it takes some options.

    Args:
        name: Name of the function.
        method: Name of the model's method that calls it, for errors.
        options: The options.
        hints: What to say about options that it does not take.

    Raises:
        ImportError: if the library is not installed.
        TypeError: if it does not take an option.
    """
    function: Callable[..., Any] = needed(name, f"model.{method}")
    known = [key for key, each in inspect.signature(function).parameters.items() if each.kind is each.KEYWORD_ONLY]
    for key in options:
        if key not in known:
            hint = hints.get(key) or did_you_mean(key, known) or f"; it takes {', '.join(known)}"
            raise TypeError(f"{method} got an unexpected keyword argument {one_line(repr(key))}{hint}")
    return function


def push_model(model: Any, repo_id: str, **options: Any) -> str:
    """Pushes a model with the library and returns the address of the commit.

    Raises:
        ImportError: if the library is not installed.
        TypeError: if an option does not exist.
    """
    push = needed("push", "model.push_to_hub")
    refuse_keywords("push_to_hub", options, signature(push).parameters, "; it takes license, private and replace")
    return push(model, repo_id, **options).url


def registered(name: str, group: str = REGISTERED) -> Any:
    """Returns the function that the library registers under a name, or None if the library is not installed."""
    return None if registry is None else _load(entry_points, name, group)


@cache
def _load(find: Callable[..., Any], name: str, group: str) -> Any:
    """Returns a registered function, or None. It is kept: looking through all installed packages takes time."""
    found = find(group=group, name=name)
    return next(iter(found)).load() if found else None


def needed(name: str, caller: str, group: str = REGISTERED) -> Any:
    """Returns the function that the library registers under a name.

    Args:
        name: Name of the function.
        caller: What calls it, for errors.
        group: Group of entry points.

    Raises:
        ImportError: if the library is not installed, or without its entry points.
    """
    found = registered(name, group)
    if found is None and registry is None:
        raise ImportError(f"{caller} needs the library: pip install stellar_hub")
    if found is None:
        raise ImportError(f"{caller} was not found: {_AGAIN}")
    return found
