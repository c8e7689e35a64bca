from typing import NamedTuple

import pytest

from stellar_hub.data.sources.tar_images import (
    BESIDE,
    SEVERAL,
    Links,
    PassedOver,
    choose_by_key,
    is_image,
    refusal_of_size,
)
from stellar_hub.data.sources.tar_members import Member


class Named(NamedTuple):
    name: str
    size: int = 1


def choose(*names: str, size: int = 1) -> tuple[list[str], PassedOver]:
    passed_over = PassedOver()
    return [image.name for image in choose_by_key([Named(name, size) for name in names], passed_over)], passed_over


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg", "a.seg.png", "b.jpg", "b.seg.png"], ["a.jpg", "b.jpg"]),
        (["a.depth.png", "a.jpg", "a.seg.png", "b.jpg"], ["a.jpg", "b.jpg"]),
        (["x/a.jpg", "y/a.seg.png"], ["x/a.jpg", "y/a.seg.png"]),
        (["a.left.jpg", "a.right.jpg"], ["a.left.jpg", "a.right.jpg"]),
        (["a.jpg", "b.jpg", "a.seg.png"], ["a.jpg", "b.jpg", "a.seg.png"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
    ],
)
def test_key__prefers_the_plain_name(names: list[str], expected: list[str]) -> None:
    assert choose(*names)[0] == expected


def test_key__counts_what_it_leaves_out() -> None:
    passed_over = choose("a.depth.png", "a.jpg", "a.seg.png", "b.jpg", "b.png")[1]
    assert passed_over.counts == {BESIDE: 2, SEVERAL: 1}
    assert passed_over.counted_notes()[BESIDE].endswith("2, such as a.depth.png")


def test_long_series__is_no_sample_and_is_not_held() -> None:
    names = [f"frame.{number:04d}.jpg" for number in range(100)]
    assert choose(*names)[0] == names
    assert choose("a.left.jpg", "a.right.jpg", "a.jpg", size=2**26)[0] == ["a.left.jpg", "a.right.jpg", "a.jpg"]


def link(name: str, target: str, kind: str = "link") -> Member:
    return Member(name, kind, target, 0, 0, False)


@pytest.mark.parametrize(
    ("member", "file"),
    [
        (link("b.jpg", "./x/a.jpg"), "x/a.jpg"),
        (link("x/b.jpg", "a.jpg", "symlink"), "x/a.jpg"),
        (link("x/b.jpg", "../a.jpg", "symlink"), "a.jpg"),
        (link("b.jpg", "/etc/a.jpg", "symlink"), "/"),
        (link("x/b.jpg", "../../etc/a.jpg", "symlink"), "../etc/a.jpg"),
    ],
)
def test_links__lead_to_names_of_the_tar(member: Member, file: str) -> None:
    links = Links()
    links.add(member)
    assert links.of_files() == {file: [member.name]}


def test_links__in_a_row_and_in_a_circle_end() -> None:
    links = Links()
    for member in (link("c.jpg", "b"), link("b", "a.jpg", "symlink"), link("r.jpg", "s.jpg"), link("s.jpg", "r.jpg")):
        links.add(member)
    assert links.of_files()["a.jpg"] == ["c.jpg"]


def test_size__above_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_IMAGE_BYTES", "10")
    assert refusal_of_size(10, "a.jpg") == ""
    assert refusal_of_size(11, "a.jpg").startswith("a.jpg has 11 bytes")


def test_suffixes__are_counted_and_escaped() -> None:
    passed_over = PassedOver()
    passed_over.suffixes.update([".cls", ".cls", "", ".\x1b"])
    assert passed_over.suffix_notes() == (r"4 files are not images by their suffix (.cls, none, .\x1b)",)


@pytest.mark.parametrize(("name", "expected"), [("a/b.JPG", True), ("a/._b.jpg", False), ("b.json", False)])
def test_image__is_known_by_its_suffix(name: str, expected: bool) -> None:
    assert is_image(name) == expected
