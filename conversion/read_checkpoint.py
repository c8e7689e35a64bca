"""From checkpoint files to state dicts, without ever running code from a file."""

import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# Errors of torch for a file that is not a checkpoint: it reads the bytes as instructions, so almost any can follow.
DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Returns the tensors of a `.safetensors` file or of a pickled one (`.bin`, `.pt`, `.pth`, Lightning's `.ckpt`).

    If the format allows it, tensors are mapped from the file, so that unused tensors are never read. Pickled files are
    loaded with `weights_only=True`: a file with anything but tensors and plain containers is refused.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is damaged, cut short or of another kind.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder: pass the checkpoint file in it")
    if not path.is_file():
        raise FileNotFoundError(f"no such checkpoint file: {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged, cut short, or not a safetensors file: {error}") from error
    return tensors_of(read_pickled(path), path)


def read_pickled(path: Path) -> Any:
    """Returns the object in a file that `torch.save` wrote, if it has tensors and plain containers only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # they are about content that is refused below, or harmless
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except PermissionError:
        raise
    except DAMAGE as error:
        # The error does not quote torch's own message, which advises to load the file unsafely.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise ValueError(
                f"{path} must have tensors only, but it also has {refused[1]}, which is not unpickled because it could "
                "run code: save the state_dict alone and convert that"
            ) from error
        raise ValueError(f"{path} is damaged, cut short, or not a PyTorch checkpoint") from error


def tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    """Returns the state dict in a file's content: the content itself, or the one under `state_dict` as in Lightning."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must have a state dict, but it has an object of type {type(content).__name__}")
    if not content:
        raise ValueError(f"{path} is empty: it must have at least one tensor")
    foreign = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if foreign:
        raise ValueError(f"{path} must have tensors only, but these entries are not: {', '.join(foreign[:5])}")
    return dict(content)
