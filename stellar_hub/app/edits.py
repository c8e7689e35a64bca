"""Edits as data: each applies itself to an encoding through `stellar_hub.editing`, and writes itself as Python."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stellar_hub import editing
from stellar_hub.app.photographs import Photograph
from stellar_hub.modeling import StellarEncoding

PLACES = 2  # decimals of positions and factors, so that the code shows all of them


@dataclass(frozen=True)
class Placement:
    """Where a token is put, compared with where it was.

    Attributes:
        rows: Patches down.
        columns: Patches to the right.
        factor: How many times larger.
    """

    rows: float = 0.0
    columns: float = 0.0
    factor: float = 1.0

    def moved(self, rows: float, columns: float) -> "Placement":
        """Returns the placement after a further move."""
        return Placement(round(self.rows + rows, PLACES), round(self.columns + columns, PLACES), self.factor)


@dataclass(frozen=True)
class Call:
    """One call of a function of `stellar_hub.editing`, whose first argument is the encoding.

    Attributes:
        function: Name of the function.
        arguments: The other arguments by name; a `Photograph` stands for its encoding.
    """

    function: str
    arguments: Mapping[str, Any]

    def apply(self, encoding: StellarEncoding) -> StellarEncoding:
        """Returns what the function makes of an encoding."""
        function: Callable[..., StellarEncoding] = getattr(editing, self.function)
        values = {
            name: value.encoding if isinstance(value, Photograph) else value for name, value in self.arguments.items()
        }
        return function(encoding, **values)

    def python(self, names: Mapping[Photograph, str]) -> str:
        """Returns the call as a line of Python; `names` has the variables that hold the encodings of photographs."""
        written = (
            f"{name}={names[value] if isinstance(value, Photograph) else repr(value)}"
            for name, value in self.arguments.items()
        )
        return f"encoding = {self.function}(encoding, {', '.join(written)})"


@dataclass(frozen=True)
class Edit:
    """One step that can be undone.

    Attributes:
        title: What it does, for the history.
        calls: The calls that do it, in their order.
        token: Token that it is about.
        placement: Where it puts the token; None if it does something else.
    """

    title: str
    calls: tuple[Call, ...]
    token: int
    placement: Placement | None = None
    source: Photograph | None = field(default=None, repr=False)

    def apply(self, encoding: StellarEncoding) -> StellarEncoding:
        """Returns the edited encoding.

        Raises:
            ValueError: if the edit cannot be done, such as dropping the last token.
        """
        for call in self.calls:
            encoding = call.apply(encoding)
        return encoding


def drop(token: int) -> Edit:
    """Takes a token away."""
    return Edit(f"drop token {token}", (Call("drop_tokens", {"tokens": [token]}),), token)


def keep(token: int) -> Edit:
    """Takes all other tokens away."""
    return Edit(f"keep token {token} alone", (Call("keep_tokens", {"tokens": [token]}),), token)


def mirror(token: int, axis: str) -> Edit:
    """Mirrors the map of a token; the axis is "horizontal" (left and right) or "vertical" (top and bottom)."""
    return Edit(f"mirror token {token}", (Call("mirror_token", {"token": token, "axis": axis}),), token)


def place(token: int, placement: Placement) -> Edit:
    """Scales and moves the map of a token."""
    calls = []
    if placement.factor != 1:
        calls.append(Call("scale_token", {"token": token, "factor": placement.factor}))
    if placement.rows or placement.columns:
        calls.append(Call("move_token", {"token": token, "rows": placement.rows, "columns": placement.columns}))
    return Edit(f"move token {token}", tuple(calls), token, placement)


def transplant(
    source: Photograph, source_token: int, token: int, position: tuple[float, float] | None, replace: bool
) -> Edit:
    """Takes a token over from another image.

    Args:
        source: The other image.
        source_token: Token of it.
        token: Number that it gets: that of the token it replaces, or the number of tokens so far.
        position: Row and column, in patches, of the centre of its map; None leaves it where it was.
        replace: Whether it replaces a token.
    """
    arguments: dict[str, Any] = {"source": source, "source_token": source_token}
    if position is not None:
        arguments["position"] = position
    if replace:
        arguments["replace"] = token
    title = f"token {source_token} of {source.title} as token {token}"
    return Edit(title, (Call("transplant_token", arguments),), token, source=source)
