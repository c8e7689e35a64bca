from pathlib import Path

import pytest
from datasets import Dataset

from stellar_hub.data.streams import DamagedShardError, TableStream
from tests.stellar_hub.data.sources.conftest import png


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two parquet files, of three images and of one."""
    paths = []
    for shard, colors in enumerate(((0, 1, 2), (3,))):
        rows = {"image": [{"bytes": png(color), "path": None} for color in colors], "label": list(colors)}
        paths.append(str(tmp_path / f"part-{shard}.parquet"))
        Dataset.from_dict(rows).to_parquet(paths[-1])
    return paths


def test_read__gives_each_image_once_file_by_file(files: list[str]) -> None:
    stream = TableStream.from_parquet(files)
    assert len(stream.shards) == 2
    assert [image.data for image in stream.read(0)] == [png(0), png(1), png(2)]
    assert [str(image) for image in stream.read(1)] == [f"{stream.shards[1]}, row 0"]


def test_read_twice__gives_the_same(files: list[str]) -> None:
    stream = TableStream.from_parquet(files)
    assert list(stream.read(0)) == list(stream.read(0))


def test_file_gone_meanwhile__is_damaged(files: list[str]) -> None:
    stream = TableStream.from_parquet(files)
    Path(files[1]).unlink()
    with pytest.raises(DamagedShardError, match="row 0"):
        list(stream.read(1))


def test_table_without_images__is_refused(tmp_path: Path) -> None:
    Dataset.from_dict({"label": [1]}).to_parquet(tmp_path / "part.parquet")
    with pytest.raises(ValueError, match="no column of images"):
        TableStream.from_parquet([str(tmp_path / "part.parquet")])


def test_unknown_column__is_refused(files: list[str]) -> None:
    with pytest.raises(ValueError, match="has no column 'photo'; it has image, label"):
        TableStream.from_parquet(files, column="photo")
