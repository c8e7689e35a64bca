"""What every edit checks and unpacks: the encoding, numbers of tokens, and positions. Nothing here changes a value."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stellar_hub.modeling import StellarEncoding
from stellar_hub.modeling.input_checks import check_encoding, resolve_grid_size
from stellar_hub.modeling.safe_text import one_line

Number = float | Tensor  # one value for all images, or a tensor (B,) with one for each
Tokens = int | Sequence[int] | Tensor
Place = tuple[Number, Number] | Tensor


class Parts(NamedTuple):
    """The parts of an encoding that was checked.

    Attributes:
        semantics: `S`, `(B, r, d)`.
        localization: `L`, `(B, n, r)`.
        grid: Rows and columns `(h, w)` of the patches.
    """

    semantics: Tensor
    localization: Tensor
    grid: tuple[int, int]

    @property
    def batch_size(self) -> int:
        """Number `B` of images."""
        return self.semantics.shape[0]

    @property
    def num_tokens(self) -> int:
        """Number `r` of tokens."""
        return self.semantics.shape[1]

    def maps(self) -> Tensor:
        """Returns `L` as maps, `(B, r, h, w)`, in at least float32."""
        return at_least_float32(self.localization).transpose(1, 2).unflatten(2, self.grid)

    def edited(self, localization: Tensor, semantics: Tensor | None = None) -> StellarEncoding:
        """Returns the encoding with another `L`, in the type that `L` had, and with another `S` if it is given."""
        kept = self.semantics if semantics is None else semantics
        return StellarEncoding(kept, localization.to(self.localization.dtype), self.grid)


def unpack(encoding: StellarEncoding) -> Parts:
    """Checks an encoding and returns its parts; a grid that is not known is taken to be square.

    Raises:
        TypeError: if it is not an encoding of two floating-point tensors.
        ValueError: if the tensors do not fit each other, or the grid is not known and not square.
    """
    # By what it is made of, not by its class: a model that came with its own code has a class of its own.
    if not isinstance(encoding, tuple) or len(encoding) != 2:
        raise TypeError(f"encoding must be what model.encode returns, got {type(encoding).__name__}")
    semantics, localization = encoding
    check_encoding(semantics, localization)
    grid = resolve_grid_size(localization.shape[1], getattr(encoding, "grid_size", None))
    return Parts(semantics, localization, grid)


def check_pair(first: Parts, second: Parts, same_grid: bool = True) -> None:
    """Raises ValueError unless two encodings are of as many images, of one width and, if asked, of one grid."""
    if first.semantics.shape[2] != second.semantics.shape[2]:
        raise ValueError(
            f"both encodings must be of one width d, got {first.semantics.shape[2]} and {second.semantics.shape[2]}: "
            "encode both images with the same model"
        )
    if second.batch_size not in (1, first.batch_size):
        raise ValueError(
            f"the second encoding must have 1 or {first.batch_size} images, as the first, got {second.batch_size}: "
            "take some with encoding.select"
        )
    if same_grid and first.grid != second.grid:
        raise ValueError(
            f"both encodings must have one grid of patches, got {first.grid} and {second.grid}: encode both images at "
            "the same size"
        )


def token_numbers(token: int | Tensor, parts: Parts, name: str = "token") -> Tensor:
    """Returns the number of one token for each image, `(B,)` int64.

    Args:
        token: A number, the same for all images, or an integer tensor `(B,)` with one for each.
        parts: The encoding.
        name: Name of the argument in errors.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if a number is out of range, or there is not one for each image.
    """
    if isinstance(token, Tensor):
        numbers = _integer_tensor(token, parts.num_tokens, name)
        if numbers.ndim > 1 or (numbers.ndim == 1 and len(numbers) not in (1, parts.batch_size)):
            raise ValueError(
                f"{name} must be a number or a tensor of shape ({parts.batch_size},), one for each image, "
                f"got shape {tuple(numbers.shape)}"
            )
    else:
        numbers = torch.tensor(_integer(token, parts.num_tokens, name))
    return numbers.to(parts.semantics.device).expand(parts.batch_size)


def token_mask(tokens: Tokens, parts: Parts, name: str = "tokens") -> Tensor:
    """Returns which tokens of each image are named, `(B, r)` bool.

    Args:
        tokens: A number, several numbers, which are the same for all images, or an integer tensor `(B, k)`.
        parts: The encoding.
        name: Name of the argument in errors.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if a number is out of range, or the tensor does not have a row for each image.
    """
    if isinstance(tokens, Tensor):
        numbers = _integer_tensor(tokens, parts.num_tokens, name)
        if numbers.ndim > 2 or (numbers.ndim == 2 and len(numbers) not in (1, parts.batch_size)):
            raise ValueError(
                f"{name} must be a tensor of shape (k,), the same for all images, or ({parts.batch_size}, k), "
                f"got shape {tuple(numbers.shape)}"
            )
    else:
        listed = [tokens] if isinstance(tokens, Integral | Real | str | bytes) else _listed(tokens, name)
        numbers = torch.tensor([_integer(number, parts.num_tokens, name) for number in listed], dtype=torch.int64)
    numbers = (numbers if numbers.ndim == 2 else numbers.reshape(1, -1)).to(parts.semantics.device)
    mask = torch.zeros(len(numbers), parts.num_tokens, dtype=torch.bool, device=numbers.device)
    return mask.scatter(1, numbers, True).expand(parts.batch_size, -1)


def one_hot(numbers: Tensor, num_tokens: int) -> Tensor:
    """Returns the mask `(B, r)` of one token for each image, from its number `(B,)`."""
    return torch.arange(num_tokens, device=numbers.device) == numbers[:, None]


def numbers_of(value: Number, parts: Parts, name: str, low: float = -math.inf, high: float = math.inf) -> Tensor:
    """Returns a value for each image, `(B,)`, in at least float32; gradients reach a tensor that is passed.

    Args:
        value: A number, the same for all images, or a floating-point tensor of shape `()` or `(B,)`.
        parts: The encoding.
        name: Name of the argument in errors.
        low: Smallest value allowed.
        high: Largest value allowed.

    Raises:
        TypeError: if it is neither a number nor such a tensor.
        ValueError: if a value is NaN, infinite or out of range, or there is not one for each image.
    """
    if isinstance(value, Tensor):
        if value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{name} must have real numbers, got {value.dtype}")
        if value.ndim > 1 or (value.ndim == 1 and len(value) not in (1, parts.batch_size)):
            raise ValueError(
                f"{name} must be a number or a tensor of shape ({parts.batch_size},), one for each image, "
                f"got shape {tuple(value.shape)}"
            )
        lowest, highest = (float(each) for each in value.detach().aminmax())
        check_finite(lowest, name, low, high)
        check_finite(highest, name, low, high)
        numbers = value
    else:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
        try:
            number = float(value)
        except OverflowError:  # an integer of more than 308 digits
            number = math.inf
        check_finite(number, name, low, high)
        numbers = torch.tensor(number, dtype=torch.float64)
    working = torch.promote_types(parts.localization.dtype, torch.float32)
    # First the type: some devices have no float64.
    return numbers.to(working).to(parts.localization.device).expand(parts.batch_size)


def places_of(place: Place, parts: Parts, name: str) -> tuple[Tensor, Tensor]:
    """Returns row and column of a place in each image, `(B,)` each.

    Args:
        place: Row and column in patches, each a number or a tensor `(B,)`; or a tensor `(2,)` or `(B, 2)`, as
            `token_center` returns it.
        parts: The encoding.
        name: Name of the argument in errors.

    Raises:
        TypeError: if it is not a pair of numbers.
        ValueError: if a value is NaN or infinite, or shapes do not fit.
    """
    if isinstance(place, Tensor) and (place.ndim not in (1, 2) or place.shape[-1] != 2):
        raise ValueError(f"{name} must have shape (2,) or (B, 2), rows and columns, got {tuple(place.shape)}")
    if not isinstance(place, Tensor) and (not isinstance(place, Sequence) or isinstance(place, str) or len(place) != 2):
        raise TypeError(f"{name} must be a pair (row, column) in patches, got {one_line(repr(place), 60)}")
    row, column = place.unbind(dim=-1) if isinstance(place, Tensor) else place
    return numbers_of(row, parts, f"the row of {name}"), numbers_of(column, parts, f"the column of {name}")


def at_least_float32(tensor: Tensor) -> Tensor:
    """Returns a tensor in float32, or as it is if its type is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def check_finite(value: float, name: str, low: float, high: float) -> None:
    """Raises ValueError unless a number is finite and in `[low, high]`."""
    if not math.isfinite(value) or not low <= value <= high:
        allowed = "finite" if math.isinf(low) else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} must be {allowed}, got {value:g}")


def _integer(number: object, num_tokens: int, name: str) -> int:
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise TypeError(f"{name} must be numbered by integers, got {one_line(repr(number), 60)}")
    value = int(number)
    if not 0 <= value < num_tokens:
        raise _out_of_range(value, num_tokens, name)
    return value


def _integer_tensor(numbers: Tensor, num_tokens: int, name: str) -> Tensor:
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise TypeError(f"{name} must be numbered by integers, got a tensor of {numbers.dtype}")
    # On a GPU, an index out of range would end the process.
    wrong = numbers[(numbers < 0) | (numbers >= num_tokens)]
    if len(wrong):
        raise _out_of_range(int(wrong[0]), num_tokens, name)
    return numbers.long()


def _out_of_range(number: int, num_tokens: int, name: str) -> ValueError:
    shown = str(number) if abs(number) < 10**18 else "one of more than 18 digits"
    return ValueError(
        f"{name} must be from 0 to {num_tokens - 1}, the tokens of this encoding, got {shown}: token_at finds the "
        "token of a place"
    )


def _listed(tokens: object, name: str) -> list[Any]:
    try:
        return list(tokens)  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(f"{name} must be integers, got {type(tokens).__name__}") from None
