"""Two processes over gloo measure what one measures, bit for bit, on sets that divide by neither."""

import json
from pathlib import Path

import pytest

from stellar_hub.modeling import StellarImageProcessor, StellarModel
from tests.evaluation_processes import run_processes
from tests.stellar_hub.evaluation.conftest import paint_classes, paint_masks

pytestmark = pytest.mark.slow


@pytest.fixture
def model(pixel_model: StellarModel, tmp_path: Path) -> Path:
    """The tiny model in a folder."""
    pixel_model.save_pretrained(tmp_path / "model")
    StellarImageProcessor.from_config(pixel_model.config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def options(model: Path, tmp_path: Path) -> list[object]:
    """13 images to learn from and 7 to measure on, in batches of 3; the last batch of either is not full."""
    train = paint_classes(tmp_path / "train", {"blue": 5, "green": 4, "red": 4}, 1)
    test = paint_classes(tmp_path / "test", {"blue": 3, "green": 2, "red": 2}, 2)
    return [
        "--train",
        train,
        "--test",
        test,
        "--model",
        model,
        "--batch-size",
        3,
        "--device",
        "cpu",
        "--num-workers",
        0,
    ]


def test_two_processes__give_the_numbers_of_one(options: list[object], tmp_path: Path) -> None:
    masked = paint_masks(tmp_path / "masked-train", 5, 1), paint_masks(tmp_path / "masked-test", 3, 2)
    masks = ["--segmentation-train", masked[0], "--segmentation-test", masked[1]]
    for count in (1, 2):
        log = tmp_path / f"log-{count}.txt"
        folders = ["--output", tmp_path / f"by-{count}", "--cache", tmp_path / f"cache-{count}"]
        assert run_processes(count, ["all", *options, *masks, *folders], log) == [0] * count, log.read_text()
    alone, together = (json.loads((tmp_path / name / "scorecard.json").read_text()) for name in ("by-1", "by-2"))
    assert together == alone
    assert set(alone["tasks"]) == {"knn", "linear", "segmentation", "reconstruction", "diagnostics"}
    caches = [tmp_path / name for name in ("cache-1", "cache-2")]
    files = [sorted(path.relative_to(cache) for path in cache.rglob("*.safetensors")) for cache in caches]
    assert files[0] == files[1]  # each batch was computed once, by one of the processes
    assert (tmp_path / "log-2.txt").read_text().count("most frequent class") == 2  # one process shows: kNN and linear


def test_more_processes_than_batches__wait_for_those_that_work(options: list[object], tmp_path: Path) -> None:
    few = ["--batch-size", 64, "--k", 3]
    for count in (1, 3):
        log = tmp_path / f"log-{count}.txt"
        arguments = ["knn", *options, *few, "--output", tmp_path / f"by-{count}"]
        assert run_processes(count, arguments, log) == [0] * count, log.read_text()
    alone, together = ((tmp_path / name / "knn.json").read_text() for name in ("by-1", "by-3"))
    assert alone == together


def test_images_that_one_process_cannot_read__are_left_out_by_all(options: list[object], tmp_path: Path) -> None:
    for count in (1, 2):
        for name in ("test/red/z.png", "train/blue/0.png")[2 - 2 * count :]:
            (tmp_path / name).write_bytes(b"no image")
        log = tmp_path / f"log-{count}.txt"
        arguments = ["knn", *options, "--k", 3, "--output", tmp_path / f"by-{count}"]
        assert run_processes(count, arguments, log) == [0] * count, log.read_text()
    alone, together = (json.loads((tmp_path / name / "knn.json").read_text()) for name in ("by-1", "by-2"))
    assert together["measurements"] == alone["measurements"]
    assert [Path(each["image"]).name for each in together["left_out"]] == ["0.png", "z.png"]
