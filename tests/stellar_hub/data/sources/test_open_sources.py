from pathlib import Path

import pytest

from stellar_hub.data.sources import ImageFolder, ImageList, TarShards, open_source, open_sources
from stellar_hub.data.sources import open_sources as package_function
from stellar_hub.data.sources.open_sources import expand
from tests.stellar_hub.data.sources.conftest import png


def test_kinds__are_told_by_what_is_there(shards: list[Path], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(png(9))
    (tmp_path / "list.txt").write_text("folder/a.png\n")
    kinds = {
        tmp_path / "folder": (ImageFolder, 1),
        str(tmp_path / "list.txt"): (ImageList, 1),
        str(shards[0]): (TarShards, 3),
        str(tmp_path / "shard-{000..002}.tar"): (TarShards, 6),
        str(tmp_path / "*.tar"): (TarShards, 6),
    }
    for name, (kind, count) in kinds.items():
        source = open_source(name)
        assert isinstance(source, kind)
        assert len(source) == count
    assert len(open_sources(list(kinds), repeats=[2, 1, 1, 1, 1])) == 2 + 1 + 3 + 6 + 6
    assert package_function is open_sources


def test_saved_table__is_told_from_a_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra: pip install '.[datasets]'")
    cells = [{"bytes": png(1), "path": None}]
    table = datasets.Dataset.from_dict(
        {"image": cells}, features=datasets.Features({"image": datasets.Image(decode=False)})
    )
    table.save_to_disk(tmp_path / "saved")
    table.to_parquet(tmp_path / "part-0.parquet")
    for name in ("saved", "part-*.parquet"):
        assert open_source(tmp_path / name)[0].data == png(1)  # type: ignore[union-attr]


class TestExpand:
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("a.tar", ["a.tar"]),
            ("a-{8..11}.tar", ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]),
            ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
            ("{0..1}/{0..1}.tar", ["0/0.tar", "0/1.tar", "1/0.tar", "1/1.tar"]),
        ],
    )
    def test_ranges__keep_their_zeros(self, pattern: str, expected: list[str]) -> None:
        assert expand(pattern) == expected

    def test_file__whose_name_looks_like_a_pattern_is_itself(self, tmp_path: Path) -> None:
        (tmp_path / "a[1].tar").touch()
        assert expand(str(tmp_path / "a[1].tar")) == [str(tmp_path / "a[1].tar")]

    @pytest.mark.parametrize("pattern", ["a-{3..1}.tar", "a-{0..99999999}.tar"])
    def test_range__that_is_none_is_refused(self, pattern: str) -> None:
        with pytest.raises(ValueError, match="must go from a number to a larger one"):
            expand(pattern)

    def test_nothing_that_fits(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no file fits .*\*\.tar"):
            expand(str(tmp_path / "*.tar"))


class TestErrors:
    def test_one_name_instead_of_a_list(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"must be a list, got 'photos'; write \['photos'\]"):
            open_sources("photos")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no such folder: .*gone"):
            open_source(tmp_path / "gone")
        with pytest.raises(FileNotFoundError, match=r"no such tar file: .*gone\.tar"):
            open_source(tmp_path / "gone.tar")

    def test_other_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.zip").touch()
        with pytest.raises(ValueError, match=r"a\.zip is no source of images: name a folder, a list \(\.txt\)"):
            open_source(tmp_path / "a.zip")
