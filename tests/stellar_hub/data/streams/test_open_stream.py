from pathlib import Path

import pytest
from datasets import Dataset

from stellar_hub.data.sources import JoinedSources
from stellar_hub.data.streams import TableStream, TarStream, open_images, open_stream
from tests.stellar_hub.data.sources.conftest import png


def test_tars__are_spelled_out(shards: list[Path]) -> None:
    stream = open_stream([f"stream:{shards[0].parent}/shard-{{000..001}}.tar", f"stream:{shards[2]}"])
    assert isinstance(stream, TarStream)
    assert stream.shards == tuple(str(path) for path in shards)


def test_pattern__is_expanded(shards: list[Path]) -> None:
    assert len(open_stream([f"stream:{shards[0].parent}/*.tar"]).shards) == 3


def test_addresses__are_not_looked_for_here() -> None:
    stream = open_stream(["stream:https://example.org/s-{0..1}.tar.gz?key=1", "stream:s3://bucket/a.tar"])
    assert stream.shards == (
        "https://example.org/s-0.tar.gz?***",
        "https://example.org/s-1.tar.gz?***",
        "s3://bucket/a.tar",
    )


def test_pattern_with_a_question_mark__is_expanded(shards: list[Path]) -> None:
    assert len(open_stream([f"stream:{shards[0].parent}/shard-00?.tar"]).shards) == 3


@pytest.mark.parametrize(
    "names",
    [
        ["stream:https://me:SECRET@h/a.txt?SECRET"],
        ["stream:https://me:SECRET@h/a.tar", "b.tar"],
        ["stream:https://me:SECRET@h/{9..1}.tar?SECRET"],
        ["stream:zip://a.tar::https://me:SECRET@h/a.zip?SECRET"],
        "stream:https://me:SECRET@h/a.tar",  # type: ignore[list-item]  # not a list
    ],
)
def test_errors__have_no_secrets(names: list[str]) -> None:
    with pytest.raises(ValueError, match="h/") as error:
        open_stream(names)
    assert "SECRET" not in str(error.value)


def test_parquet__is_a_table(tmp_path: Path) -> None:
    Dataset.from_dict({"image": [{"bytes": png(1), "path": None}]}).to_parquet(tmp_path / "a.parquet")
    assert isinstance(open_stream([f"stream:{tmp_path}/a.parquet"]), TableStream)


def test_hub_name__goes_to_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TableStream, "from_hub", classmethod(lambda cls, name, root: name))
    assert open_stream(["stream:hub:owner/name:test"]) == "owner/name:test"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["stream:a.tar", "b.tar"], "cannot be mixed"),
        (["stream:folder"], "cannot be read as a stream"),
        (["stream:hub:a/b", "stream:c.tar"], "cannot be read as a stream"),
    ],
)
def test_other_things__are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_images(names)


def test_plain_names__are_sources(shards: list[Path]) -> None:
    assert isinstance(open_images([str(path) for path in shards]), JoinedSources)


def test_repeats__are_refused(shards: list[Path]) -> None:
    with pytest.raises(ValueError, match=r"repeats \[2\]"):
        open_images([f"stream:{shards[0]}"], repeats=[2])
