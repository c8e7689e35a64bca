"""The edits of `stellar-hub edit`, applied: from the words of an edit to functions of `stellar_hub.editing`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stellar_hub.cli.edit_words import Edit, Spot, Token
from stellar_hub.cli.errors import WrongUsage, one_line
from stellar_hub.editing import (
    blend_encodings,
    drop_tokens,
    interpolate_encodings,
    keep_tokens,
    mirror_token,
    move_token,
    paint_token,
    place_of_pixel,
    scale_token,
    swap_tokens,
    token_at,
    transplant_token,
)
from stellar_hub.modeling import StellarEncoding

Captions = dict[int, str]  # what was done to each token that was touched
Result = tuple[StellarEncoding, Captions]


@dataclass(frozen=True)
class Step:
    """An edit with what it works on.

    Attributes:
        edit: The edit.
        encoding: Encoding of one image.
        read: Returns the encoding of another file.
        patch_size: Side of a patch in pixels of the image as the model sees it.
    """

    edit: Edit
    encoding: StellarEncoding
    read: Callable[[Path], StellarEncoding]
    patch_size: int

    @property
    def tokens(self) -> list[int]:
        """Numbers of the tokens that the edit names."""
        return [self.number(token, self.encoding) for token in self.edit.tokens]

    @property
    def donor(self) -> StellarEncoding:
        """Encoding of the file that the edit names."""
        assert self.edit.file is not None
        return self.read(self.edit.file)

    def number(self, token: Token, encoding: StellarEncoding) -> int:
        """Returns the number of a token of an encoding.

        Raises:
            WrongUsage: if there is no such token, or its place is outside of the image.
        """
        if isinstance(token, Spot):
            return int(token_at(encoding, *self.place(token, encoding)))
        num_tokens = encoding.semantics.shape[1]
        if token >= num_tokens:
            raise WrongUsage(
                f"there are the tokens 0 to {num_tokens - 1}, got {token}: stellar-hub visualize draws the tokens of "
                "an image with their numbers, and @X,Y instead of a number takes the strongest token of a place"
            )
        return token

    def place(self, spot: Spot, encoding: StellarEncoding) -> tuple[float, float]:
        """Returns row and column in patches of a pixel.

        Raises:
            WrongUsage: if it is outside of the image.
        """
        height, width = self.size(encoding)
        if not (0 <= spot.x <= width - 1 and 0 <= spot.y <= height - 1):
            raise WrongUsage(
                f"the model sees {width} x {height} pixels, x from 0 to {width - 1} and y from 0 to {height - 1}, "
                f"got @{spot.x:g},{spot.y:g}"
            )
        return place_of_pixel(spot.x, spot.y, self.patch_size)

    def size(self, encoding: StellarEncoding) -> tuple[int, int]:
        """Returns height and width in pixels of the image that was encoded."""
        assert encoding.grid_size is not None
        return encoding.grid_size[0] * self.patch_size, encoding.grid_size[1] * self.patch_size


def apply_edit(step: Step) -> Result:
    """Applies one edit.

    Returns:
        The encoding, and what was done to each token that the edit touched.

    Raises:
        WrongUsage: if the edit does not fit the image; the message begins with the edit.
        OSError: if the file that it names cannot be read.
        ValueError: if that file is damaged, or is no image or code of this model.
    """
    edit = step.edit
    if edit.file is not None:
        step.read(edit.file)  # its errors are those of a file
    try:
        return _STEPS[edit.option](step)
    except (ValueError, TypeError) as error:
        raise WrongUsage(f"{edit.option} {edit.text}: {one_line(error)}") from error


def _drop(step: Step) -> Result:
    return drop_tokens(step.encoding, step.tokens), dict.fromkeys(step.tokens, "dropped")


def _keep(step: Step) -> Result:
    return keep_tokens(step.encoding, step.tokens), dict.fromkeys(step.tokens, "kept")


def _swap(step: Step) -> Result:
    first, second = step.tokens
    captions = {first: f"put where token {second} was", second: f"put where token {first} was"}
    return swap_tokens(step.encoding, first, second), captions


def _move(step: Step) -> Result:
    (token,), (x, y) = step.tokens, step.edit.numbers
    moved = move_token(step.encoding, token, y / step.patch_size, x / step.patch_size)
    return moved, {token: f"moved by {x:+g},{y:+g}"}


def _scale(step: Step) -> Result:
    (token,), (factor,) = step.tokens, step.edit.numbers
    return scale_token(step.encoding, token, factor), {token: f"scaled by {factor:g}"}


def _mirror(step: Step) -> Result:
    (token,) = step.tokens
    sides = "left to right" if step.edit.axis == "horizontal" else "top to bottom"
    return mirror_token(step.encoding, token, step.edit.axis), {token: f"mirrored {sides}"}  # type: ignore[arg-type]


def _paint(step: Step) -> Result:
    (token,), (left, top, right, bottom, *strength) = step.tokens, step.edit.numbers
    height, width = step.size(step.encoding)
    if not (left < right and top < bottom and left < width and top < height and right > 0 and bottom > 0):
        raise WrongUsage(
            f"LEFT must be less than RIGHT and TOP less than BOTTOM, and some of it inside of {width} x {height} pixels"
        )
    assert step.encoding.grid_size is not None
    rows, columns = step.encoding.grid_size
    region = (
        _coverage(top, bottom, rows, step.patch_size)[:, None] * _coverage(left, right, columns, step.patch_size)[None]
    )
    painted = paint_token(step.encoding, token, region, *strength)
    return painted, {token: f"painted to {left:g},{top:g},{right:g},{bottom:g}"}


def _from(step: Step) -> Result:
    return _transplant(step, None)


def _replace(step: Step) -> Result:
    (token,) = step.tokens
    return _transplant(step, token)


def _transplant(step: Step, replaced: int | None) -> Result:
    edit, donor = step.edit, step.donor
    assert edit.other is not None
    assert edit.file is not None
    number = step.number(edit.other, donor)
    position = None if edit.spot is None else step.place(edit.spot, step.encoding)
    changed = transplant_token(step.encoding, donor, number, position, replaced)
    token = step.encoding.semantics.shape[1] if replaced is None else replaced
    place = "" if edit.spot is None else f", at {edit.spot.x:g},{edit.spot.y:g}"
    return changed, {token: f"is token {number} of {edit.file.name}{place}"}


def _blend(step: Step) -> Result:
    weight, donor = (step.edit.numbers or (0.5,))[0], _on_same_grid(step)
    assert step.edit.file is not None
    own, theirs, name = step.encoding.semantics.shape[1], donor.semantics.shape[1], step.edit.file.name
    captions = dict.fromkeys(range(own), f"weighted by {1 - weight:g}")
    captions |= {own + token: f"is {weight:g} of token {token} of {name}" for token in range(theirs)}
    return blend_encodings(step.encoding, donor, weight), captions


def _interpolate(step: Step) -> Result:
    fraction = (step.edit.numbers or (0.5,))[0]
    assert step.edit.file is not None
    changed = interpolate_encodings(step.encoding, _on_same_grid(step), fraction)
    caption = f"gone {fraction:g} of the way to {step.edit.file.name}"
    return changed, dict.fromkeys(range(changed.semantics.shape[1]), caption)


def _on_same_grid(step: Step) -> StellarEncoding:
    """Returns the encoding of the other file.

    Raises:
        WrongUsage: if the model sees the two images at different sizes.
    """
    (height, width), (other_height, other_width) = step.size(step.encoding), step.size(step.donor)
    if (height, width) != (other_height, other_width):
        raise WrongUsage(
            f"the model sees {width} x {height} pixels of the image and {other_width} x {other_height} of the other: "
            "pass --fit crop or --fit pad, which make all images one size"
        )
    return step.donor


def _coverage(start: float, end: float, count: int, patch_size: int) -> Tensor:
    """Returns the share of each of `count` patches, `(count,)`, that is between two edges in pixels."""
    edges = torch.arange(count + 1, dtype=torch.float64) * patch_size
    return (edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)).clamp(0) / patch_size


_STEPS: dict[str, Callable[[Step], Result]] = {
    "--drop": _drop,
    "--keep": _keep,
    "--swap": _swap,
    "--move": _move,
    "--scale": _scale,
    "--mirror": _mirror,
    "--paint": _paint,
    "--from": _from,
    "--replace": _replace,
    "--blend": _blend,
    "--interpolate": _interpolate,
}
