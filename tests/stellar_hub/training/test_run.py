"""A run put together: what it says at the start, what it begins with, and what a refused one leaves behind."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stellar_hub.data.sources import ImageFolder
from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.inference_optimization import compile_blocks
from stellar_hub.training import StellarForPreTraining, start
from stellar_hub.training.exports import card_facts
from stellar_hub.training.recipes.files import load_recipe
from stellar_hub.training.recipes.sections import Recipe, config_fields
from stellar_hub.training.run import Run, build_run, change_notes, init_trackers, source_notes, wandb_options
from stellar_hub.training.step_choices import compiled_parts
from stellar_hub.training.train import train
from tests.stellar_hub.training.conftest import changed, recipe_for, tiny_recipe_values


@pytest.fixture
def run(tiny_recipe: Recipe, tmp_path: Path) -> Run:
    """A run of the tiny recipe, before its first step."""
    return build_run(tiny_recipe, tmp_path / "run", cpu=True)


class TestBuild:
    def test_folder__has_the_recipe_with_its_sizes(self, tiny_recipe: Recipe, tmp_path: Path) -> None:
        build_run(changed(tiny_recipe, "data.image_size=null", "local_size=null"), tmp_path / "deep" / "run", cpu=True)
        data = load_recipe(tmp_path / "deep" / "run" / "recipe.yaml").data
        assert (data.image_size, data.local_size) == (32, 8)

    def test_folder__has_the_recipe_with_the_whole_configuration(self, run: Run) -> None:
        saved = load_recipe(run.folder.path / "recipe.yaml").model.config
        assert list(saved) == config_fields()
        assert saved == {name: run.model.config.to_dict()[name] for name in saved}
        assert load_recipe(run.folder.path / "recipe.yaml") == run.recipe

    def test_model__is_that_of_the_seed(self, tiny_recipe: Recipe, tmp_path: Path) -> None:
        weights = [
            build_run(changed(tiny_recipe, f"seed={seed}"), tmp_path / name, cpu=True).model.state_dict()
            for name, seed in (("a", 0), ("b", 0), ("c", 1))
        ]
        torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
        name = "stellar.encoder.blocks.0.attn.qkv.weight"
        assert (weights[0][name] - weights[2][name]).abs().max() > 0

    def test_first_note__says_what_will_be_done(self, run: Run) -> None:
        assert run.notes[0].startswith("from step 0 to 4: 6 images, batch 4 on 1 x cpu, fp32, 0.1 M parameters")
        assert len(run.notes) == 1

    @pytest.mark.parametrize(("precision", "said"), [("auto", "fp32"), ("fp32", "fp32"), ("fp64", "fp64")])
    def test_first_note__says_the_precision_that_is_used(
        self, tiny_recipe: Recipe, tmp_path: Path, precision: str, said: str
    ) -> None:
        found = build_run(changed(tiny_recipe, f"precision={precision}"), tmp_path / "run", cpu=True)
        assert f"cpu, {said}, " in found.notes[0]

    def test_further_notes__warn(self, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(start, "check_space", lambda folder, needed: f"{needed} bytes are too much")
        recipe = recipe_for(image_folder, "batch_size=8", "gradient_accumulation_steps=2")
        notes = build_run(recipe, tmp_path / "run", cpu=True, reference_batch_size=64).notes
        assert [note.split()[0] for note in notes[1:]] == ["note:"] * 4
        assert "64" in notes[1]
        assert "accumulation" in notes[2]
        assert "6 images" in notes[3]
        assert "bytes are too much" in notes[4]

    def test_space__asked_for_is_that_of_the_checkpoints(
        self, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []
        monkeypatch.setattr(start, "check_space", lambda folder, needed: asked.append(needed))
        model = build_run(tiny_recipe, tmp_path / "run", cpu=True).model
        size = 4 * sum(parameter.numel() for parameter in model.parameters())
        # Weights and two means, for two that are kept and one that is being written.
        assert asked[0] == pytest.approx(3 * 3 * size, rel=0.05)

    @pytest.mark.parametrize("override", ["data.sources=[]", "local_size=20", "model.init=nowhere"])
    def test_refused_run__leaves_nothing_behind(self, tiny_recipe: Recipe, tmp_path: Path, override: str) -> None:
        with pytest.raises((ValueError, OSError)):
            build_run(changed(tiny_recipe, override), tmp_path / "run", cpu=True)
        assert not (tmp_path / "run").exists()


class TestChangedImages:
    def resumed(self, recipe: Recipe, output: Path) -> list[str]:
        """The notes of a run that is resumed, on its images."""
        notes = build_run(recipe, output, resume="auto", cpu=True).notes
        return [note for note in notes if "another size or time" in note]

    def test_images_with_another_time__are_said_once_and_go_on(
        self, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stamps = ["a"]
        monkeypatch.setattr(ImageFolder, "stamp", lambda source, index: stamps[0], raising=False)
        one_step = changed(tiny_recipe, "steps=1")
        train(one_step, tmp_path / "run", cpu=True)
        assert self.resumed(one_step, tmp_path / "run") == []
        stamps[0] = "b"
        assert len(self.resumed(one_step, tmp_path / "run")) == 1

    def test_checkpoint_without_stamps__says_nothing(self) -> None:
        assert change_notes(None, "a") == change_notes("a", None) == change_notes("a", "a") == []


class TestNotes:
    def test_source__says_what_it_passed_over_and_what_is_damaged(self) -> None:
        source: Any = SimpleNamespace(notes=("7 files are no images",), damaged=("a.tar: cut short",))
        assert source_notes(source) == ["7 files are no images", "images may be missing: a.tar: cut short"]

    def test_trackers__get_no_secrets(self, run: Run) -> None:
        given: dict[str, str] = {}
        address = "stream:https://me:SECRET@host/a.tar?sig=SECRET"
        secret = run.recipe.with_values("data", sources=(address,), repeats=())
        accelerator: Any = SimpleNamespace(init_trackers=lambda name, config, init_kwargs: given.update(config))
        init_trackers(dataclasses.replace(run, recipe=secret, accelerator=accelerator))
        assert "SECRET" not in str(given)
        assert given["run.seed"] == "0"


class TestAgree:
    def agree(self, received: int | None, *others: int) -> int | None:
        """What a process of several finds."""
        gathered = torch.tensor([received or 0, *others])
        accelerator = SimpleNamespace(
            num_processes=1 + len(others), device=torch.device("cpu"), gather=lambda numbers: gathered
        )
        run: Any = SimpleNamespace(accelerator=accelerator)
        return Run.agree_on_signal(run, received)

    def test_one_process__stops_at_once(self) -> None:
        assert self.agree(15) == 15
        assert self.agree(None) is None

    def test_several__stop_together(self) -> None:
        assert self.agree(15, 0) == 15
        assert self.agree(None, 2) == 2
        assert self.agree(None, 0) is None


class TestFolder:
    def test_process__that_does_not_see_the_recipe_is_refused(self, run: Run) -> None:
        accelerator: Any = SimpleNamespace(is_main_process=False, process_index=1, wait_for_everyone=lambda: None)
        (run.folder.path / "recipe.yaml").unlink()
        with pytest.raises(FileNotFoundError, match=r"process 1 does not see .*recipe\.yaml"):
            run.folder.begin(run.recipe, 0, accelerator)

    def test_wandb__goes_on_under_the_id_of_the_folder(self, tmp_path: Path) -> None:
        first, again = wandb_options(tmp_path / "a"), wandb_options(tmp_path / "a")
        assert first == again
        assert (first["name"], first["resume"]) == ("a", "allow")
        assert wandb_options(tmp_path / "b")["id"] != first["id"]


def test_card_facts__say_what_the_run_was(run: Run) -> None:
    facts = card_facts(run, 3)
    assert facts["steps"] == "3 of 4"
    assert facts["images seen"] == 12
    assert facts["images in the data"] == 6
    assert facts["images that could not be read"] is None
    assert facts["initialized from"] == "random"
    assert facts["device"] == "1 x cpu"
    assert facts["precision"] == "float32"
    assert "since" not in str(facts["time"])
    run.skipped.numbers["a.png: damaged"] = 1
    later = card_facts(dataclasses.replace(run, start_step=2), 3)
    assert later["images that could not be read"] == 1
    assert str(later["time"]).endswith("since step 2")


def test_half_written_checkpoint__goes_when_the_run_goes_on(run: Run, tiny_recipe: Recipe) -> None:
    unfinished = run.folder.checkpoints.folder / ".step-000002.part"
    unfinished.mkdir(parents=True)
    (unfinished / "model.safetensors").touch()
    build_run(tiny_recipe, run.folder.path, resume="auto", cpu=True)
    assert list(run.folder.checkpoints.folder.iterdir()) == []
    shutil.rmtree(run.folder.checkpoints.folder)
    build_run(tiny_recipe, run.folder.path, resume="auto", cpu=True)


@pytest.mark.parametrize("options", [{"teacher_momentum": 0.9}, {"use_decoder": False}])
def test_compiled_blocks__keep_the_names_of_weights(options: dict[str, Any]) -> None:
    model = StellarForPreTraining(StellarConfig(**(tiny_recipe_values()["model"]["config"] | options)))
    names = list(model.state_dict())
    compile_blocks(compiled_parts(model))
    assert list(model.state_dict()) == names
