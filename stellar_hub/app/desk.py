"""What the page does for a request, without a word of gradio: it takes a session and gives one, with what to show."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import stellar_hub.app.session as steps
from stellar_hub.app.concepts import ConceptSearch
from stellar_hub.app.edits import Placement
from stellar_hub.app.models import Models
from stellar_hub.app.photographs import (
    ImageFile,
    ImageFiles,
    Photograph,
    encode_file,
    example_names,
    read_example,
    read_upload,
)
from stellar_hub.app.session import Session
from stellar_hub.app.views import Value, View, compared, view_of
from stellar_hub.modeling.safe_text import escape_control, mask_secrets, one_line

# Errors that users meet; their text is a sentence. Others are faults of the library, and are logged.
EXPECTED = (ValueError, TypeError, OSError, RuntimeError, LookupError, ImportError)
MAX_MESSAGE = 600  # characters

_logger = logging.getLogger(__name__)

Step = Callable[..., Session]


@dataclass
class Desk:
    """The page without its looks. One serves all users, whose sessions it does not keep.

    Attributes:
        models: The models of the page.
        search: A store to search in; None has none.
        kept: The image files of all users.
    """

    models: Models
    search: ConceptSearch | None = None
    kept: ImageFiles = field(default_factory=ImageFiles)

    def open(self) -> Session:
        """Returns the session of a new user: the first model and the first example."""
        return steps.with_example(Session(self.models.names[0]), self.models, self.kept, _first_example())

    def upload(self, session: Session, path: Path) -> Session:
        """Opens an image that the user uploaded; its file is deleted, whatever is in it."""
        return steps.with_image(session, self._encoded(session, self._taken(path)))

    def upload_second(self, session: Session, path: Path) -> Session:
        """Opens an image to take tokens from; its file is deleted."""
        return steps.with_second(session, self._encoded(session, self._taken(path)))

    def example(self, session: Session, name: str) -> Session:
        """Opens a photograph of the package."""
        return steps.with_example(session, self.models, self.kept, name)

    def example_second(self, session: Session, name: str) -> Session:
        """Opens a photograph of the package to take tokens from."""
        return steps.with_second(session, self._encoded(session, read_example(name, self.kept)))

    def change_model(self, session: Session, name: str) -> Session:
        """Encodes the images with another model."""
        return steps.with_model(session, self.models, self.kept, name)

    def choose(self, session: Session, number: str) -> Session:
        """Chooses a token by its number."""
        if not (number.isascii() and number.isdigit() and len(number) < 7):
            raise ValueError(f"a token is a number, got {one_line(repr(number), 40)}")
        return steps.choose(session, int(number))

    def drag(self, session: Session, row: float, column: float, rows: float, columns: float) -> Session:
        """Chooses the token at a place and moves it; a chosen token that has weight there is the one that moves."""
        return steps.move(steps.choose_at(session, row, column), rows, columns)

    def put(self, session: Session, rows: float, columns: float, percent: float) -> Session:
        """Puts the chosen token where the sliders say: patches down and to the right, and its size in percent."""
        return steps.set_placement(session, Placement(round(rows, 2), round(columns, 2), round(percent / 100, 2)))

    def compare(self, session: Session, name: str) -> Value:
        """Returns the images of another model."""
        return {"items": compared(session, self.models, self.kept, name)}

    def find(self, session: Session, count: int) -> tuple[str, Value]:
        """Returns a sentence and the images of a search by the chosen token."""
        if self.search is None:
            raise ValueError("this page has no store to search in: start it with --store FOLDER")
        sentence, items = self.search.find(session, self.models, count)
        return sentence, {"items": items}

    def do(self, step: Step, session: Session, *values: Any) -> tuple[Session, str]:
        """Takes a step.

        Args:
            step: Function of a session and the values.
            session: The session before.
            values: Further arguments.

        Returns:
            The session after it, and a sentence: empty if it was done, or why it was not; the session is then the one
            before.
        """
        return answered(lambda: step(session, *values), session)

    def view(self, session: Session) -> View:
        """Draws a session."""
        return view_of(session, self.models)

    def _encoded(self, session: Session, file: tuple[ImageFile, str, str]) -> Photograph:
        return encode_file(self.models, self.kept, session.model, *file)

    def _taken(self, path: Path) -> tuple[ImageFile, str, str]:
        try:
            return read_upload(path, self.kept)
        finally:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another upload of the same file may be in it
                path.parent.rmdir()


def answered(work: Callable[[], Any], otherwise: Any) -> tuple[Any, str]:
    """Does some work for a user.

    Args:
        work: Function that does it.
        otherwise: What to return if it fails.

    Returns:
        Its result, and a sentence: empty, or what went wrong.
    """
    try:
        return work(), ""
    except MemoryError:
        return otherwise, "The machine has no memory for this: take a smaller image or model."
    except EXPECTED as error:
        return otherwise, sentence_of(error)
    except Exception as error:
        _logger.exception("a step of the page failed")
        return otherwise, f"This failed ({type(error).__name__}); the log of the page has more."


def sentence_of(error: Exception) -> str:
    """Returns what an error says as one printable sentence, without secrets in addresses."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    line = one_line(escape_control(mask_secrets(text)), MAX_MESSAGE) or type(error).__name__
    return line if line.endswith(".") else f"{line}."


def _first_example() -> str:
    names = example_names()
    return "cat.jpg" if "cat.jpg" in names else names[0]
