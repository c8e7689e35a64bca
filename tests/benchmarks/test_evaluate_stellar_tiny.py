"""The evaluation of stellar-tiny: its data, the tables it writes, and what it refuses."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from stellar_hub.evaluation import Measurement, Report
from stellar_hub.modeling import StellarImageProcessor, StellarModel

ROOT = Path(__file__).parents[2]
CARD = "# model\n\n<!-- evaluation -->\nold\n<!-- /evaluation -->\n\n## License\n"
FEW = ["--scenes-train", "20", "--scenes-test", "5"]


@pytest.fixture
def evaluation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; it imports a neighbour, as a script can."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("evaluate_stellar_tiny")


@pytest.fixture
def checkpoint(pixel_model: StellarModel, tmp_path: Path) -> Path:
    pixel_model.save_pretrained(tmp_path / "tiny")
    StellarImageProcessor.from_config(pixel_model.config).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def run(evaluation: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate_stellar_tiny.py", *options])
    return evaluation.main()


def test_scenes__have_the_class_of_the_largest_object(evaluation: ModuleType) -> None:
    scenes = evaluation.draw_scenes("train", 6, 32, "outline")
    assert scenes.pixels.shape == (6, 3, 32, 32)
    for index, label in enumerate(scenes.labelled.labels):
        scene = evaluation.draw_scene(1_000_000 + index, 32, 3)
        areas = [int(mask.sum()) for mask in scene.masks]
        assert evaluation.SCENE_CLASSES[label] == scene.classes[areas.index(max(areas))]


def test_seeds__are_apart_from_those_of_training_scenes(evaluation: ModuleType) -> None:
    drawing = (ROOT / "examples" / "draw_scenes.py").read_text()
    assert "FIRST_EVALUATION_SEED = 1_000_000\n" in drawing
    assert 1_000_000 <= evaluation.FIRST_SEED["train"] < evaluation.FIRST_SEED["test"]


def test_true_masks__tell_the_class(evaluation: ModuleType) -> None:
    train, test = (
        evaluation.draw_scenes(split, count, 32, "outline") for split, count in (("train", 200), ("test", 60))
    )
    bank, queries = evaluation.cropped_masks(train.masks), evaluation.cropped_masks(test.masks)
    assert evaluation.classify(bank, queries, train, test) > 50  # chance is 12.5


def test_histograms__count_colours(evaluation: ModuleType) -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    images[1, :, :2] = 255
    histograms = evaluation.color_histograms(images, evaluation.fit_colors(images, 2))
    assert sorted(histograms[1].tolist()) == [0.25, 0.75]
    assert sorted(histograms[0].tolist()) == [0.0, 1.0]


def test_main__writes_the_same_tables_everywhere(
    evaluation: ModuleType,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    card, numbers = tmp_path / "README.md", tmp_path / "numbers.json"
    card.write_text(CARD)
    files = ["--json", str(numbers), "--update-card", str(card)]
    # The sides of pixels' patches are those of the true stellar-tiny.
    monkeypatch.setattr("stellar_hub.features.backbones.pixels.SIDE", 32)
    assert run(evaluation, monkeypatch, "--model", str(checkpoint), *FEW, *files) == 0
    printed, written = capsys.readouterr().out, card.read_text()
    assert printed.strip() == written.split("<!-- evaluation -->\n")[1].split("\n<!-- /evaluation -->")[0]
    assert written.endswith("\n\n## License\n")
    fields = json.loads(numbers.read_text())
    assert [len(fields[name]["measurements"]) for name in ("recognition", "objects", "reconstruction")] == [10, 6, 3]
    iou = {row["model"]: row["metrics"]["IoU, %"] for row in fields["objects"]["measurements"]}
    assert max(iou.values()) == iou["bound: the best union of patches"] <= 100


@pytest.mark.parametrize(("trained", "code"), [(30.0, 0), (29.9, 1)])
def test_check__needs_ten_points(
    evaluation: ModuleType, monkeypatch: pytest.MonkeyPatch, trained: float, code: int
) -> None:
    rows = [Measurement(name, "pooled", {"k=20, %": value}) for name, value in (("a", trained), ("a:random", 20.0))]
    reports = {"recognition": Report("knn", {}, {}, [], rows)}
    monkeypatch.setattr(evaluation, "evaluate", lambda args: reports)
    monkeypatch.setattr(evaluation, "markdown", lambda reports, args: "")
    assert run(evaluation, monkeypatch, "--check") == code
    assert run(evaluation, monkeypatch) == 0


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--scenes-train", "19"], "--scenes-train"),
        (["--scenes-test", "0"], "--scenes-test"),
        (["--images", "nowhere"], "nowhere"),
        (["--json", "nowhere/numbers.json"], "nowhere/numbers.json"),
        (["--update-card", "nowhere.md"], "nowhere.md"),
    ],
)
def test_main__refuses_before_measuring(
    evaluation: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    part: str,
) -> None:
    monkeypatch.setattr(evaluation, "evaluate", lambda args: pytest.fail("measured"))
    with pytest.raises(SystemExit, match="2"):
        run(evaluation, monkeypatch, *options)
    assert part in capsys.readouterr().err
