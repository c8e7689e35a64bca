from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.data.sources import JoinedSources, sample_images


class Numbered:
    """A source of `count` images, named by a letter and a number."""

    def __init__(self, letter: str, count: int):
        self.letter, self.count = letter, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Path:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return Path(f"{self.letter}{index}")

    def fingerprint(self) -> str:
        return f"{self.letter} {self.count}"


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4))
def test_images__come_source_by_source_with_repeats(shapes: list[tuple[int, int]]) -> None:
    sources = [Numbered(chr(97 + place), count) for place, (count, _) in enumerate(shapes)]
    joined = JoinedSources(sources, [repeat for _, repeat in shapes])
    expected = [
        Path(f"{source.letter}{index}")
        for source, (count, repeat) in zip(sources, shapes, strict=True)
        for _ in range(repeat)
        for index in range(count)
    ]
    assert len(joined) == len(expected)
    assert [joined.image_name(index) for index in range(len(joined))] == [str(path) for path in expected]
    assert list(joined) == [joined[index] for index in range(len(joined))] == expected


def test_fingerprint__changes_with_sources_order_and_repeats() -> None:
    a, b = Numbered("a", 2), Numbered("b", 1)
    found = [JoinedSources(*given).fingerprint() for given in (([a, b],), ([b, a],), ([a],), ([a, b], [1, 2]))]
    assert len(set(found)) == 4
    assert JoinedSources([a, b], [1, 1]).fingerprint() == found[0]


@pytest.mark.parametrize("index", [-1, 3])
def test_getitem__refuses_what_lies_outside(index: int) -> None:
    with pytest.raises(IndexError, match=rf"{index} .* 3 images"):
        JoinedSources([Numbered("a", 2), Numbered("b", 1)])[index]


@pytest.mark.parametrize(
    ("sources", "repeats", "message"),
    [
        ([], [], "no source"),
        ([Numbered("a", 2), Numbered("b", 0)], [], "source 1 has no images"),
        ([Numbered("a", 2)], [1, 2, 3], r"\[1, 2, 3\]"),
        ([Numbered("a", 2)], [0], r"repeats .*\[0\]"),
        ([Numbered("a", 2)], [1.5], r"repeats .*\[1\.5\]"),
    ],
)
def test_joined__refuses_what_does_not_fit(sources: list[Numbered], repeats: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JoinedSources(sources, repeats)


SOURCE = [Path(str(number)) for number in range(50)]


def test_sample__follows_the_seed_in_the_order_of_the_source() -> None:
    drawn = sample_images(SOURCE, 20, seed=1)
    assert len(drawn) == 20
    assert len(set(drawn.indices)) == 20
    assert list(drawn.indices) == sorted(drawn.indices)
    assert [drawn[index] for index in range(20)] == [SOURCE[index] for index in drawn.indices]
    assert sample_images(SOURCE, 20, seed=1).indices == drawn.indices
    assert sample_images(SOURCE, 20, seed=2).indices != drawn.indices
    assert list(sample_images(SOURCE, 100, seed=1)) == SOURCE
