"""The rows that leave a store."""

import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.features.rows import ImageRecord
from stellar_hub.store import FeatureStore
from stellar_hub.store.databases.outgoing import Export, ExportReport, as_lists, columns_schema, plan_export


def plan(store: FeatureStore, outputs: Any = None, dtype: str = "float32", source: str | None = None) -> Export:
    return plan_export(store, outputs, dtype, source, to_search=True)


def made_by(weights: str = "w", preprocessing: str = "p", source: str = "s") -> Export:
    """An export of a store of this model and preprocessing."""
    manifest = SimpleNamespace(model={"weights_sha256": weights}, preprocessing={"id": preprocessing})
    return Export(SimpleNamespace(manifest=manifest), ("S",), "float32", source)  # type: ignore[arg-type]


def test_network__is_blocked() -> None:
    with pytest.raises(AssertionError, match="network"):
        socket.create_connection(("127.0.0.1", 9))


ROWS = st.lists(st.tuples(st.integers(0, 2**53), st.text('a/ü\\"0', max_size=6)), unique=True, min_size=2, max_size=20)


@given(ROWS)
def test_ids__are_stable_and_unique(rows: list[tuple[int, str]]) -> None:
    ids = [made_by().id_of(ImageRecord(row, image)) for row, image in rows]
    assert ids == [made_by().id_of(ImageRecord(row, image, (1, 2), (0.0, 0.0, 1.0, 1.0))) for row, image in rows]
    assert len({UUID(each) for each in ids}) == len(rows)


def test_ids__stay_for_ever() -> None:
    assert made_by().id_of(ImageRecord(7, "photos/a.png")) == "2be82ec5-92cf-53f2-9751-84ace4ecf33f"


@pytest.mark.parametrize("other", [{"weights": "v"}, {"preprocessing": "q"}, {"source": "t"}])
def test_ids__differ_between_models_preprocessings_and_stores(other: dict[str, str]) -> None:
    record = ImageRecord(7, "photos/a.png")
    assert made_by(**other).id_of(record) != made_by().id_of(record)


def test_rows__have_the_columns_of_the_index_and_their_features(store: FeatureStore) -> None:
    batches = list(plan(store).batches(10))
    lines = [line for rows in batches for line in rows.table.to_pylist()]
    assert [line["row"] for line in lines] == store.ok.nonzero().flatten().tolist()
    assert {rows.table.schema for rows in batches} == {columns_schema()}
    assert lines[3] | {"id": "", "digest": ""} == {
        "id": "",
        "source": "store",
        "row": 4,
        "image": "/photos/class1/0004 ü'\".png",
        "original_height": 40,
        "original_width": 60,
        "crop_top": 0.0,
        "crop_left": 10.0,
        "crop_bottom": 40.0,
        "crop_right": 50.0,
        "label": "class1",
        "digest": "",
    }
    np.testing.assert_array_equal(np.concatenate([rows.features["S"] for rows in batches]), store["S"][store.ok])
    assert sum(rows.num_read for rows in batches) == len(store)


def test_batches__read_so_many_rows_at_a_time(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read, sizes = store.read, []
    monkeypatch.setattr(store, "read", lambda name, rows: sizes.append(len(rows)) or read(name, rows))
    assert sum(map(len, plan(store).batches(5))) == 58
    assert max(sizes) == 5


def test_digest__changes_with_the_features(build_store: Callable[..., FeatureStore]) -> None:
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    digests = []
    for change in (0.0, 1e-3):
        values[1, 2] += change
        store = build_store(f"changed by {change}", count=3, bad=(), pooled=values)
        (rows,) = plan(store, source="one").batches(3)
        digests.append(rows.table["digest"].to_pylist())
    assert [one == other for one, other in zip(*digests, strict=True)] == [True, False, True]


def test_unlike__gives_rows_that_are_missing_or_have_changed(store: FeatureStore) -> None:
    rows = next(plan(store).batches(6))
    digests = dict(zip(rows.ids, rows.table["digest"].to_pylist(), strict=True))
    known = digests | {rows.ids[2]: "another"}
    del known[rows.ids[4]]
    changed = rows.unlike(known)
    assert changed.ids == [rows.ids[2], rows.ids[4]]
    np.testing.assert_array_equal(changed.features["S"], rows.features["S"][[2, 4]])
    assert len(rows.unlike(digests)) == 0


def test_lists__keep_shape_and_values() -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert np.array_equal(as_lists(values).to_pylist(), values)


def test_float16__refuses_values_that_do_not_fit(build_store: Callable[..., FeatureStore]) -> None:
    store = build_store(count=2, bad=(), pooled=torch.tensor([[1.0, 2.0], [70000.0, 0.0]]))
    with pytest.raises(ValueError, match="float16"):
        list(plan(store, dtype="float16").batches(2))
    (rows,) = plan(store).batches(2)
    assert rows.features["pooled"][1, 0] == 70000


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"dtype": "int8"}, ValueError, "dtype"),
        ({"outputs": ["cls"]}, KeyError, "cls"),
        ({"outputs": []}, ValueError, "outputs"),
    ],
)
def test_plan__refuses_what_cannot_be(
    store: FeatureStore, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        plan(store, **options)


def test_plan__refuses_features_that_are_no_vectors(build_store: Callable[..., FeatureStore]) -> None:
    store = build_store(count=2, bad=(), pixels=torch.rand(2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"pixels.*\(3, 4, 5\)"):
        plan(store, ["pixels"])
    assert plan_export(store, None, "float32", None, to_search=False).outputs == ("pixels",)


@pytest.mark.parametrize("name", ["../../up", "row", ".hidden", "a b"])
def test_plan__refuses_names_that_are_no_columns(build_store: Callable[..., FeatureStore], name: str) -> None:
    store = build_store(count=2, bad=(), **{name: torch.rand(2, 3)})
    with pytest.raises(ValueError, match="name"):
        plan_export(store, None, "float32", None, to_search=False)


def test_plan__refuses_a_store_of_errors_alone(build_store: Callable[..., FeatureStore]) -> None:
    with pytest.raises(ValueError, match="all 2 rows have an error"):
        plan(build_store(count=2, bad=(0, 1)))


def test_report__is_a_line() -> None:
    assert str(ExportReport("the table a", 1234, 0, 0)) == "the table a: 1,234 rows written"
    line = str(ExportReport("x\x1b", 1, 2, 3))
    assert line == "x\\x1b: 1 rows written, 2 were there already, 3 with an error left out"
