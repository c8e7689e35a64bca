"""What one user has open: an image, a second one, the chosen token and the edits. Each step gives a new session."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import stellar_hub.app.edits as edits
from stellar_hub.app.edits import Edit, Placement
from stellar_hub.app.models import Models
from stellar_hub.app.photographs import ImageFiles, Photograph, encode_file, read_example
from stellar_hub.editing import token_at
from stellar_hub.modeling import StellarEncoding
from stellar_hub.modeling.input_checks import resolve_grid_size

MAX_EDITS = 50
SMALLEST, LARGEST = 0.25, 4.0  # factors of a token's size
NO_IMAGE = "choose an image first: upload a photograph, or take one of the examples"
NO_TOKEN = "choose a token first: click a place in the image, or a map below it"


@dataclass(frozen=True)
class Session:
    """What one user has open. It is never changed.

    Attributes:
        model: Name of the model.
        photograph: The image; None before the first.
        second: The image to take tokens from.
        token: Number of the chosen token.
        second_token: Number of the chosen token of the second image.
        place: Row and column of the last click, in patches.
        edits: What was done, in its order.
    """

    model: str
    photograph: Photograph | None = None
    second: Photograph | None = None
    token: int | None = None
    second_token: int | None = None
    place: tuple[float, float] | None = None
    edits: tuple[Edit, ...] = field(default=())

    @cached_property
    def encoding(self) -> StellarEncoding:
        """The encoding with all edits, a batch of one.

        Raises:
            ValueError: if there is no image, or an edit cannot be done.
        """
        encoding = self.original.encoding
        for edit in self.edits:
            encoding = edit.apply(encoding)
        return encoding

    @property
    def original(self) -> Photograph:
        """The image.

        Raises:
            ValueError: if there is none.
        """
        if self.photograph is None:
            raise ValueError(NO_IMAGE)
        return self.photograph

    @property
    def chosen(self) -> int:
        """Number of the chosen token.

        Raises:
            ValueError: if no token is chosen.
        """
        if self.original and self.token is None:
            raise ValueError(NO_TOKEN)
        assert self.token is not None
        return self.token

    @property
    def placement(self) -> Placement:
        """Where the chosen token was put by the last edit."""
        last = self.edits[-1] if self.edits else None
        return last.placement if last and last.placement and last.token == self.token else Placement()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of the image."""
        return grid_of(self.original)


def grid_of(photograph: Photograph) -> tuple[int, int]:
    """Returns the rows and columns of patches of an image."""
    return resolve_grid_size(photograph.encoding.localization.shape[1], photograph.encoding.grid_size)


def with_image(session: Session, photograph: Photograph) -> Session:
    """Opens another image; the edits of the one before are gone."""
    return Session(session.model, photograph, session.second, second_token=session.second_token)


def with_second(session: Session, photograph: Photograph) -> Session:
    """Opens another image to take tokens from. The token that it shows most of is chosen."""
    shares = photograph.encoding.localization[0].mean(dim=0)
    return replace(session, second=photograph, second_token=int(shares.argmax()))


def with_model(session: Session, models: Models, kept: ImageFiles, name: str) -> Session:
    """Changes the model: the images are encoded again, and the edits are gone.

    Raises:
        OSError: if the model cannot be loaded.
        ValueError: if it is no model of the page, or the images are not kept any more.
    """
    models.load(name)
    photographs = [
        each and encode_file(models, kept, name, each.file, each.title, each.written)
        for each in (session.photograph, session.second)
    ]
    fresh = Session(name, photographs[0])
    return fresh if photographs[1] is None else with_second(fresh, photographs[1])


def with_example(session: Session, models: Models, kept: ImageFiles, name: str) -> Session:
    """Opens a photograph of the package.

    Raises:
        ValueError: if there is none of this name.
    """
    return with_image(session, encode_file(models, kept, session.model, *read_example(name, kept)))


def choose(session: Session, token: int) -> Session:
    """Chooses a token by its number.

    Raises:
        ValueError: if the image has no such token.
    """
    count = session.encoding.semantics.shape[1]
    if not 0 <= token < count:
        raise ValueError(f"the image has the tokens 0 to {count - 1}, got {token}")
    return replace(session, token=token)


def choose_at(session: Session, row: float, column: float) -> Session:
    """Chooses the token that a place belongs to most; the place is in patches."""
    row, column = _inside(row, column, session.grid)
    token = int(token_at(session.encoding, row, column)[0])
    return replace(session, token=token, place=(round(row, edits.PLACES), round(column, edits.PLACES)))


def choose_second_at(session: Session, row: float, column: float) -> Session:
    """Chooses a token of the second image by a place, in patches of that image."""
    second = _second(session)
    row, column = _inside(row, column, grid_of(second))
    return replace(session, second_token=int(token_at(second.encoding, row, column)[0]))


def move(session: Session, rows: float, columns: float) -> Session:
    """Moves the chosen token further, by patches down and to the right."""
    return set_placement(session, session.placement.moved(rows, columns))


def set_placement(session: Session, placement: Placement) -> Session:
    """Puts the chosen token somewhere else; the last edit is replaced if it put the same token somewhere.

    Raises:
        ValueError: if no token is chosen, or the placement is out of range.
    """
    height, width = session.grid
    if not (abs(placement.rows) <= height and abs(placement.columns) <= width):
        raise ValueError(
            f"a token can be moved by at most {height} patches down or up and {width} to a side, got "
            f"{placement.rows:g} and {placement.columns:g}"
        )
    if not SMALLEST <= placement.factor <= LARGEST:
        raise ValueError(f"the size must be {SMALLEST} to {LARGEST} times that of before, got {placement.factor:g}")
    token = session.chosen
    before = session.edits
    if before and before[-1].placement and before[-1].token == token:
        before = before[:-1]
    if placement == Placement():
        return replace(session, edits=before)
    return _done(replace(session, edits=before), edits.place(token, placement))


def drop(session: Session) -> Session:
    """Takes the chosen token away.

    Raises:
        ValueError: if no token is chosen, or it is the last one.
    """
    return _done(session, edits.drop(session.chosen))


def keep(session: Session) -> Session:
    """Takes all tokens but the chosen one away."""
    return _done(session, edits.keep(session.chosen))


def mirror(session: Session, axis: str) -> Session:
    """Mirrors the map of the chosen token, along "horizontal" or "vertical"."""
    return _done(session, edits.mirror(session.chosen, axis))


def transplant(session: Session, at_place: bool, replaces: bool) -> Session:
    """Takes the chosen token of the second image over, and chooses it.

    Args:
        session: The session.
        at_place: Whether its map is centred at the place of the last click; otherwise it stays where it was.
        replaces: Whether it replaces the chosen token; otherwise it is added.

    Raises:
        ValueError: if there is no second image, or no place or token is chosen.
    """
    second = _second(session)
    assert session.second_token is not None
    if at_place and session.place is None:
        raise ValueError("click the place in the first image where the token should go")
    token = session.chosen if replaces else session.encoding.semantics.shape[1]
    position = session.place if at_place else None
    done = _done(session, edits.transplant(second, session.second_token, token, position, replaces))
    return replace(done, token=token)


def undo(session: Session) -> Session:
    """Takes the last edit back."""
    shorter = replace(session, edits=session.edits[:-1])
    count = shorter.encoding.semantics.shape[1]
    return shorter if shorter.token is None or shorter.token < count else replace(shorter, token=None)


def reset(session: Session) -> Session:
    """Takes all edits back."""
    return replace(session, edits=(), token=None)


def _done(session: Session, edit: Edit) -> Session:
    """Adds an edit, and applies it, so that it fails here if it fails."""
    if len(session.edits) >= MAX_EDITS:
        raise ValueError(f"a page does at most {MAX_EDITS} edits: undo one, or reset")
    after = replace(session, edits=(*session.edits, edit))
    _ = after.encoding
    return after


def _second(session: Session) -> Photograph:
    if session.second is None:
        raise ValueError("choose a second image first: its tokens can be taken over")
    return session.second


def _inside(row: float, column: float, grid: tuple[int, int]) -> tuple[float, float]:
    """Brings a place into the image; the centre of the first patch is `(0, 0)`. What is not a number is refused."""
    height, width = grid
    if not (abs(row) < 1e6 and abs(column) < 1e6):  # also what is not a number
        raise ValueError(f"a place must be two numbers of patches, got {row} and {column}")
    return min(max(row, -0.5), height - 0.5), min(max(column, -0.5), width - 0.5)
