from pathlib import Path

import pytest

from stellar_hub.data.labelled import open_labelled
from stellar_hub.data.sources import ImageFolder, ImageList, ImageTable, TarShards, open_source, open_sources
from stellar_hub.data.sources.open_sources import expand_pattern
from tests.stellar_hub.data.sources.conftest import png


def test_kinds__are_told_by_what_is_there(shards: list[Path], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(png(9))
    (tmp_path / "list.txt").write_text("folder/a.png\n")
    kinds = {
        tmp_path / "folder": (ImageFolder, 1),
        str(tmp_path / "list.txt"): (ImageList, 1),
        tmp_path / "folder" / "a.png": (ImageList, 1),
        str(shards[0]): (TarShards, 3),
        str(tmp_path / "shard-{000..002}.tar"): (TarShards, 6),
        str(tmp_path / "*.tar"): (TarShards, 6),
    }
    for name, (kind, count) in kinds.items():
        source = open_source(name)
        assert isinstance(source, kind)
        assert len(source) == count
    assert len(open_sources(list(kinds), repeats=[2, 1, 1, 1, 1, 1])) == 2 + 1 + 1 + 3 + 6 + 6
    assert open_source(tmp_path / "folder" / "a.png")[0] == tmp_path / "folder" / "a.png"


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


class TestExpandPattern:
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
        assert expand_pattern(pattern) == expected

    def test_file__whose_name_looks_like_a_pattern_is_itself(self, tmp_path: Path) -> None:
        (tmp_path / "a[1].tar").touch()
        assert expand_pattern(str(tmp_path / "a[1].tar")) == [str(tmp_path / "a[1].tar")]

    @pytest.mark.parametrize("pattern", ["a-{3..1}.tar", "a-{0..99999999}.tar"])
    def test_range__that_runs_backwards_or_is_too_long_is_refused(self, pattern: str) -> None:
        with pytest.raises(ValueError, match=r"\{\d+\.\.\d+\} in a-"):
            expand_pattern(pattern)

    def test_pattern__without_a_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"\*\.tar"):
            expand_pattern(str(tmp_path / "*.tar"))


def test_hub_name__goes_to_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageTable, "from_hub", classmethod(lambda cls, name, root: name))
    assert open_source("hub:owner/name:test") == "owner/name:test"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("gone", FileNotFoundError, "gone"),
        ("gone.tar", FileNotFoundError, r"gone\.tar"),
        ("a.tar.gz", ValueError, r"a\.tar\.gz .*stream:"),
        ("a.zip", ValueError, r"a\.zip .*\.txt.*\.tar.*\.parquet.*hub:"),
    ],
)
def test_other_names__are_refused(tmp_path: Path, name: str, error: type[Exception], message: str) -> None:
    (tmp_path / "a.zip").touch()
    (tmp_path / "a.tar.gz").touch()
    with pytest.raises(error, match=message):
        open_source(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["a.parquet", "a-*.tar", "a.tar.gz", "a.txt", "folder", "a.csv", "{2..1}.parquet?SECRET"]
)
def test_address__is_refused_without_its_secrets(name: str) -> None:
    for opened in (open_source, open_labelled):
        with pytest.raises(ValueError, match="stream:ADDRESS") as error:
            opened(f"https://me:SECRET@host/{name}")
        assert "SECRET" not in str(error.value)


def test_pattern__without_a_file_is_printable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        open_source(f"{tmp_path}/\x1b[31m*.tar")
    assert str(error.value).isprintable()


def test_one_name_instead_of_a_list__is_refused() -> None:
    with pytest.raises(ValueError, match=r"write \['photos'\]"):
        open_sources("photos")
