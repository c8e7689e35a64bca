"""The evaluation of stellar-tiny: what it measures, what it writes, and what it refuses."""

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.modeling.atomic_write import write_atomically

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "evaluate_stellar_tiny.py"
CARD = "# model\n\n<!-- evaluation -->\nold\n<!-- /evaluation -->\n\n## License\n"
SCENES = argparse.Namespace(size=32, max_objects=4, class_cue="outline")
FEW = ["--scenes-train", "20", "--scenes-test", "5", "--size", "32"]


@pytest.fixture
def evaluation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; it imports its neighbours, as a script can."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("evaluate_stellar_tiny")


@pytest.fixture
def report_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("evaluation_report")


@pytest.fixture
def checkpoint(pixel_model: StellarModel, tmp_path: Path) -> Path:
    pixel_model.save_pretrained(tmp_path / "tiny")
    StellarImageProcessor.from_config(pixel_model.config).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def report_with(module: ModuleType, trained: float, untrained: float) -> tuple:
    return module.Report(
        model="tiny",
        num_train=40,
        num_test=25,
        size=32,
        max_objects=4,
        class_cue="outline",
        num_objects=60,
        num_classes=8,
        num_neighbours=20,
        temperature=0.07,
        knn=[
            module.KnnRow("trained: mean of S", trained),
            module.KnnRow("untrained: mean of S", untrained),
        ],
        iou=[module.IouRow("trained: tokens", 30.0, 20.0), module.IouRow("bound", 62.5, None)],
        psnr=[module.PsnrRow("trained", 25.0, 24.0)],
    )


class TestScenes:
    def test_labels__are_those_of_the_largest_object(self, evaluation: ModuleType) -> None:
        scenes = evaluation.draw_scenes(1_000_000, 6, SCENES, name="test")
        assert scenes.images.shape == (6, 3, 32, 32)
        assert scenes.images.dtype == torch.uint8
        for index, label in enumerate(scenes.labels.tolist()):
            scene = evaluation.draw_scene(1_000_000 + index, 32, 4)
            areas = [int(mask.sum()) for mask in scene.masks]
            assert evaluation.SCENE_CLASSES[label] == scene.classes[areas.index(max(areas))]

    def test_seeds__are_apart_from_those_of_training_scenes(self, evaluation: ModuleType) -> None:
        drawing = (ROOT / "examples" / "draw_scenes.py").read_text()
        assert "FIRST_EVALUATION_SEED = 1_000_000\n" in drawing
        assert 1_000_000 <= evaluation.FIRST_TRAIN_SEED < evaluation.FIRST_TEST_SEED

    def test_true_masks__tell_the_class(self, evaluation: ModuleType) -> None:
        train = evaluation.draw_scenes(1_000_000, 200, SCENES, name="train")
        test = evaluation.draw_scenes(2_000_000, 60, SCENES, name="test")
        bank, queries = evaluation.cropped_masks(train.masks), evaluation.cropped_masks(test.masks)
        assert evaluation.classify(bank, queries, train, test) > 50  # chance is 12.5


class TestNetworks:
    def test_untrained_twin__is_the_same_in_every_run(self, evaluation: ModuleType, pixel_model: StellarModel) -> None:
        torch.manual_seed(1)
        state = torch.random.get_rng_state()
        first = evaluation.untrained_twin(pixel_model)
        assert torch.equal(torch.random.get_rng_state(), state)
        second = evaluation.untrained_twin(pixel_model)
        for name, weight in first.state_dict().items():
            torch.testing.assert_close(second.state_dict()[name], weight, rtol=0, atol=0)
        assert not torch.equal(first.encoder.patch_embed.proj.weight, pixel_model.encoder.patch_embed.proj.weight)

    def test_features__are_those_of_the_model_batch_by_batch(
        self, evaluation: ModuleType, pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
        monkeypatch.setattr(evaluation, "BATCH_SIZE", 2)
        features = evaluation.pooled_features(pixel_model, images, "tiny")
        with torch.inference_mode():
            semantics = pixel_model.encode(images).semantics
        assert list(features) == ["mean of S", "cls", "mean of patches"]
        torch.testing.assert_close(features["mean of S"], semantics.mean(dim=1), rtol=1e-4, atol=1e-5)


class TestBaselines:
    def test_histograms__count_colours(self, evaluation: ModuleType) -> None:
        images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        images[1, :, :2] = 255
        histograms = evaluation.color_histograms(images, evaluation.fit_colors(images, 2))
        assert sorted(histograms[1].tolist()) == [0.25, 0.75]
        assert sorted(histograms[0].tolist()) == [0.0, 1.0]

    @pytest.mark.parametrize("mean_color", [True, False])
    def test_patch_regions__find_the_patches_of_one_colour(self, evaluation: ModuleType, mean_color: bool) -> None:
        image = torch.zeros(3, 8, 12, dtype=torch.uint8)
        image[0, 4:, :8] = 255  # of the 2 x 3 patches, the first two of the second row
        regions = evaluation.patch_regions(image, 4, 2, mean_color)
        assert [each.tolist() for each in regions if each.sum() == 2] == [[[False] * 3, [True, True, False]]]
        assert regions.sum(dim=0).eq(1).all()

    def test_patch_regions__of_fewer_patches_than_regions_leave_some_empty(self, evaluation: ModuleType) -> None:
        regions = evaluation.patch_regions(torch.zeros(3, 8, 8, dtype=torch.uint8), 4, 16, True)
        assert regions.shape == (16, 2, 2)
        assert regions.sum() == 4


class TestReport:
    def test_tables__have_a_line_for_each_row(self, report_module: ModuleType) -> None:
        text = report_module.markdown(report_with(report_module, 40.0, 20.0))
        assert "| **trained: mean of S** | **40.0** |\n| untrained: mean of S | 20.0 |" in text
        assert "| **trained: tokens** | **30.0** | **20.0** |\n| bound | 62.5 |  |" in text
        assert "| **trained** | **25.00** | **24.00** |" in text
        assert "standard error at most 10.0 points" in text

    def test_json__keeps_every_number(self, report_module: ModuleType) -> None:
        fields = json.loads(report_module.as_json(report_with(report_module, 40.0, 20.0)))
        assert fields["knn"][1] == {"features": "untrained: mean of S", "accuracy": 20.0}
        assert fields["iou"][1] == {"regions": "bound", "argmax": 62.5, "threshold": None}
        assert fields["num_test"] == 25

    def test_replace_section__leaves_the_rest_of_the_card(self, report_module: ModuleType) -> None:
        changed = report_module.replace_section(CARD, r"new \1")
        assert changed == CARD.replace("old", r"new \1")
        assert report_module.replace_section(changed, "old") == CARD

    @pytest.mark.parametrize("card", ["# no markers", CARD + CARD, "<!-- /evaluation -->\n<!-- evaluation -->\n"])
    def test_replace_section__refuses_cards_without_one_place(self, report_module: ModuleType, card: str) -> None:
        with pytest.raises(ValueError, match="there is not one pair of lines <!-- evaluation -->"):
            report_module.replace_section(card, "new")


class TestMain:
    def run(self, evaluation: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["evaluate_stellar_tiny.py", *options])
        return evaluation.main()

    def test_main__writes_the_same_tables_everywhere(
        self,
        evaluation: ModuleType,
        checkpoint: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        card, numbers = tmp_path / "README.md", tmp_path / "numbers.json"
        card.write_text(CARD)
        files = ["--json", str(numbers), "--update-card", str(card)]
        assert self.run(evaluation, monkeypatch, "--model", str(checkpoint), *FEW, *files) == 0
        printed, written = capsys.readouterr().out, card.read_text()
        assert printed.strip() == written.split("<!-- evaluation -->\n")[1].split("\n<!-- /evaluation -->")[0]
        fields = json.loads(numbers.read_text())
        assert [len(fields[name]) for name in ("knn", "iou", "psnr")] == [10, 6, 3]
        iou = {row["regions"]: row["argmax"] for row in fields["iou"]}
        assert max(iou.values()) == iou["bound: the best union of patches"] <= 100
        first = numbers.read_bytes()
        self.run(evaluation, monkeypatch, "--model", str(checkpoint), *FEW, *files)
        assert numbers.read_bytes() == first

    def test_main__keeps_the_card_where_writing_fails(
        self, evaluation: ModuleType, report_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        card = tmp_path / "README.md"
        card.write_text(CARD)

        def full_disk(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(evaluation, "evaluate", lambda args: report_with(report_module, 40.0, 20.0))
        monkeypatch.setattr(f"{write_atomically.__module__}.os.replace", full_disk)
        with pytest.raises(OSError, match="No space left"):
            self.run(evaluation, monkeypatch, "--update-card", str(card))
        assert card.read_text() == CARD
        assert [path.name for path in tmp_path.iterdir()] == ["README.md"]

    @pytest.mark.parametrize(("trained", "code"), [(30.0, 0), (29.9, 1)])
    def test_check__asks_for_ten_points(
        self,
        evaluation: ModuleType,
        report_module: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
        trained: float,
        code: int,
    ) -> None:
        monkeypatch.setattr(evaluation, "evaluate", lambda args: report_with(report_module, trained, 20.0))
        assert self.run(evaluation, monkeypatch, "--check") == code
        assert self.run(evaluation, monkeypatch) == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--scenes-train", "19"], "--scenes-train must be between 20"),
            (["--scenes-train", "1000001"], "where test seeds begin, got 1000001"),
            (["--scenes-test", "0"], "--scenes-test must be at least 1, got 0"),
            (["--images", "nowhere"], "--images nowhere holds no .jpg files"),
            (["--json", "nowhere/numbers.json"], "--json nowhere/numbers.json: the folder does not exist"),
            (["--update-card", "nowhere.md"], "nowhere.md"),
            (["--update-card", str(ROOT / "CONTRIBUTING.md")], "there is not one pair of lines"),
        ],
    )
    def test_main__refuses_before_measuring(
        self,
        evaluation: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        options: list[str],
        message: str,
    ) -> None:
        monkeypatch.setattr(evaluation, "evaluate", lambda args: pytest.fail("measured"))
        with pytest.raises(SystemExit, match="2"):
            self.run(evaluation, monkeypatch, *options)
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_script__runs_on_stellar_tiny() -> None:
    few = ["--scenes-train", "40", "--scenes-test", "10"]
    done = subprocess.run([sys.executable, str(SCRIPT), *few], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| **trained") == 3
