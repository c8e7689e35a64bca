"""The images of a run's probes: which ones, and what happens with those that cannot be read."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from stellar_hub.modeling import StellarConfig, StellarImageProcessor
from stellar_hub.training.monitoring.probe_images import MAX_CLASSES, MAX_IMAGES, choose_rows, read_images, spread
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.train import train
from tests.stellar_hub.training.conftest import changed, draw_images, journal_of

CONFIG = StellarConfig(image_size=32, patch_size=8)


def test_rows__are_all_of_a_small_set_but_classes_of_one_image() -> None:
    assert choose_rows([1, 0, 0, 1, 2, 0]) == [0, 1, 2, 3, 5]


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [0, 0, 1]])
def test_rows__are_none_without_two_classes_of_two(labels: list[int]) -> None:
    assert choose_rows(labels) == []


def test_rows__are_as_many_of_each_class_and_spread() -> None:
    labels = [0] * 9000 + [1] * 700 + [2] * 100
    rows = choose_rows(labels)
    assert Counter(labels[row] for row in rows) == {0: MAX_IMAGES // 3, 1: MAX_IMAGES // 3, 2: 100}
    assert rows[0] == 0
    assert 8999 in rows
    assert rows == sorted(set(rows))


def test_rows__of_many_classes_are_of_some() -> None:
    labels = [row % 1000 for row in range(20_000)]
    counts = Counter(labels[row] for row in choose_rows(labels))
    assert set(counts.values()) == {MAX_IMAGES // MAX_CLASSES}
    assert len(counts) == MAX_CLASSES


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (3, [0, 4, 9]), (10, list(range(10)))])
def test_spread__goes_from_the_first_to_the_last(count: int, expected: list[int]) -> None:
    assert spread(range(10), count) == expected


@pytest.mark.parametrize("num_workers", [0, 1])
def test_images__are_as_the_model_sees_them_without_those_that_cannot_be_read(tmp_path: Path, num_workers: int) -> None:
    folder = draw_images(tmp_path / "images", 3)
    (folder / "image-1.png").write_bytes(b"no image")
    problems: list[str] = []
    paths = [folder / f"image-{index}.png" for index in range(3)]
    pixels, read = read_images(paths, CONFIG, num_workers, problems)
    assert read == [0, 2]
    expected = StellarImageProcessor.from_config(CONFIG)(paths[2], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixels[1].float() / 255, expected)
    assert len(problems) == 1
    assert "image-1.png" in problems[0]


@pytest.mark.parametrize("damaged", [1, 4])
def test_run__leaves_out_images_that_cannot_be_read_and_says_so(
    tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: int
) -> None:
    for name in ("a", "b"):
        draw_images(tmp_path / "classes" / name, 3)
    for path in sorted((tmp_path / "classes").glob("*/*.png"))[:damaged]:
        path.write_bytes(b"no image")
    recipe = changed(tiny_recipe, "probe_every=1", "steps=1", f"data.probe={tmp_path / 'classes'}")
    train(recipe, tmp_path / "run", cpu=True)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "cannot be read" in line]
    assert f"leaves out {damaged} images" in line
    assert "image-0.png" in line
    assert ("probe_knn" in journal_of(tmp_path / "run")[0]) is (damaged == 1)


@pytest.mark.parametrize(
    ("probe", "error", "message"),
    [("nowhere", FileNotFoundError, "nowhere"), ("one", ValueError, r"data\.probe .* 3 images of 1 classes")],
)
def test_probe_that_cannot_be__is_refused_before_the_run_begins(
    tiny_recipe: Recipe, tmp_path: Path, probe: str, error: type[Exception], message: str
) -> None:
    draw_images(tmp_path / "one" / "a", 3)
    with pytest.raises(error, match=message):
        train(changed(tiny_recipe, "probe_every=1", f"data.probe={tmp_path / probe}"), tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()


def test_probe_without_probes__is_said(tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(changed(tiny_recipe, "steps=1", "data.probe=nowhere"), tmp_path / "run", cpu=True)
    assert "run.probe_every is 0" in capsys.readouterr().err
