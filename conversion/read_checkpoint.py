"""Checkpoint files to state dicts, never running code that a file brings along."""

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

# What torch raises on a file that is no checkpoint: its bytes are taken for instructions, and nearly anything follows.
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
    """The tensors of a `.safetensors` file or of a pickled one (`.bin`, `.pt`, `.pth`, Lightning's `.ckpt`).

    Tensors are mapped from the file where its format allows, so that those never used are never read. Pickled files
    are loaded with `weights_only=True`: a file that holds anything but tensors and plain containers is refused.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, cut short or of another kind.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder: name the checkpoint file in it")
    if not path.is_file():
        raise FileNotFoundError(f"no such checkpoint file: {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged, cut short, or no safetensors file: {error}") from error
    return tensors_of(read_pickled(path), path)


def read_pickled(path: Path) -> Any:
    """The object in a file written by `torch.save`, tensors and plain containers only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what is either refused below or does no harm
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except PermissionError:
        raise
    except DAMAGE as error:
        # torch's own message is left out: it advises to load the file unsafely.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise ValueError(
                f"{path} was not loaded: it holds more than tensors ({refused[1]}), and such objects are never "
                "unpickled here. Save its state_dict alone and convert that"
            ) from error
        raise ValueError(f"{path} is damaged, cut short, or no PyTorch checkpoint") from error


def tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict itself, or the one under `state_dict` as Lightning keeps it."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no state dict but an object of type {type(content).__name__}")
    if not content:
        raise ValueError(f"{path} is empty: it holds no tensors")
    foreign = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if foreign:
        raise ValueError(f"{path} holds no state dict: these entries are no tensors: {', '.join(foreign[:5])}")
    return dict(content)
