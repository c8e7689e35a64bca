"""`stellar-hub train`: from a folder of images to a model, and errors a user can act on."""

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.training.checkpoints import run_state
from stellar_hub.training.recipes.files import save_recipe
from stellar_hub.training.step import Stepper
from tests.stellar_hub.training.conftest import draw_images, recipe_for

from .conftest import Command

STEP_4 = "checkpoints/step-000004"


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Six drawn images."""
    return draw_images(tmp_path / "images")


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """The tiny recipe, without its images."""
    save_recipe(recipe_for(Path("images"), "data.sources=[]"), tmp_path / "tiny.yaml")
    return tmp_path / "tiny.yaml"


@pytest.fixture
def options(recipe_file: Path, image_folder: Path, tmp_path: Path) -> list[object]:
    """Options that train the tiny model."""
    return ["--recipe", recipe_file, "--data", image_folder, "--output", tmp_path / "run", "--cpu"]


def error_of(result: Any) -> str:
    """The one line a failed command says last."""
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert sum(line.startswith("error") for line in result.stderr.splitlines()) == 1
    return last


@pytest.mark.slow
def test_finetune__makes_a_model_of_ones_own_images(command: Command, image_folder: Path, tmp_path: Path) -> None:
    settings = {
        "steps": 2,
        "batch_size": 4,
        "num_workers": 0,
        "num_global_views": 2,
        "num_local_views": 2,
        "model.config.num_prototypes": 32,
        "prototype_hidden_size": 64,
    }
    changes = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    begin = ["--recipe", "finetune", "--init", "stellar-tiny", "--output", tmp_path / "mine", "--cpu"]
    result = command("train", "--data", image_folder, *begin, *changes)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'mine'}: the model is in {tmp_path / 'mine' / 'model'}\n"
    assert "note: the batch is 4, the recipe was made for 32" in result.stderr
    folder = tmp_path / "mine" / "model"
    model, processor = StellarModel.from_pretrained(folder), StellarImageProcessor.from_pretrained(folder)
    images = processor(image_folder / "image-0.png", return_tensors="pt")["pixel_values"]
    encoding = model.encode(images)
    assert encoding.semantics.shape == (1, 16, 192)
    assert model.decode(*encoding).shape == images.shape
    before = StellarModel.from_pretrained("stellar-tiny")
    difference = max(
        float((ours - theirs).abs().max()) for ours, theirs in zip(model.parameters(), before.parameters(), strict=True)
    )
    assert 0 < difference < 1e-3  # two steps of at most the recipe's learning rate


def test_train__takes_several_folders(command: Command, options: list[object], tmp_path: Path) -> None:
    more = draw_images(tmp_path / "more", 2)
    result = command("train", *options, "--data", more, "--set", "steps=1")
    assert result.exit_code == 0, result.output
    assert "8 images" in result.stderr


def test_stop__saves_exits_with_143_and_goes_on_to_the_end(
    command: Command, options: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Stepper.step

    def stop(self: Stepper, number: int, batches: list[dict[str, Any]]) -> Any:
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", stop)
        stopped = command("train", *options)
    assert stopped.exit_code == 143
    assert stopped.stderr.splitlines()[-1] == "stopped at step 3, checkpoint saved; --resume auto goes on"
    resumed = command("train", "--output", tmp_path / "run", "--resume", "auto", "--cpu")
    assert resumed.exit_code == 0, resumed.output
    assert "going on from step 3 to 4" in resumed.stderr
    whole = command("train", *options, "--output", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    weights = [load_file(tmp_path / name / STEP_4 / "model.safetensors") for name in ("run", "whole")]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_full_disk__is_said_in_one_line_and_the_run_goes_on_later(
    command: Command, options: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    save_file = run_state.save_file

    def save(tensors: Any, path: Path, **further: Any) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, **further)

    with monkeypatch.context() as patch:
        patch.setattr(run_state, "save_file", save)
        message = error_of(command("train", *options))
    assert f"step 4 could not be written to {tmp_path / 'run' / 'checkpoints'}" in message
    assert "No space left on device" in message
    assert command("train", *options, "--resume", "auto").exit_code == 0


def test_nan__is_said_in_one_line(command: Command, options: list[object]) -> None:
    changes = ("--set", "learning_rate=1e30", "--set", "clip_norm=null")
    assert "the loss is not finite at step" in error_of(command("train", *options, *changes))


class TestRefused:
    """Each is one line that says what to do."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--recipe", "finetune", "--init", "stellar-tiny"], "no images are given: pass --data FOLDER"),
            (["--recipe", "finetune", "--data", "IMAGES"], "pass --init with a checkpoint's name or path"),
            (["--data", "IMAGES"], "no recipe is given: pass --recipe, such as --recipe finetune"),
            (["--recipe", "finetun", "--data", "IMAGES"], "unknown recipe 'finetun'; did you mean 'finetune'"),
            (["--recipe", "TINY", "--set", "learning_rat=1"], "unknown key learning_rat"),
            (["--recipe", "TINY", "--set", "learning_rate"], 'must be written "section.key=value"'),
            (["--recipe", "TINY", "--set", "batch_size=0"], "optimization.batch_size must be at least 1, got 0"),
            (["--recipe", "TINY", "--set", "num_attention_heads=5"], "not divisible by num_attention_heads 5"),
            (["--recipe", "TINY", "--set", "run.push_to_hub=a/b"], "run.license must be given with push_to_hub"),
            (["--recipe", "TINY", "--data", "nowhere"], "no such folder: nowhere"),
            (["--recipe", "TINY", "--data", "EMPTY"], "no images in the folder"),
            (["--recipe", "TINY", "--data", "IMAGES", "--set", "local_size=20"], "nearest: 16 or 24"),
            (["--recipe", "TINY", "--data", "IMAGES", "--init", "nowhere"], "nowhere"),
            (["--recipe", "TINY", "--data", "IMAGES", "--resume", "nowhere"], "nowhere is not a checkpoint"),
            (["--resume", "auto"], "pass --recipe"),
        ],
    )
    def test_wrong_options__are_said_in_one_line(
        self,
        command: Command,
        recipe_file: Path,
        image_folder: Path,
        tmp_path: Path,
        arguments: list[str],
        message: str,
    ) -> None:
        (tmp_path / "EMPTY").mkdir()
        places = {"IMAGES": image_folder, "TINY": recipe_file, "EMPTY": tmp_path / "EMPTY"}
        given = [places.get(word, word) for word in arguments]
        found = error_of(command("train", *given, "--output", tmp_path / "run", "--cpu"))
        assert message in found
        assert not (tmp_path / "run").exists()

    def test_named_model__that_does_not_fit_the_settings_is_said_in_one_line(
        self, command: Command, image_folder: Path, tmp_path: Path
    ) -> None:
        begin = [
            "--recipe",
            "finetune",
            "--init",
            "stellar-tiny",
            "--data",
            image_folder,
            "--output",
            tmp_path / "run",
        ]
        found = error_of(command("train", *begin, "--set", "model.config.num_attention_heads=5"))
        assert "192 is not divisible by num_attention_heads 5" in found

    def test_missing_tracker__is_said_in_one_line(
        self, command: Command, options: list[object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        found = error_of(command("train", *options, "--set", "trackers=[wandb]"))
        assert "run.trackers names wandb, which is not installed: pip install wandb" in found

    def test_another_run__is_said_in_one_line(
        self, command: Command, options: list[object], image_folder: Path, tmp_path: Path
    ) -> None:
        assert command("train", *options, "--set", "steps=2").exit_code == 0
        assert "already holds a run" in error_of(command("train", *options))
        found = error_of(command("train", *options, "--resume", "auto"))
        assert "optimization.steps: 2 in the run, 4 now" in found
        shutil.copy(image_folder / "image-0.png", image_folder / "image-9.png")
        found = error_of(command("train", "--output", tmp_path / "run", "--resume", "auto"))
        assert "num_images: 6 in the run, 7 now" in found

    def test_output_that_is_a_file__is_said_in_one_line(
        self, command: Command, options: list[object], tmp_path: Path
    ) -> None:
        (tmp_path / "run").write_text("mine")
        assert "is a file; name a folder" in error_of(command("train", *options))

    def test_debug__shows_the_traceback(self, command: Command, tmp_path: Path) -> None:
        result = command("train", "--output", tmp_path / "run", "--debug")
        assert isinstance(result.exception, ValueError)
