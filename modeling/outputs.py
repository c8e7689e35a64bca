"""What the model returns: the encoding `(S, L)` and the full model output."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor
from torch.utils._pytree import GetAttrKey, register_pytree_node
from transformers.utils import ModelOutput

from .atomic_write import write_atomically
from .factorization import renormalize
from .input_checks import check_num_tokens, resolve_grid_size
from .limits import check_limit
from .safe_paths import utf8_name
from .safe_text import one_line

_DTYPES = {"F64", "F32", "F16", "BF16"}  # as safetensors spells them


class StellarEncoding(tuple[Tensor, Tensor]):
    """A batch of images as sparse codes: a named tuple of `S` ("what") and `L` ("where").

    It unpacks to two values, `S, L = model.encode(x)`, and knows the grid of its patches, so that
    `model.decode(encoding)` needs nothing else.

    Args:
        semantics: `S`, the sparse tokens, `(B, r, d)`: `r` tokens of the encoder's width for each image.
        localization: `L`, `(B, n, r)` in [0, 1]: the share of each token in each patch. Every row sums to 1.
        grid_size: Rows and columns `(h, w)` of the patches, `h w = n`. None means unknown: `decode` then takes the grid
            to be square. Code that builds an encoding from its two tensors alone, such as a collate function, loses it.
    """

    _fields = ("semantics", "localization")
    grid_size: tuple[int, int] | None = None

    def __new__(cls, semantics: Tensor, localization: Tensor, grid_size: tuple[int, int] | None = None) -> Self:  # noqa: D102
        self = super().__new__(cls, (semantics, localization))
        self.grid_size = grid_size
        return self

    @property
    def semantics(self) -> Tensor:
        """`S`, `(B, r, d)`."""
        return self[0]

    @property
    def localization(self) -> Tensor:
        """`L`, `(B, n, r)`."""
        return self[1]

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (*self, self.grid_size)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={_summary(part)}" for name, part in self._asdict().items())
        return f"StellarEncoding({parts}, grid_size={self.grid_size})"

    def _asdict(self) -> dict[str, Tensor]:
        return {"semantics": self[0], "localization": self[1]}

    def _replace(self, **changes: Any) -> Self:
        return type(self)(**({**self._asdict(), "grid_size": self.grid_size} | changes))

    def select(self, index: int | slice | Tensor | None = None, num_tokens: int | None = None) -> Self:
        """Returns some images of the batch, the first tokens of each image, or both.

        Args:
            index: Images of the batch; None means all. An integer gives a batch of one image, which can be decoded.
            num_tokens: Number of tokens to keep, the first ones, from 1 to `r`; None keeps all. Each row of `L` is
                divided by its new sum. The result is that of `model.encode(..., num_tokens=num_tokens)`.

        Raises:
            IndexError: if an integer is out of range.
            TypeError: if `num_tokens` is not an integer.
            ValueError: if `num_tokens` is out of range.
        """
        semantics, localization = self
        if num_tokens is not None:
            check_num_tokens(num_tokens, semantics.shape[1])
            if num_tokens < semantics.shape[1]:
                semantics, localization = semantics[:, :num_tokens], renormalize(localization[..., :num_tokens])
        if index is None:
            return type(self)(semantics, localization, self.grid_size)
        if isinstance(index, int | np.integer) or (isinstance(index, Tensor) and index.ndim == 0):
            index = int(index)
            size = semantics.shape[0]
            if not -size <= index < size:
                raise IndexError(f"index {index} is out of range for a batch of {size} images")
            index = slice(index % size, index % size + 1)
        return type(self)(semantics[index], localization[index], self.grid_size)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Returns the encoding on another device, in another dtype, or both; arguments as for `torch.Tensor.to`."""
        return type(self)(self.semantics.to(*args, **kwargs), self.localization.to(*args, **kwargs), self.grid_size)

    def cpu(self) -> Self:
        """Returns the encoding on the CPU."""
        return self.to("cpu")

    def detach(self) -> Self:
        """Returns the encoding without its history of gradients; the values are shared."""
        return type(self)(self.semantics.detach(), self.localization.detach(), self.grid_size)

    def save(self, path: str | os.PathLike[str], metadata: dict[str, str] | None = None) -> None:
        """Writes a `.safetensors` file with the tensors `semantics` and `localization`.

        The file appears under its name only when it is complete. Its metadata keeps the grid and a digest of the
        tensors, which `load` compares.

        Args:
            path: File to write; it is replaced if it exists.
            metadata: Strings to keep in the file's header, such as where the image came from.

        Raises:
            FileNotFoundError: if the folder of `path` does not exist.
            OSError: if the file cannot be written, for instance because the disk is full.
            ValueError: if the two tensors do not belong together.
        """
        _check_shapes([tuple(self[0].shape), tuple(self[1].shape)], self.grid_size, "this encoding")
        header = {"format": "pt"} | (metadata or {})
        if self.grid_size is not None:
            header["grid_size"] = json.dumps([int(side) for side in self.grid_size])
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._asdict().items()}
        header["sha256"] = _digest(tensors.values())
        write_atomically(path, serialize(tensors, metadata=header))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a file that `save` wrote. Files of earlier releases have no grid; it is then None.

        Shapes, types and the grid are checked before the tensors are read.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if it is not a safetensors file, is cut short, was changed, lacks a tensor, or holds values that
                are not finite or do not belong together.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no such file: {path}")
        return cls(*read_encoding(path, one_line(os.fspath(path))))


def read_encoding(path: str | os.PathLike[str], name: str) -> tuple[Tensor, Tensor, tuple[int, int] | None]:
    """Reads a file of `S` and `L`; shapes, types and the grid are checked before the tensors are read.

    Args:
        path: File to read.
        name: Name of the file in errors.

    Returns:
        `S`, `(B, r, d)`, `L`, `(B, n, r)`, and the grid, or None if the file has none.

    Raises:
        ValueError: for the reasons of `StellarEncoding.load`.
    """
    fields = StellarEncoding._fields
    try:
        with open_safetensors(path) as file:
            missing = set(fields) - set(file.keys())
            if missing:
                raise ValueError(f"{name} is not a saved encoding: it lacks {', '.join(sorted(missing))}")
            metadata = file.metadata() or {}
            grid_size = _grid_of_header(metadata, name)
            parts = [file.get_slice(field) for field in fields]
            _check_shapes([tuple(part.get_shape()) for part in parts], grid_size, name)
            for field, part in zip(fields, parts, strict=True):
                if part.get_dtype() not in _DTYPES:
                    raise ValueError(f"{name}: {field} must have floating-point numbers, got {part.get_dtype()}")
            semantics, localization = (file.get_tensor(field) for field in fields)
    except SafetensorError as error:
        raise ValueError(f"{name} cannot be read as safetensors (damaged or cut short?): {one_line(error)}") from error
    _check_values([semantics, localization], metadata.get("sha256"), name)
    return semantics, localization, grid_size


def _summary(part: Any) -> str:
    """Returns shape, type and, unless it is the CPU, device of a tensor; other objects as they are."""
    if not isinstance(part, Tensor):
        return repr(part)
    device = "" if part.device.type == "cpu" else f", {part.device}"
    return f"{str(part.dtype).removeprefix('torch.')}{tuple(part.shape)}{device}"


@contextlib.contextmanager
def open_safetensors(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Opens a safetensors file of any name; safetensors itself refuses names with bytes that are not UTF-8.

    Args:
        path: File to open.

    Yields:
        What `safetensors.safe_open` gives.
    """
    with utf8_name(path) as name, safe_open(name, framework="pt") as file:
        yield file


def _grid_of_header(metadata: dict[str, str], name: str) -> tuple[int, int] | None:
    """Returns the grid in a file's metadata, or None if it has no grid."""
    written = metadata.get("grid_size")
    if written is None:
        return None
    try:
        sides = json.loads(written)
        if isinstance(sides, list) and len(sides) == 2 and all(type(side) is int and side > 0 for side in sides):
            return sides[0], sides[1]
    except (ValueError, RecursionError):
        pass
    raise ValueError(f'{name} has the grid_size {one_line(written, 60)!r} in its metadata, expected "[h, w]"')


def _check_shapes(shapes: list[tuple[int, ...]], grid_size: tuple[int, int] | None, name: str) -> None:
    """Raises ValueError unless the shapes of `S` and `L` and the grid fit each other and the limits."""
    semantics, localization = shapes
    both = f"{name} has S of shape {semantics} and L of shape {localization}"
    if len(semantics) != 3 or len(localization) != 3:
        raise ValueError(f"{both}, expected (B, r, d) and (B, n, r)")
    if semantics[0] != localization[0] or semantics[1] != localization[2]:
        raise ValueError(f"{both}, expected the same batch size and number of tokens in (B, r, d) and (B, n, r)")
    for shape in shapes:
        check_limit("tensor_elements", shape[0] * shape[1] * shape[2], name)
    check_limit("code_patches", localization[1], name)
    if grid_size is not None:
        try:
            resolve_grid_size(localization[1], grid_size)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def _check_values(tensors: list[Tensor], digest: str | None, name: str) -> None:
    """Raises ValueError if tensors are not those that were saved, or have values that are not finite."""
    for field, tensor in zip(StellarEncoding._fields, tensors, strict=True):
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name}: {field} has values that are NaN or infinite: encode the image again")
    if digest is not None and digest != _digest(tensors):
        raise ValueError(f"{name} was changed after it was saved (its SHA-256 differs): encode the image again")


def _digest(tensors: Iterable[Tensor]) -> str:
    """Returns the SHA-256 of the bytes of contiguous tensors on the CPU."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _flatten(encoding: StellarEncoding) -> tuple[list[Tensor], tuple[int, int] | None]:
    """Returns the tensors of an encoding, and its grid if it consists of numbers.

    In an export with variable image sizes the grid consists of symbols, which a graph cannot keep. Under `strict=True`
    symbols look like numbers, so that no grid is kept.
    """
    symbolic = torch.compiler.is_exporting() and (
        torch.compiler.is_dynamo_compiling() or any(isinstance(side, torch.SymInt) for side in encoding.grid_size or ())
    )
    return list(encoding), None if symbolic else encoding.grid_size


def _flatten_with_keys(encoding: StellarEncoding) -> tuple[list[tuple[Any, Tensor]], tuple[int, int] | None]:
    tensors, grid = _flatten(encoding)
    return [(GetAttrKey(name), tensor) for name, tensor in zip(encoding._fields, tensors, strict=True)], grid


# What walks through nested outputs (torch.export, torch.func, accelerate) keeps the grid. Torch would ignore this for a
# class that derives from NamedTuple: it builds those from their fields alone.
register_pytree_node(
    StellarEncoding,
    _flatten,
    lambda tensors, grid: StellarEncoding(*tensors, grid_size=grid),  # type: ignore[misc]
    serialized_type_name=f"{__name__}.StellarEncoding",
    to_dumpable_context=lambda grid: None if grid is None else list(grid),
    from_dumpable_context=lambda grid: None if grid is None else tuple(grid),
    flatten_with_keys_fn=_flatten_with_keys,
)

torch.serialization.add_safe_globals([StellarEncoding])  # `torch.load` reads it with weights_only=True, the default


@dataclass
class StellarModelOutput(ModelOutput):
    """Output of [`StellarModel`].

    Attributes:
        last_hidden_state: `S`, the sparse tokens after the final norm, `(B, r, d)`.
        pooler_output: Mean of `S` over its tokens, `(B, d)`.
        localization: `L`, `(B, n, r)` in [0, 1]. Every row sums to 1.
        patch_features: Patches after the final norm and before the factorization, `(B, n, d)`.
        cls_token: The cls token after the final norm, `(B, d)`.
        reconstruction: Decoded images, `(B, 3, H', W')` in [0, 1]. None unless `output_reconstruction=True`.
        hidden_states: Input of the first block and output of each block, `num_hidden_layers + 1` tensors
            `(B, 1 + n + r, d)` in the order cls, patches, sparse tokens. None unless `output_hidden_states=True`.
    """

    # `forward` fills these five; transformers' outputs need a default for each field after the first.
    last_hidden_state: Tensor = None  # type: ignore[assignment]
    pooler_output: Tensor = None  # type: ignore[assignment]
    localization: Tensor = None  # type: ignore[assignment]
    patch_features: Tensor = None  # type: ignore[assignment]
    cls_token: Tensor = None  # type: ignore[assignment]
    reconstruction: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
