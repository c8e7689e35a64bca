import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.data.sources import EncodedImage
from stellar_hub.features.rows import (
    FeatureBatch,
    FeatureRow,
    ImageRecord,
    file_name,
    name_of,
    named_once,
    printable,
    printable_line,
    roots_of,
)
from stellar_hub.modeling.safe_text import escape_control, one_line


@given(st.text(st.characters(codec=None, exclude_categories=["Cs"]), max_size=30))
def test_printable__shows_no_control_characters_and_leads_back(name: str) -> None:
    assert escape_control(printable(name)) == printable(name)
    assert file_name(printable(name)) == name


@given(st.binary(max_size=30))
def test_printable__is_utf8_and_leads_back(name: bytes) -> None:
    original = os.fsdecode(name)
    printed = printable(original)
    printed.encode("utf-8")
    assert file_name(printed) == original


def test_printable__leaves_usual_names_alone() -> None:
    assert printable("/data/ä b/1.jpg") == "/data/ä b/1.jpg"
    assert printable(os.fsdecode(b"caf\xe9.jpg")) == r"caf\xe9.jpg"
    assert printable("a\x1b[31m\n.jpg") == r"a\u001b[31m\u000a.jpg"


def test_name__is_a_path_or_a_member() -> None:
    assert name_of(Path("/data/1.jpg"), 7) == "/data/1.jpg"
    assert name_of(EncodedImage("a.tar/1.jpg", b""), 7) == "a.tar/1.jpg"
    assert name_of(object(), 7) == "image 7"


def test_status__follows_from_the_error() -> None:
    assert ImageRecord(0, "a").status == "ok"
    assert ImageRecord(0, "a", error="cut short").status == "error"


BATCH = FeatureBatch([ImageRecord(4, "a"), ImageRecord(5, "b", error="why")], {"S": torch.zeros(2, 4, 8)})


def test_batch__tells_rows_and_which_are_ok() -> None:
    assert BATCH.row_ids.tolist() == [4, 5]
    assert BATCH.ok.tolist() == [True, False]
    assert len(BATCH) == 2
    assert BATCH["S"] is BATCH.features["S"]


def test_batch__names_what_it_has() -> None:
    with pytest.raises(KeyError, match="S, not 'L'"):
        BATCH["L"]


def test_batch__gives_its_rows() -> None:
    first, second = BATCH
    assert first.record is BATCH.records[0]
    assert torch.equal(second["S"], BATCH["S"][1])
    assert BATCH[-1].record.row == 5
    with pytest.raises(IndexError, match="row 2 of a batch of 2"):
        BATCH[2]


def test_row__is_read_by_name_and_unpacked() -> None:
    row = BATCH[0]
    record, features = row
    assert row["S"] is features["S"]
    assert (record, features) == (row.record, row.features)
    with pytest.raises(KeyError, match="did you mean 'pooled'"):
        FeatureRow(record, {"pooled": features["S"]})["poled"]


def test_repr__has_names_shapes_and_counts_but_no_values() -> None:
    assert repr(BATCH) == "FeatureBatch(2 rows, 1 with an error; S (2, 4, 8) float32)"
    assert repr(BATCH[0]) == "FeatureRow(row 4, 'a'; S (4, 8) float32)"
    assert repr(BATCH[1]) == "FeatureRow(row 5, 'b', an error; S (4, 8) float32)"
    assert "\x1b" not in repr(FeatureRow(ImageRecord(0, "\x1b[31m"), {}))


@pytest.mark.parametrize("spell", [str, one_line, escape_control, printable])
@pytest.mark.parametrize("name", ["a/b.jpg", "a/new\nline.jpg", "a/two  blanks\x1b.jpg", "c:\\b.jpg"])
def test_name__is_in_an_error_once(name: str, spell: Callable[[str], str]) -> None:
    line = one_line(f"{spell(name)} cannot be read")
    assert named_once(line, printable(name)) == f"{printable(name)} cannot be read"
    assert named_once("cut short", printable(name)) == f"{printable(name)}: cut short"


def test_error__is_one_printable_line() -> None:
    assert printable_line(ValueError("a\nb \x1b[31m")) == r"a b \x1b[31m"
    assert printable_line(KeyError()) == "KeyError"


def test_label__is_that_of_the_root_whatever_its_name() -> None:
    root = "/a\x1b b/photos\udce9"
    image = printable(f"{root}/cats\udce9/outdoors/1.jpg")
    assert ImageRecord(0, image, roots=roots_of(f"{root}/", "hub:owner/name")).label == r"cats\xe9"
    assert ImageRecord(0, image).label == "outdoors"
    assert ImageRecord(0, r"C:\\photos\\cats\\old\\1.jpg", roots=roots_of(r"C:\photos")).label == "cats"
