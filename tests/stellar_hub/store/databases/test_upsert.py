"""Rows into a database that fails at times."""

from collections.abc import Iterator

import pytest

from stellar_hub.store import FeatureStore
from stellar_hub.store.databases import upsert as module
from stellar_hub.store.databases.outgoing import OutgoingRows, plan_export
from stellar_hub.store.databases.upsert import PAUSES, BusyError, upsert

BATCH = 7


class FakeDatabase:
    """A database that fails as a list of errors says, one for each write; None lets a write pass."""

    def __init__(self, *errors: BaseException | None):
        self.name, self.is_new = "the collection photos", True
        self.rows: dict[str, str] = {}
        self.num_sent = 0
        self.errors: Iterator[BaseException | None] = iter(errors)

    def digests(self, ids: list[str]) -> dict[str, str]:
        return {row_id: self.rows[row_id] for row_id in ids if row_id in self.rows}

    def write(self, rows: OutgoingRows) -> None:
        error = next(self.errors, None)
        pairs = list(zip(rows.ids, rows.table["digest"].to_pylist(), strict=True))
        sent = pairs if error is None else pairs[: len(pairs) // 2]  # it dies in the middle
        self.rows |= dict(sent)
        self.num_sent += len(sent)
        if error is not None:
            raise error


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, in seconds; none of them takes time."""
    made: list[float] = []
    monkeypatch.setattr(module.time, "sleep", made.append)
    return made


def run(store: FeatureStore, database: FakeDatabase) -> tuple[int, int, int]:
    report = upsert(plan_export(store, None, "float32", None, to_search=True), database, BATCH, show_progress=False)
    return report.written, report.unchanged, report.left_out


def test_upsert__writes_each_row_once(store: FeatureStore) -> None:
    database = FakeDatabase()
    assert run(store, database) == (58, 0, 2)
    assert (len(database.rows), database.num_sent) == (58, 58)
    database.is_new = False
    assert run(store, database) == (0, 58, 2)
    assert database.num_sent == 58


def test_passing_faults__are_waited_for(store: FeatureStore, pauses: list[float]) -> None:
    database = FakeDatabase(None, ConnectionError("away"), BusyError("busy", 30), TimeoutError(), None)
    assert run(store, database) == (58, 0, 2)
    assert pauses == [1.0, 30.0, 4.0]
    assert len(database.rows) == 58


def test_server_that_stays_away__is_an_error_with_the_next_step(store: FeatureStore, pauses: list[float]) -> None:
    away = ConnectionError("no answer from http://me:secret@host/x")
    database = FakeDatabase(None, None, *[away] * (len(PAUSES) + 1))
    with pytest.raises(ConnectionError, match=r"6 times.*14 of 60 rows.*run the same again") as raised:
        run(store, database)
    assert "secret" not in str(raised.value)
    assert pauses == list(PAUSES)


@pytest.mark.parametrize("error", [ConnectionError("away"), KeyboardInterrupt(), ValueError("refused")])
def test_interrupted_upsert__goes_on_without_doubles(
    store: FeatureStore, pauses: list[float], error: BaseException
) -> None:
    database = FakeDatabase(None, None, None, *[error] * (len(PAUSES) + 1))
    with pytest.raises(type(error)):
        run(store, database)
    there, sent = len(database.rows), database.num_sent
    assert 16 < there < 30
    database.is_new, database.errors = False, iter(())
    assert run(store, database) == (58 - there, there, 2)
    assert (len(database.rows), database.num_sent) == (58, sent + 58 - there)


def test_other_errors__are_not_tried_again(store: FeatureStore, pauses: list[float]) -> None:
    with pytest.raises(ValueError, match="refused"):
        run(store, FakeDatabase(ValueError("refused")))
    assert pauses == []
