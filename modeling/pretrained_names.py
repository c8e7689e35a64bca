"""What these files need from the library if it is installed: pretrained names, original files, pushing, extraction.

The files of this folder travel with pushed weights and must load without the library. `stellar_hub.registry` has the
names. Functions of the rooms above register themselves as entry points of the group `stellar_hub.modeling`, so that
nothing here imports upwards.
"""

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

from torch import Tensor

from .safe_text import did_you_mean, one_line

registry: Any  # None if the library is not installed
try:
    from stellar_hub import registry
except ImportError:
    registry = None

REGISTERED = "stellar_hub.modeling"  # the group of entry points

_PROCESSOR = "; pass processor=StellarImageProcessor.from_pretrained(NAME, {}=...), which decides it"
# What options of other calls are in `extract`.
_OTHER_WAYS = {name: _PROCESSOR.format(name) for name in ("image_size", "crop_size", "fit", "patch_size", "fill_value")}
_OTHER_WAYS["device"] = "; it runs where the model is: call model.to(device) before"

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


def resolve_pretrained(name_or_path: PathT) -> PathT | str:
    """Returns the folder of a model that comes with the library, and any other argument unchanged.

    A file or folder of the same name is preferred.

    Raises:
        FileNotFoundError: if the argument can only be a path, and the path does not exist.
        ValueError: if the argument is not a path, a known name or a repository id.
    """
    if name_or_path is None or Path(name_or_path).exists():
        return name_or_path
    if isinstance(name_or_path, os.PathLike) or is_path_alone(name_or_path):
        raise FileNotFoundError(f"no such file or folder: {name_or_path}")
    if registry is None:
        return name_or_path
    registry.check_name(str(name_or_path))
    folder = registry.embedded_folder(str(name_or_path))
    return name_or_path if folder is None else str(folder)


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
    convert = None if name_or_path is None else _registered("convert_if_original")
    if convert is None and published_config(name_or_path) is not None:
        raise ImportError(
            f"{name_or_path} cannot be fetched: stellar_hub was installed without its entry points; install it again, "
            "with pip install -e . in a clone"
        )
    return None if convert is None else convert(str(name_or_path), decoder, base_only, options)


def extract_features(model: Any, source: Any, outputs: Any, **options: Any) -> Iterator[ExtractedBatch]:
    """Calls the library's `extract_features`, which gives the features of a source's images batch by batch.

    Raises:
        ImportError: if the library is not installed.
        TypeError: if there is no such option.
    """
    extract = _registered("extract_features")
    if extract is None:
        raise ImportError("model.extract needs the library: pip install stellar_hub")
    known = [name for name, each in inspect.signature(extract).parameters.items() if each.kind is each.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            hint = _OTHER_WAYS.get(name) or did_you_mean(name, known) or f"; it takes {', '.join(known)}"
            raise TypeError(f"extract got an unexpected keyword argument {one_line(repr(name))}{hint}")
    batches: Iterator[ExtractedBatch] = extract(model, source, outputs, **options)
    return batches


def push_model(model: Any, repo_id: str, **options: Any) -> str:
    """Pushes a model with the library and returns the address of the commit.

    Raises:
        ImportError: if the library is not installed.
    """
    push = _registered("push")
    if push is None:
        raise ImportError("model.push_to_hub needs the library: pip install stellar_hub")
    return push(model, repo_id, **options).url


def _registered(name: str) -> Any:
    """Returns the function that the library registers under a name, or None if the library is not installed."""
    if registry is None:
        return None
    found = entry_points(group=REGISTERED, name=name)
    return next(iter(found)).load() if found else None
