"""The words of `stellar-hub edit`: what each edit looks like on the command line, and in which order they were written.

Positions and offsets are pixels of the image as the model sees it, x (to the right) before y (down).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand

from stellar_hub.cli.errors import UsageError

_NUMBER = r"[+-]?\d{1,7}(?:\.\d{0,6})?"
_SPOT = rf"@{_NUMBER},{_NUMBER}"
_TOKEN = rf"(?:\d{{1,9}}|{_SPOT})"
_ORDER = "stellar_hub.order_of_edits"  # key of the context of a command


class Spot(NamedTuple):
    """A pixel of the image as the model sees it; (0, 0) is at the top left."""

    x: float
    y: float


Token = int | Spot  # a number, or the strongest token of a place


@dataclass(frozen=True)
class Edit:
    """One edit, as it was written.

    Attributes:
        option: Name of the option, such as "--move".
        text: Its value, such as "5:+40,-12".
        tokens: Tokens of the image that it names.
        numbers: Its other numbers, in the order of the text.
        file: The image or code to take something from.
        other: The token of that file.
        spot: Where to put it.
        axis: How to mirror.
    """

    option: str
    text: str
    tokens: tuple[Token, ...] = ()
    numbers: tuple[float, ...] = ()
    file: Path | None = None
    other: Token | None = None
    spot: Spot | None = None
    axis: str = "horizontal"


class Form(NamedTuple):
    """How an option is written: a regular expression with named groups, and words for its help and its errors."""

    pattern: str
    metavar: str
    example: str


FORMS = {
    "--drop": Form(rf"(?P<tokens>\d{{1,9}}(?:,\d{{1,9}})*|{_SPOT})", "TOKEN[,TOKEN...]", "3 or 3,7"),
    "--keep": Form(rf"(?P<tokens>\d{{1,9}}(?:,\d{{1,9}})*|{_SPOT})", "TOKEN[,TOKEN...]", "3 or 3,7"),
    "--swap": Form(rf"(?P<token>{_TOKEN}):(?P<second>{_TOKEN})", "TOKEN:TOKEN", "2:9"),
    "--move": Form(rf"(?P<token>{_TOKEN}):(?P<numbers>{_NUMBER},{_NUMBER})", "TOKEN:X,Y", "5:+40,-12"),
    "--scale": Form(rf"(?P<token>{_TOKEN}):(?P<numbers>{_NUMBER})", "TOKEN:FACTOR", "5:1.5"),
    "--mirror": Form(rf"(?P<token>{_TOKEN})(?::(?P<axis>horizontal|vertical))?", "TOKEN[:vertical]", "5"),
    "--paint": Form(
        rf"(?P<token>{_TOKEN}):(?P<numbers>{_NUMBER}(?:,{_NUMBER}){{3,4}})",
        "TOKEN:LEFT,TOP,RIGHT,BOTTOM[,STRENGTH]",
        "5:0,0,64,32",
    ),
    "--from": Form(rf"(?P<file>.+):(?P<other>{_TOKEN})(?P<spot>{_SPOT})?", "FILE:TOKEN[@X,Y]", "other.jpg:7@120,80"),
    "--replace": Form(
        rf"(?P<token>{_TOKEN}):(?P<file>.+):(?P<other>{_TOKEN})(?P<spot>{_SPOT})?",
        "TOKEN:FILE:TOKEN[@X,Y]",
        "5:other.jpg:7",
    ),
    "--blend": Form(rf"(?P<file>.+?)(?::(?P<numbers>{_NUMBER}))?", "FILE[:WEIGHT]", "other.jpg:0.5"),
    "--interpolate": Form(rf"(?P<file>.+?)(?::(?P<numbers>{_NUMBER}))?", "FILE[:FRACTION]", "other.jpg:0.5"),
}


def parse_edit(option: str, text: str) -> Edit:
    """Returns an edit from an option and its value.

    Raises:
        UsageError: if the value is not written as the option needs it.
    """
    form = FORMS[option]
    match = re.fullmatch(form.pattern, text.strip(), re.ASCII | re.DOTALL)
    if match is None:
        raise UsageError(f"{option} must be written {form.metavar}, such as {option} {form.example}, got {text[:60]!r}")
    found = {name: value for name, value in match.groupdict().items() if value is not None}
    listed = found.get("tokens", "")
    tokens = [listed] if listed.startswith("@") else [part for part in listed.split(",") if part]
    tokens += [found[name] for name in ("token", "second") if name in found]
    return Edit(
        option,
        text.strip(),
        tokens=tuple(map(_token, tokens)),
        numbers=tuple(float(number) for number in found.get("numbers", "").split(",") if number),
        file=Path(found["file"]) if "file" in found else None,
        other=_token(found["other"]) if "other" in found else None,
        spot=_spot(found["spot"]) if "spot" in found else None,
        axis=found.get("axis", "horizontal"),
    )


def edit_option(option: str, meaning: str) -> Any:
    """Returns the option of an edit, which may be given several times; its values are checked as they are read."""
    return typer.Option(
        option, metavar=FORMS[option].metavar, callback=_check(option), help=meaning, show_default=False
    )


def edits_in_order(context: typer.Context) -> list[Edit]:
    """Returns the edits of a command in the order in which they were written."""
    left = {option: list(context.params.get(_parameter(option)) or ()) for option in FORMS}
    order = [option for option in context.meta.get(_ORDER, FORMS) if left[option]]
    edits = [parse_edit(option, left[option].pop(0)) for option in order if left[option]]
    return edits + [parse_edit(option, text) for option, texts in left.items() for text in texts]


class OrderedCommand(TyperCommand):
    """A command that remembers the order of its edits: each option has a list, which alone does not tell it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the arguments once for their order, and then as every command does."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        names = {_parameter(option): option for option in FORMS}
        ctx.meta[_ORDER] = [names[parameter.name] for parameter in order if parameter.name in names]
        return super().parse_args(ctx, args)


def _parameter(option: str) -> str:
    """Returns the name of the parameter of an option, which is a word of Python for none of them."""
    return f"{option.removeprefix('--')}_edits"


def _check(option: str) -> Callable[[list[str] | None], list[str] | None]:
    def check(values: list[str] | None) -> list[str] | None:
        for value in values or ():
            parse_edit(option, value)
        return values

    return check


def _token(text: str) -> Token:
    return _spot(text) if text.startswith("@") else int(text)


def _spot(text: str) -> Spot:
    x, y = text.removeprefix("@").split(",")
    return Spot(float(x), float(y))
