"""Rows into a database, in batches: what is there already is passed over, and passing faults are tried again."""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.progress import Progress
from stellar_hub.store.databases.outgoing import Export, ExportReport, OutgoingRows

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each new try
LONGEST_PAUSE = 60.0
ResultT = TypeVar("ResultT")


class BusyError(ConnectionError):
    """A server that asks for a pause.

    Args:
        message: What the server said.
        seconds: Length of the pause that it asks for.
    """

    def __init__(self, message: str, seconds: float):
        super().__init__(message)
        self.seconds = seconds


class Database(Protocol):
    """A collection or a table that takes rows. Faults that may pass are ConnectionErrors or TimeoutErrors.

    Attributes:
        name: What it is, such as "the collection photos".
        is_new: Whether it was just created, and is empty.
    """

    name: str
    is_new: bool

    def digests(self, ids: list[str]) -> dict[str, str]:
        """Returns the digests of the rows that are there, by id."""
        ...

    def write(self, rows: OutgoingRows) -> None:
        """Adds rows, in place of those with the same ids."""
        ...


def upsert(export: Export, database: Database, batch_size: int, show_progress: bool) -> ExportReport:
    """Writes the rows of an export into a database, those that are there with the same content excepted.

    A row that is written twice is there once, so that an export that was interrupted can be run again.

    Raises:
        ConnectionError: if the database cannot be reached any more, also after some pauses.
    """
    total = len(export.store)
    written = unchanged = left_out = 0
    with Progress(total, "row", database.name, enabled=show_progress) as progress:
        for rows in export.batches(batch_size):
            after = written + unchanged + left_out
            hint = f"{after:,} of {total:,} rows are done: run the same again to go on with the others"
            known = {} if database.is_new or not len(rows) else patiently(database.digests, rows.ids, hint)
            changed = rows.unlike(known)
            if len(changed):
                with progress.keep_showing():
                    patiently(database.write, changed, hint)
            written += len(changed)
            unchanged += len(rows) - len(changed)
            left_out += rows.num_read - len(rows)
            progress.update(rows.num_read)
    return ExportReport(database.name, written, unchanged, left_out)


def patiently(action: Callable[..., ResultT], value: object, hint: str) -> ResultT:
    """Calls a function, again after a pause where a fault may pass, a few times.

    Args:
        action: The function.
        value: Its argument.
        hint: What to do when it has failed for good; it ends the message.

    Raises:
        ConnectionError: if each try has failed.
    """
    for pause in PAUSES:
        try:
            return action(value)
        except (ConnectionError, TimeoutError) as error:
            time.sleep(min(max(pause, getattr(error, "seconds", 0.0)), LONGEST_PAUSE))
    try:
        return action(value)
    except (ConnectionError, TimeoutError) as error:
        reason = one_line(mask_secrets(str(error))) or type(error).__name__
        raise ConnectionError(f"{reason} (tried {len(PAUSES) + 1} times); {hint}") from error
