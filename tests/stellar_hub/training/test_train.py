"""Whole runs: what is refused before the first step, going on, options that change how and not what, a full disk."""

import errno
import logging
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file

from stellar_hub.hub.card_sections import read_section
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.training import train as module
from stellar_hub.training.checkpoints import run_state
from stellar_hub.training.checkpoints.checkpoints import STATE_FILE
from stellar_hub.training.exports import without_paths
from stellar_hub.training.loop import Stopped
from stellar_hub.training.recipes.files import load_recipe, save_recipe, write_yaml
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.train import chosen_recipe, train, train_by_options
from tests.hub_server import HubServer
from tests.stellar_hub.training.conftest import changed, draw_images, journal_of, recipe_for

STEP_2 = "checkpoints/step-000002"
STEP_4 = "checkpoints/step-000004"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run and, beside it, its images; not to be changed."""
    base = tmp_path_factory.mktemp("finished")
    train(recipe_for(draw_images(base / "images")), base / "run", cpu=True)
    return base / "run"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run that may be changed."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


@pytest.fixture
def recipe(finished: Path) -> Recipe:
    """The recipe of the finished run."""
    return load_recipe(finished)


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / STEP_4 / "model.safetensors")


def same_weights(output: Path, other: Path) -> None:
    torch.testing.assert_close(weights(output), weights(other), rtol=0, atol=0)


class TestFinished:
    def test_train__returns_a_model_that_encodes(self, finished: Path, tmp_path: Path, tiny_recipe: Recipe) -> None:
        folder = train(changed(tiny_recipe, "steps=1"), tmp_path / "run", cpu=True)
        assert folder == tmp_path / "run" / "model"
        model, processor = StellarModel.from_pretrained(folder), StellarImageProcessor.from_pretrained(folder)
        image = Path(tiny_recipe.data.sources[0]) / "image-0.png"
        encoding = model.encode(processor(image, return_tensors="pt")["pixel_values"])
        assert encoding.semantics.shape == (1, 4, 48)

    def test_card__has_recipe_numbers_and_images(self, finished: Path) -> None:
        section = read_section((finished / "model" / "README.md").read_text(), "training")
        assert section is not None
        assert "| steps | 4 of 4 |" in section
        assert "| images seen | 16 |" in section
        recipe = load_recipe(finished / "recipe.yaml")
        assert write_yaml(without_paths(recipe)).strip() in section
        for name in ("curves.png", "reconstructions.png"):
            assert f"({name})" in section
            assert (finished / "model" / name).read_bytes().startswith(b"\x89PNG")


class TestData:
    def refused(self, recipe: Recipe, tmp_path: Path, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            train(recipe, tmp_path / "run", cpu=True)
        assert not (tmp_path / "run").exists()

    def test_empty_folder__is_named(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        message = rf"no images in the folder {tmp_path / 'empty'}; looked for "
        self.refused(recipe_for(tmp_path / "empty"), tmp_path, ValueError, message)

    def test_missing_folder__is_named(self, tmp_path: Path) -> None:
        message = f"no such folder: {tmp_path / 'nowhere'}"
        self.refused(recipe_for(tmp_path / "nowhere"), tmp_path, FileNotFoundError, message)

    def test_damaged_images_alone__are_refused_at_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        for name in ("a.png", "b.jpg"):
            (tmp_path / "images" / name).write_bytes(b"no image")
        message = rf"none of 2 images tried can be read; the first: {tmp_path / 'images' / 'a.png'}"
        self.refused(recipe_for(tmp_path / "images"), tmp_path, ValueError, message)

    @pytest.mark.parametrize("name", ["image_size", "local_size"])
    def test_views_that_are_no_whole_patches__are_refused(self, tiny_recipe: Recipe, tmp_path: Path, name: str) -> None:
        message = rf"data\.{name} 20 is not a multiple of the patch size 8; nearest: 16 or 24"
        self.refused(changed(tiny_recipe, f"data.{name}=20"), tmp_path, ValueError, message)

    def test_teacher_with_one_global_view__is_refused(self, tiny_recipe: Recipe, tmp_path: Path) -> None:
        recipe = changed(tiny_recipe, "teacher_momentum=0.9", "num_global_views=1")
        self.refused(recipe, tmp_path, ValueError, r"num_global_views is 1, but teacher_momentum .* 2 or more")

    def test_nothing_to_begin_from__is_refused(self, tiny_recipe: Recipe, tmp_path: Path) -> None:
        self.refused(changed(tiny_recipe, "init=null"), tmp_path, ValueError, "what to begin from: pass --init")

    def test_output_that_is_a_file__is_refused(self, tiny_recipe: Recipe, tmp_path: Path) -> None:
        (tmp_path / "run").write_text("mine")
        with pytest.raises(FileExistsError, match="is a file; name a folder"):
            train(tiny_recipe, tmp_path / "run", cpu=True)
        assert (tmp_path / "run").read_text() == "mine"

    @pytest.mark.parametrize(
        ("num_images", "overrides"),
        [
            (1, ()),
            (1, ("batch_size=1", "teacher_momentum=0.9")),
            (6, ("batch_size=1",)),
            (6, ("num_global_views=1", "num_local_views=0")),
            (6, ("num_sparse_tokens=1", "koleo_weight=0")),
            (6, ("steps=null", "epochs=1", "batch_size=3")),
        ],
    )
    def test_little_data__is_enough(self, tmp_path: Path, num_images: int, overrides: tuple[str, ...]) -> None:
        recipe = recipe_for(draw_images(tmp_path / "images", num_images), "steps=2", *overrides)
        train(recipe, tmp_path / "run", cpu=True)
        assert [record["step"] for record in journal_of(tmp_path / "run")] == [1, 2]


class TestResume:
    def test_run_that_is_there__is_not_written_over(self, finished: Path, recipe: Recipe) -> None:
        before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
        with pytest.raises(FileExistsError, match="--resume auto"):
            train(recipe, finished, cpu=True)
        assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before

    def test_auto__in_a_new_folder_begins(self, finished: Path, recipe: Recipe, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        train(recipe, tmp_path / "empty", resume="auto", cpu=True)
        same_weights(tmp_path / "empty", finished)

    def test_auto__goes_on_to_the_same_weights(self, copied: Path, finished: Path, recipe: Recipe) -> None:
        shutil.rmtree(copied / STEP_4)
        shutil.rmtree(copied / "model")
        train(recipe, copied, resume="auto", cpu=True)
        same_weights(copied, finished)
        assert [record["step"] for record in journal_of(copied)] == [1, 2, 4]

    def test_auto__of_a_finished_run_exports_again(
        self, copied: Path, finished: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.rmtree(copied / "model")
        train(recipe, copied, resume="auto", cpu=True)
        exported = [load_file(output / "model" / "model.safetensors") for output in (copied, finished)]
        torch.testing.assert_close(exported[0], exported[1], rtol=0, atol=0)
        assert (copied / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
        assert "going on from step 4 to 4" in capsys.readouterr().err

    def test_auto__needs_nothing_of_what_the_run_began_from(
        self, finished: Path, recipe: Recipe, tmp_path: Path
    ) -> None:
        source = shutil.copytree(finished / "checkpoints" / "step-000002", tmp_path / "start")
        begun = changed(recipe, f"init={source}")
        train(begun, tmp_path / "run", cpu=True)
        expected = load_file(tmp_path / "run" / "model" / "model.safetensors")
        shutil.rmtree(source)
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000004")
        train(begun, tmp_path / "run", resume="auto", cpu=True)
        torch.testing.assert_close(
            load_file(tmp_path / "run" / "model" / "model.safetensors"), expected, rtol=0, atol=0
        )

    def test_path__goes_back_and_writes_anew_what_is_later(self, copied: Path, finished: Path, recipe: Recipe) -> None:
        (copied / STEP_4 / "optimizer.pt").write_bytes(b"damaged")
        with pytest.raises(ValueError, match=rf"{copied / STEP_4}.*is damaged(.|\n)*--resume"):
            train(recipe, copied, resume="auto", cpu=True)
        train(recipe, copied, resume=copied / STEP_2, cpu=True)
        same_weights(copied, finished)
        train(recipe, copied, resume="auto", cpu=True)

    def test_path__of_another_run_begins_a_branch(
        self, finished: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(finished / "checkpoints")
        train(recipe, tmp_path / "branch", resume="step-000002", cpu=True)
        same_weights(tmp_path / "branch", finished)
        assert [record["step"] for record in journal_of(tmp_path / "branch")] == [4]
        train(recipe, tmp_path / "end", resume=finished / STEP_4, cpu=True)
        assert StellarModel.from_pretrained(tmp_path / "end" / "model") is not None

    def test_path__that_is_no_checkpoint_is_named(self, copied: Path, recipe: Recipe) -> None:
        with pytest.raises(FileNotFoundError, match=rf"{copied / 'model'} is not a checkpoint"):
            train(recipe, copied, resume=copied / "model", cpu=True)

    @pytest.mark.parametrize(
        ("override", "difference"),
        [
            ("num_hidden_layers=3", "model.config.num_hidden_layers: 2 in the run, 3 now"),
            ("koleo_weight=0.5", "model.config.koleo_weight: 0.1 in the run, 0.5 now"),
            ("learning_rate=2e-3", "optimization.learning_rate: 0.001 in the run, 0.002 now"),
            ("steps=5", "optimization.steps: 4 in the run, 5 now"),
            ("seed=1", "run.seed: 0 in the run, 1 now"),
        ],
    )
    def test_other_recipe__is_refused_with_what_differs(
        self, finished: Path, recipe: Recipe, override: str, difference: str
    ) -> None:
        with pytest.raises(ValueError, match="another recipe") as caught:
            train(changed(recipe, override), finished, resume="auto", cpu=True)
        assert difference in str(caught.value)

    @pytest.mark.parametrize("change", ["one more", "another size", "another name"])
    def test_other_images__are_refused_with_what_differs(
        self, copied: Path, recipe: Recipe, image_folder: Path, change: str
    ) -> None:
        image = image_folder / "image-0.png"
        if change == "one more":
            shutil.copy(image, image_folder / "image-9.png")
        elif change == "another size":
            image.write_bytes(image.read_bytes() + b"\0")
        else:
            image.rename(image_folder / "image-00.png")
        with pytest.raises(ValueError, match="data: fingerprint: ") as caught:
            train(changed(recipe, f"data.sources=[{image_folder}]"), copied, resume="auto", cpu=True)
        assert ("num_images: 6 in the run, 7 now" in str(caught.value)) is (change == "one more")

    def test_moved_images_and_other_habits__are_no_other_run(
        self, copied: Path, finished: Path, recipe: Recipe, image_folder: Path
    ) -> None:
        shutil.rmtree(copied / STEP_4)
        habits = ("save_every=1", "log_every=1", "preview_every=4", "run.license=mit")
        moved = changed(recipe, f"data.sources=[{image_folder}]", *habits)
        train(moved, copied, resume="auto", cpu=True)
        same_weights(copied, finished)
        assert load_recipe(copied) == moved

    def test_export_before_the_checkpoint__does_not_make_it_another_run(
        self, finished: Path, recipe: Recipe, tmp_path: Path
    ) -> None:
        train(changed(recipe, "export_every=1"), tmp_path / "run", cpu=True)
        shutil.rmtree(tmp_path / "run" / STEP_4)
        train(changed(recipe, "export_every=1"), tmp_path / "run", resume="auto", cpu=True)
        same_weights(tmp_path / "run", finished)

    def test_killed_before_the_first_checkpoint__begins_anew(
        self, copied: Path, finished: Path, recipe: Recipe
    ) -> None:
        shutil.rmtree(copied / "checkpoints")
        (copied / "checkpoints" / ".step-000002.part").mkdir(parents=True)
        train(recipe, copied, resume="auto", cpu=True)
        same_weights(copied, finished)
        assert [record["step"] for record in journal_of(copied)] == [1, 2, 4]
        assert sorted(path.name for path in (copied / "checkpoints").iterdir()) == ["step-000002", "step-000004"]

    def test_checkpoint__is_something_to_begin_from(self, finished: Path, recipe: Recipe, tmp_path: Path) -> None:
        begun = changed(recipe, f"init={finished / STEP_4}", "model.config={}", "steps=1", "learning_rate=1e-5")
        train(begun, tmp_path / "run", cpu=True)
        name = "stellar.encoder.sparse_tokens"
        after = load_file(tmp_path / "run" / "checkpoints" / "step-000001" / "model.safetensors")[name]
        torch.testing.assert_close(after, weights(finished)[name], rtol=0, atol=1e-4)


class TestFullDisk:
    def test_full_disk__leaves_a_checkpoint_that_goes_on_to_the_end(
        self, finished: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_file, saved = run_state.save_file, []

        def save(tensors: Any, path: Path, **options: Any) -> None:
            saved.append(path)
            if len(saved) == 2:
                path.write_bytes(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
            save_file(tensors, path, **options)

        with monkeypatch.context() as patch:
            patch.setattr(run_state, "save_file", save)
            message = rf"checkpoint of step 4 .*{tmp_path / 'run' / 'checkpoints'}: .*No space left"
            with pytest.raises(OSError, match=message):
                train(recipe, tmp_path / "run", cpu=True)
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
        train(recipe, tmp_path / "run", resume="auto", cpu=True)
        same_weights(tmp_path / "run", finished)


class TestOptions:
    def final(self, recipe: Recipe, tmp_path: Path, *overrides: str) -> dict[str, torch.Tensor]:
        train(changed(recipe, *overrides), tmp_path / "run", cpu=True)
        return weights(tmp_path / "run")

    def test_gradient_checkpointing__gives_the_same_weights(
        self, finished: Path, recipe: Recipe, tmp_path: Path
    ) -> None:
        found = self.final(recipe, tmp_path, "gradient_checkpointing=true")
        torch.testing.assert_close(found, weights(finished), rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    @pytest.mark.skipif(shutil.which("gcc") is None and shutil.which("cc") is None, reason="no C compiler")
    def test_compile__gives_the_same_weights(self, finished: Path, recipe: Recipe, tmp_path: Path) -> None:
        found = self.final(recipe, tmp_path, "run.compile=true")
        torch.testing.assert_close(found, weights(finished), rtol=1e-3, atol=2e-3)

    def test_accumulation__is_one_step_of_several_batches(self, recipe: Recipe, tmp_path: Path) -> None:
        folder = train(
            changed(recipe, "batch_size=2", "gradient_accumulation_steps=2", "epochs=1"), tmp_path / "run", cpu=True
        )
        assert journal_of(tmp_path / "run")[-1]["step"] == 2  # 6 images, 4 a step
        assert "| images seen | 8 |" in (folder / "README.md").read_text()

    @pytest.mark.parametrize("precision", ["bf16", "fp64"])
    def test_precisions__follow_each_other_in_one_process(self, recipe: Recipe, tmp_path: Path, precision: str) -> None:
        for name, value in (("first", "fp32"), ("second", precision)):
            train(changed(recipe, "steps=1", f"precision={value}"), tmp_path / name, cpu=True)
        losses = [journal_of(tmp_path / name)[0]["loss"] for name in ("first", "second")]
        assert losses[1] == pytest.approx(losses[0], rel=0.05)

    def test_missing_tracker__is_refused_at_the_start(
        self, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ImportError, match="pip install tensorboard"):
            train(changed(recipe, "trackers=[tensorboard]"), tmp_path / "run", cpu=True)
        assert not (tmp_path / "run").exists()


class TestPush:
    def test_push__follows_the_training_with_license_and_card(
        self,
        recipe: Recipe,
        tmp_path: Path,
        hub: HubServer,
        client: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        pushed = changed(recipe, "steps=1", "run.push_to_hub=user/mine", "run.license=cc-by-nc-4.0")
        folder = train(pushed, tmp_path / "run", cpu=True)
        files = hub.files("user/mine")
        card = files["README.md"].decode()
        assert card.startswith("---\nlicense: cc-by-nc-4.0\n")
        assert read_section(card, "training") == read_section((folder / "README.md").read_text(), "training")
        assert {"curves.png", "reconstructions.png", "model.safetensors"} < set(files)


Calls = list[dict[str, Any]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What `train` is called with; nothing is trained."""
    recorded: Calls = []

    def record(recipe: object, output: Path, **options: Any) -> Path:
        recorded.append({"recipe": recipe, "output": output, **options})
        return output / "model"

    monkeypatch.setattr(module, "train", record)
    return recorded


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """What looks like a run's folder, with one checkpoint."""
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / STATE_FILE).write_text('{"step": 2}')
    save_recipe(recipe_for(Path("images")), tmp_path / "run" / "recipe.yaml")
    return tmp_path / "run"


def run(output: Path, **options: Any) -> Path | None:
    defaults: dict[str, Any] = {"data": [], "recipe_name": None, "init": None, "overrides": [], "resume": None}
    return train_by_options(output, **(defaults | {"cpu": True} | options))


class TestOptionsOfCommand:
    def test_options__change_the_named_recipe(self, calls: Calls, tmp_path: Path) -> None:
        folder = run(
            tmp_path / "run",
            data=["a", "b"],
            recipe_name="finetune",
            init="stellar-tiny",
            overrides=["batch_size=8"],
        )
        assert folder == tmp_path / "run" / "model"
        (call,) = calls
        assert call["recipe"].data.sources == ("a", "b")
        assert call["recipe"].model.init == "stellar-tiny"
        assert call["recipe"].optimization.batch_size == 8
        assert (call["output"], call["resume"], call["cpu"]) == (tmp_path / "run", None, True)

    def test_reference__is_the_batch_of_the_recipe_before_it_is_changed(self, calls: Calls, tmp_path: Path) -> None:
        run(tmp_path, data=["a"], recipe_name="b16", overrides=["batch_size=8"])
        assert calls[0]["reference_batch_size"] == load_recipe("b16").optimization.batch_size > 8

    def test_repeats__stay_where_there_are_as_many_folders(self, calls: Calls, tmp_path: Path) -> None:
        for folders in (["a", "b"], ["a"]):
            run(tmp_path, data=folders, recipe_name="stellar-tiny")
        assert [call["recipe"].data.repeats for call in calls] == [(1, 35), ()]

    def test_repeats__that_do_not_fit_are_left_out_with_a_note(
        self, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(tmp_path, data=["a"], recipe_name="stellar-tiny")
        assert capsys.readouterr().err == "note: data.repeats [1, 35] is not for 1 sources: each comes once\n"

    def test_repeats__that_are_asked_for_must_fit(self, calls: Calls, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"data\.repeats must be empty or a number >= 1 for each of the 2 sources"):
            run(tmp_path, data=["a", "b"], recipe_name="finetune", overrides=["data.repeats=[1, 2, 3]"])
        assert calls == []

    def test_folder__is_named_by_the_first_process_only(
        self, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RANK", "1")
        level = logging.getLogger("stellar_hub").level
        try:
            assert run(tmp_path, data=["a"], recipe_name="finetune") is None
        finally:
            logging.getLogger("stellar_hub").setLevel(level)
        assert len(calls) == 1

    def test_recipes_own_values__stay_without_options(self, calls: Calls, tmp_path: Path) -> None:
        recipe = recipe_for(Path("images"), "init=stellar-tiny", "model.config={}")
        save_recipe(recipe, tmp_path / "mine.yaml")
        run(tmp_path / "run", recipe_name=str(tmp_path / "mine.yaml"))
        assert calls[0]["recipe"] == recipe

    def test_images__are_asked_for(self, calls: Calls, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no images are given: pass --data FOLDER"):
            run(tmp_path, recipe_name="finetune")
        assert not calls

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_stopped_run__exits_as_if_by_the_signal(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
    ) -> None:
        def stop(*arguments: object, **options: object) -> None:
            raise Stopped(number, 7)

        monkeypatch.setattr(module, "train", stop)
        with pytest.raises(typer.Exit) as caught:
            run(tmp_path, data=["a"], recipe_name="finetune")
        assert caught.value.exit_code == 128 + number
        assert capsys.readouterr().err == "stopped at step 7, checkpoint saved; --resume auto goes on\n"


class TestChosenRecipe:
    def test_recipe__is_asked_for(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no recipe is given: pass --recipe, such as --recipe finetune"):
            chosen_recipe(tmp_path, None, [], None)

    def test_resumed_run__brings_its_own(self, run_folder: Path) -> None:
        expected = recipe_for(Path("images")), None
        assert chosen_recipe(run_folder, None, [], "auto") == expected

    def test_resumed_checkpoint__brings_its_runs(
        self, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoint = run_folder / "checkpoints" / "step-000002"
        expected = recipe_for(Path("images")), None
        assert chosen_recipe(tmp_path / "new", None, [], str(checkpoint)) == expected
        monkeypatch.chdir(checkpoint.parent)
        assert chosen_recipe(tmp_path / "new", None, [], "step-000002") == expected

    @pytest.mark.parametrize("resume", ["/", "/nowhere", "nowhere"])
    def test_resume__of_what_is_no_checkpoint_is_named(self, run_folder: Path, resume: str) -> None:
        with pytest.raises(FileNotFoundError, match=rf"^{resume} is not a checkpoint"):
            chosen_recipe(run_folder, None, [], resume)

    def test_resume__where_there_is_no_run_asks_for_a_recipe(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="--recipe"):
            chosen_recipe(tmp_path, None, [], "auto")

    def test_settings__without_a_recipe_are_refused(self, run_folder: Path) -> None:
        with pytest.raises(ValueError, match="--set changes a recipe: pass --recipe too"):
            chosen_recipe(run_folder, None, ["batch_size=8"], "auto")
