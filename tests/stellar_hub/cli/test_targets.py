"""Names of outputs, and the check that no file of the user is lost."""

import os
from pathlib import Path

import pytest

from stellar_hub.cli.targets import check_targets, plan_names


@pytest.mark.parametrize(
    ("names", "planned"),
    [
        (["a.jpg", "b.png"], ["a.out", "b.out"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg.out", "a.png.out", "b.out"]),
        (["cats/1.jpg", "dogs/1.jpg"], ["cats/1.out", "dogs/1.out"]),
        (["cats/1.jpg", "cats/1.png", "dogs/1.jpg"], ["cats/1.jpg.out", "cats/1.png.out", "dogs/1.out"]),
        (["a.jpg", "A.png"], ["a.jpg.out", "A.png.out"]),
        (["a.jpg", "a.png", "a.jpg.webp"], ["a.jpg.out", "a.png.out", "a.jpg.webp.out"]),
        (["caf\u00e9.jpg", "cafe\u0301.png"], ["caf\u00e9.jpg.out", "cafe\u0301.png.out"]),
        (["caf\udce9.jpg"], ["caf\udce9.out"]),
        (["a.b.jpg", ".hidden", "plain"], ["a.b.out", ".hidden.out", "plain.out"]),
    ],
)
def test_plan_names__keeps_the_extension_where_stems_collide(
    names: list[str], planned: list[str], tmp_path: Path
) -> None:
    assert plan_names(names, ".out", tmp_path) == planned


@pytest.mark.parametrize("letter", ["x", "é", "日", "\udce9"])
def test_plan_names__cuts_names_that_the_disk_does_not_take(letter: str, tmp_path: Path) -> None:
    names = [f"below/{letter * ((250 - len(end)) // len(os.fsencode(letter)))}{end}.jpg" for end in ("1", "2")]
    planned = plan_names(names, ".safetensors", tmp_path)
    assert len(set(planned)) == 2
    (tmp_path / "below").mkdir()
    for name in planned:
        assert name.endswith(".safetensors")
        (tmp_path / name).touch()


def test_check_targets__refuses_one_place_for_two(tmp_path: Path) -> None:
    sources = [tmp_path / "x" / "1.jpg", tmp_path / "y" / "1.jpg"]
    with pytest.raises(ValueError, match=r"x/1\.jpg, .*y/1\.jpg would"):
        check_targets(sources, [tmp_path / "1.out"] * 2, overwrite=True)


def test_check_targets__on_a_disk_that_ignores_case_refuses_names_that_differ_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, targets = [tmp_path / "x" / "A.jpg", tmp_path / "y" / "a.jpg"], [tmp_path / "A.out", tmp_path / "a.out"]
    check_targets(sources, targets, overwrite=False)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("stellar_hub.cli.targets._ignores_case", lambda target: True)
    with pytest.raises(ValueError, match="would all be written"):
        check_targets(sources, targets, overwrite=False)


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_check_targets__never_replaces_an_input(tmp_path: Path, link: object) -> None:
    source = tmp_path / "a.png"
    source.write_bytes(b"precious")
    target = source
    if callable(link):
        target = tmp_path / "other.png"
        link(source, target)
    with pytest.raises(ValueError, match=r"would replace .*a\.png"):
        check_targets([source], [target], overwrite=True)


def test_check_targets__through_a_linked_folder_never_replaces_an_input(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "photos")
    source = tmp_path / "photos" / "a.png"
    source.touch()
    with pytest.raises(ValueError, match="would replace"):
        check_targets([source], [tmp_path / "linked" / "a.png"], overwrite=True)


@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_check_targets__replaces_others_only_if_told(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "a.out"
    if kind == "file":
        target.touch()
    else:
        target.symlink_to(tmp_path / "nothing")
    with pytest.raises(FileExistsError, match=r"a\.out exists already"):
        check_targets([tmp_path / "a.jpg"], [target], overwrite=False)
    check_targets([tmp_path / "a.jpg"], [target], overwrite=True)
