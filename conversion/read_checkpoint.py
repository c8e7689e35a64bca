"""Checkpoint files to state dicts, never running code that a file brings along."""

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of a pickled one (`.bin`, `.pt`, `.pth`, Lightning's `.ckpt`).

    Tensors are mapped from the file where its format allows, so that those never used are never read. Pickled files
    are loaded with `weights_only=True`: a file that holds anything but tensors and plain containers is refused.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, cut short or of another kind.
    """
    path = Path(path)
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
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} was not loaded: it is no PyTorch checkpoint, or holds more than tensors, which is never "
            f"unpickled here ({reason}). Save its state_dict alone and convert that"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, UnicodeDecodeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is damaged, cut short, or no PyTorch checkpoint: {reason}") from error


def tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict itself, or the one under `state_dict` as Lightning keeps it."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no state dict but {type(content).__name__}")
    foreign = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if foreign:
        raise ValueError(f"{path} holds no state dict: these entries are no tensors: {', '.join(foreign[:5])}")
    return dict(content)
