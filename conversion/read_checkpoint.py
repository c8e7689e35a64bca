"""From checkpoint files to state dicts, without ever running code from a file."""

import math
import os
import pickle
import pickletools
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

from stellar_hub.modeling.config_checks import is_model_folder
from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_paths import regular_file, utf8_name
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.modeling.weight_files import listed

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
    RecursionError,
    OverflowError,
    MemoryError,
)
# Names in a pickle that only allocate memory of any size that they are told.
ALLOCATING = re.compile(r"^(builtins|__builtin__) (bytearray|bytes|range)$")
MAX_RATIO = 4  # bytes of all tensors for each byte of the file; tensors may share storage


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
        refuse_own_folder(path)
        raise FileNotFoundError(f"{path} is a folder: pass the checkpoint file in it")
    if not path.exists():
        raise FileNotFoundError(f"no such checkpoint file: {path}")
    regular_file(path)
    if path.suffix != ".safetensors":
        return tensors_of(read_pickled(path), path)
    try:
        with utf8_name(path) as name:
            tensors = load_file(name)
    except (SafetensorError, ValueError, OverflowError, RuntimeError) as error:
        reason = one_line(error, 200)
        raise ValueError(f"{path} is damaged, cut short, or not a safetensors file: {reason}") from error
    check_sizes(tensors, path)
    return tensors


def refuse_own_folder(path: Path) -> None:
    """Raises ValueError for a folder that this library wrote, because what is in it needs no conversion.

    These are a saved model, a checkpoint of a training run, and the folder of a run, whose model is in `model`.
    """
    for folder in (path, path / "model"):
        if is_model_folder(folder):
            raise ValueError(
                f"{one_line(path)} needs no conversion, because this library wrote it: "
                f'StellarModel.from_pretrained("{one_line(folder)}") and --model {one_line(folder)} load it'
            )


def check_sizes(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises ValueError if tensors are larger than what is in their file: a view can repeat one number without end.

    Args:
        tensors: Tensors by name.
        path: File that they come from.
    """
    total, size = 0, path.stat().st_size
    for name, tensor in tensors.items():
        check_limit("tensor_elements", math.prod(tensor.shape), f"{one_line(name, 100)} in {path}")
        nbytes = tensor.numel() * tensor.element_size()
        total += nbytes
        if tensor.layout != torch.strided or nbytes > tensor.untyped_storage().nbytes() or nbytes > size:
            raise ValueError(f"{path} is damaged: {one_line(name, 100)} of shape {tuple(tensor.shape)} is not in it")
    if total > MAX_RATIO * size:
        raise ValueError(
            f"{path} has {size:,} bytes, but its tensors have {total:,}: at most {MAX_RATIO} times is allowed"
        )


def read_pickled(path: Path) -> Any:
    """Returns the object in a file that `torch.save` wrote, if it has tensors and plain containers only."""
    zipped = check_zip(path)
    try:
        with warnings.catch_warnings(), utf8_name(path) as name:
            warnings.simplefilter("ignore", UserWarning)  # they are about content that is refused below, or harmless
            return torch.load(name, map_location="cpu", weights_only=True, mmap=zipped)
    except PermissionError:
        raise
    except DAMAGE as error:
        # The error does not quote torch's own message, which advises to load the file unsafely.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise ValueError(
                f"{path} must have tensors only, but it also has {one_line(refused[1], 200)}, which is not unpickled "
                "because it could run code: save the state_dict alone and convert that"
            ) from error
        raise ValueError(f"{path} is damaged, cut short, or not a PyTorch checkpoint") from error


def check_zip(path: Path) -> bool:
    """Returns whether a file is a zip file.

    Raises:
        ValueError: if the zip file is not as `torch.save` writes it, which never compresses, or if a pickle in it asks
            for memory. A compressed part could grow a thousandfold.
    """
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            for part in parts:
                if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
                    raise ValueError(
                        f"{path} is not a PyTorch checkpoint: its part {one_line(repr(part.filename), 100)} is "
                        "compressed"
                    )
            check_limit("config_bytes", sum(_pickle_size(part) for part in parts), f"the list of tensors in {path}")
            for part in parts:
                if _pickle_size(part):
                    _check_pickle(archive.read(part), path)
            return True
    except PermissionError:
        raise
    except (zipfile.BadZipFile, UnicodeError, EOFError, struct.error, RuntimeError, OSError) as error:
        raise ValueError(f"{path} is damaged, cut short, or not a PyTorch checkpoint") from error


def _pickle_size(part: zipfile.ZipInfo) -> int:
    return part.file_size if part.filename.endswith(".pkl") else 0


def _check_pickle(data: bytes, path: Path) -> None:
    """Raises ValueError if a pickle names a function that allocates memory; torch itself refuses all that run code."""
    try:
        names = [str(argument) for code, argument, _ in pickletools.genops(data) if code.name == "GLOBAL"]
    except Exception as error:  # of a damaged pickle, its parser may raise anything
        raise ValueError(f"{path} is damaged, cut short, or not a PyTorch checkpoint") from error
    allocating = [name for name in names if ALLOCATING.match(name)]
    if allocating:
        raise ValueError(
            f"{path} must have tensors only, but it also has {listed(allocating)}: save the state_dict alone"
        )


def tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    """Returns the state dict in a file's content: the content itself, or the one under `state_dict` as in Lightning."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must have a state dict, but it has an object of type {type(content).__name__}")
    if not content:
        raise ValueError(f"{path} is empty: it must have at least one tensor")
    foreign = [
        name if isinstance(name, str) else f"an entry whose name is of type {type(name).__name__}"
        for name, value in content.items()
        if not isinstance(value, Tensor) or not isinstance(name, str)
    ]
    if foreign:
        raise ValueError(f"{path} must have tensors only, but these entries are not: {listed(foreign)}")
    check_sizes(content, path)
    return dict(content)
