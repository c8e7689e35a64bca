from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.data.sources import EncodedImage, ImageList, JoinedSources, read_image
from stellar_hub.data.sources.files import PackedNames
from stellar_hub.store.images_of_rows import ImagesOfRows, PlacesByName, find_rows, key_of


def listed(names: Sequence[str]) -> ImageList:
    """A source of these names; no file is there."""
    return ImageList(Path("/photos"), PackedNames.pack(names))


NAMES = st.lists(st.sampled_from(["a.png", "b.png", "c.png", "d\\.png", "e\n.png"]), max_size=9)


@given(known=NAMES, more=NAMES)
def test_rows__are_found_wherever_they_are(known: list[str], more: list[str]) -> None:
    source = listed(sorted([*known, *more]))
    recorded = ImagesOfRows(listed(known), range(len(known))).names()
    places = PlacesByName(source)
    found = find_rows(places, source, recorded, recorded, 7)
    assert found.names() == recorded
    assert not found.gone
    assert [str(found[row]) for row in range(7, len(found))] == [f"/photos/{name}" for name in known]
    rest = places.rest()
    assert sorted([*found.indices.tolist(), *rest]) == list(range(len(source)))
    assert sorted(str(source[index]) for index in rest) == sorted(f"/photos/{name}" for name in more)


def test_image_that_is_gone__cannot_be_read_and_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(b"")
    source = listed(["a.png", "b.png"])
    names = ["/photos/b.png", str(tmp_path / "there.png")]
    found = find_rows(PlacesByName(source), source, names, names, 0)
    assert found.indices.tolist() == [1, -1]
    assert (found.lacks(range(0, 1)), found.lacks(range(0, 2))) == (False, True)
    image = found[1]
    assert isinstance(image, EncodedImage)  # a name in a store opens no file
    assert (image.name, found.stamp(1), found.image_name(1)) == (names[1], "", names[1])
    with pytest.raises(ValueError, match="source does not have it"):
        read_image(image)
    for row in (-1, 2):
        with pytest.raises(IndexError):
            found[row]


def test_fingerprint__is_that_of_the_names(tmp_path: Path) -> None:
    one, other = listed(["a.png", "b.png"]), JoinedSources([listed(["b.png"]), listed(["a.png"])])
    assert ImagesOfRows(one, [0, 1]).fingerprint() == ImagesOfRows(other, [1, 0]).fingerprint()
    assert ImagesOfRows(one, [0, 1]).fingerprint() != ImagesOfRows(other, [0, 1]).fingerprint()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("/x/t.parquet, row 3", "/x/t.parquet, row 3"),
        ("/x/t.parquet and 2 more, row 3", "/x/t.parquet, row 3"),
        ("/x/../x/t.parquet, row 3 (a, row 4.png)", "/x/t.parquet, row 3 (a, row 4.png)"),
        ("/x/t.parquet, row 3 (a.png)", "/x/t.parquet, row 3"),
        ("./t.parquet, row 3", "/y/t.parquet, row 3"),
        ("owner/name, row 3", "owner/name, row 3"),
        ("/x/odd, row 3/a.png", "/x/odd, row 3/a.png"),
        ("/x/a.png", "/x/a.png"),
        ("/x/y/../a.png", "/x/a.png"),
        ("x.tar/y/../a.png", "x.tar/y/../a.png"),
        (", row 1" * 10_000, ", row 1" * 10_000),
    ],
)
def test_key__is_the_name_or_a_row_of_a_table(name: str, key: str) -> None:
    found = key_of(name, ["hub:owner/name", "/y/t.parquet"])
    assert found == key or len(name) > 1000
