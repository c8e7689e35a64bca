"""A run that is resumed ends with the same weights as one that was never interrupted, or is refused."""

import os
import random
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stellar_hub.modeling import StellarModel
from stellar_hub.training.checkpoints.checkpoints import Checkpoints
from stellar_hub.training.recipes.files import load_recipe, save_recipe
from stellar_hub.training.run import RunFolder
from stellar_hub.training.train import train
from tests.stellar_hub.training.conftest import (
    SOP,
    STEP_2,
    STEP_4,
    Finished,
    assert_same_weights,
    changed,
    draw_images,
    journal_of,
    recipe_for,
    weights_of,
)
from tests.training_processes import (
    FORKS,
    PATIENCE,
    Training,
    different,
    final_weights,
    images_read,
    last_step,
    measured,
)

STEPS = 16
SEED = 0


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe with a teacher, every step journaled, a checkpoint every second."""
    folder = tmp_path_factory.mktemp("recipe")
    overrides = ("model.config.teacher_momentum=0.9", "run.log_every=1", "run.save_every=2")
    images = draw_images(folder / "images")
    save_recipe(recipe_for(images, *overrides, f"optimization.steps={STEPS}"), folder / "recipe.yaml")
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Path:
    """The folder of a run that nothing happened to."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    with Training(output, "--recipe", recipe) as training:
        assert training.wait() == [0], training.log()
    return output


def check_same(output: Path, undisturbed: Path) -> None:
    """Weights, journal and images are those of the undisturbed run, bit for bit."""
    assert different(final_weights(output), final_weights(undisturbed)) == []
    assert [record["step"] for record in measured(output)] == list(range(1, STEPS + 1))
    assert measured(output) == measured(undisturbed)
    assert images_read(output) == images_read(undisturbed)
    assert list((output / "checkpoints").glob(".*")) == []


def kill_after(training: Training, step: int, chance: random.Random) -> None:
    """SIGKILL at any moment after a step is done."""
    training.wait_for_step(step)
    training.wait_until(lambda: chance.random() < 0.1)
    assert training.kill() == [-signal.SIGKILL], training.log()


def kill_while_saving(training: Training, step: int) -> Path:
    """SIGKILL while a checkpoint is being written after a step; the unfinished folder."""
    training.wait_for_step(step)
    checkpoints = training.output / "checkpoints"
    while True:
        training.wait_until(lambda: list(checkpoints.glob(".step-*.part")))
        training.signal(signal.SIGSTOP)  # to look whether it is still being written
        unfinished = list(checkpoints.glob(".step-*.part"))
        if unfinished:
            assert training.kill() == [-signal.SIGKILL], training.log()
            return unfinished[0]
        training.signal(signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "save_every"), [(0, 2), (2, 1)], ids=["no-workers", "workers"])
def test_run_killed_five_times__ends_with_the_same_bits(
    recipe: Path, undisturbed: Path, tmp_path: Path, num_workers: int, save_every: int
) -> None:
    output = tmp_path / "run"
    chance = random.Random(SEED + num_workers)
    moments = sorted(chance.sample(range(1, STEPS - 4), 5))
    changes = ("--set", f"data.num_workers={num_workers}", "--set", f"run.save_every={save_every}")
    options: tuple[str | Path, ...] = ("--recipe", recipe, *changes)
    for count, step in enumerate(moments):
        with Training(output, *options) as training:
            if count % 2:
                assert kill_while_saving(training, step).exists()
            else:
                kill_after(training, step, chance)
        options = ("--resume", "auto")
    with Training(output, *options) as training:
        assert training.wait() == [0], training.log()
    check_same(output, undisturbed)


@pytest.mark.slow
def test_run_with_memories_killed_twice__ends_with_the_same_bits(tmp_path: Path) -> None:
    overrides = (*SOP, "run.log_every=1", "run.save_every=2", f"optimization.steps={STEPS}")
    save_recipe(recipe_for(draw_images(tmp_path / "images"), *overrides), tmp_path / "recipe.yaml")
    with Training(tmp_path / "undisturbed", "--recipe", tmp_path / "recipe.yaml") as training:
        assert training.wait() == [0], training.log()
    output, chance = tmp_path / "run", random.Random(SEED)
    options: tuple[str | Path, ...] = ("--recipe", tmp_path / "recipe.yaml")
    for step in (3, 8):
        with Training(output, *options) as training:
            kill_after(training, step, chance)
        options = ("--resume", "auto")
    with Training(output, *options) as training:
        assert training.wait() == [0], training.log()
    assert sum(name.endswith("_memory.position") for name in final_weights(output)) == 2
    check_same(output, tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_sigterm_to_the_group__saves_a_checkpoint_and_exits_with_143(
    recipe: Path, undisturbed: Path, tmp_path: Path, num_workers: int
) -> None:
    output = tmp_path / "run"
    changes = ("--set", f"data.num_workers={num_workers}", "--set", "run.save_every=100")
    with Training(output, "--recipe", recipe, *changes) as training:
        training.wait_for_step(3)
        training.signal(signal.SIGTERM)
        assert training.wait() == [128 + signal.SIGTERM], training.log()
        assert training.survivors() == []
        assert "checkpoint saved; --resume auto continues" in training.log()
    stopped = last_step(output)
    assert 3 <= stopped < STEPS
    assert Checkpoints(output / "checkpoints", keep=2).steps() == [stopped]
    with Training(output, "--resume", "auto") as training:
        assert training.wait() == [0], training.log()
    check_same(output, undisturbed)


@pytest.mark.slow
def test_data_worker_that_dies__ends_the_run_with_an_error_to_resume_from(
    recipe: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    with Training(output, "--recipe", recipe, "--set", "data.num_workers=2") as training:
        training.wait_for_step(4)
        workers = training.workers()
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        assert training.wait() == [1], training.log()
        assert re.search(r"^error: .*worker.*(killed|ended|exited)", training.log(), re.MULTILINE)
        assert "Traceback" not in training.log()
        training_survivors = training.survivors()
    assert training_survivors == []
    checkpoint = Checkpoints(output / "checkpoints", keep=2).latest()
    assert checkpoint is not None
    assert load_file(checkpoint / "model.safetensors")
    with Training(output, "--resume", "auto") as training:
        assert training.wait() == [0], training.log()
    check_same(output, undisturbed)


def hold_lock(output: Path, ready: Any, done: Any) -> None:
    """Uses the folder of a run, as another training does, until `done`."""
    folder = RunFolder(output, keep_checkpoints=1)
    folder.lock()
    ready.set()
    done.wait(PATIENCE)
    folder.release()


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run that may be changed."""
    return Path(shutil.copytree(finished.output, tmp_path / "copied"))


class TestAuto:
    def test_new_folder__starts_a_run(self, finished: Finished, tmp_path: Path) -> None:
        train(finished.recipe, tmp_path / "new", resume="auto", cpu=True)
        assert_same_weights(tmp_path / "new", finished.output)

    @pytest.mark.parametrize("killed", ["after the checkpoint of step 2", "before the first checkpoint"])
    def test_killed_run__continues_to_the_same_weights(self, copied: Path, finished: Finished, killed: str) -> None:
        shutil.rmtree(copied / "model")
        if killed == "before the first checkpoint":
            shutil.rmtree(copied / STEP_2)
        shutil.rmtree(copied / STEP_4)
        (copied / "checkpoints" / ".step-000002.part").mkdir(parents=True)
        train(finished.recipe, copied, resume="auto", cpu=True)
        assert_same_weights(copied, finished.output)
        assert [record["step"] for record in journal_of(copied)] == [1, 2, 4]
        assert sorted(path.name for path in (copied / "checkpoints").iterdir()) == ["step-000002", "step-000004"]

    def test_finished_run__is_exported_again(
        self, copied: Path, finished: Finished, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.rmtree(copied / "model")
        train(finished.recipe, copied, resume="auto", cpu=True)
        exported = [load_file(output / "model" / "model.safetensors") for output in (copied, finished.output)]
        torch.testing.assert_close(exported[0], exported[1], rtol=0, atol=0)
        assert (copied / "metrics.jsonl").read_text() == (finished.output / "metrics.jsonl").read_text()
        assert "the run is finished: all 4 steps" in capsys.readouterr().err

    def test_finished_run__that_has_its_model_says_so_and_ends(
        self, copied: Path, finished: Finished, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with open(copied / "model" / "README.md", "a") as file:
            file.write("My own words.\n")
        before = (copied / "model" / "README.md").read_bytes()
        assert train(finished.recipe, copied, resume="auto", cpu=True) == copied / "model"
        assert "all 4 steps were done" in capsys.readouterr().err
        assert (copied / "model" / "README.md").read_bytes() == before

    def test_damaged_checkpoint__makes_it_go_on_from_the_one_before(
        self, copied: Path, finished: Finished, capsys: pytest.CaptureFixture[str]
    ) -> None:
        journal = (copied / "metrics.jsonl").read_bytes()
        data = bytearray((copied / STEP_4 / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (copied / STEP_4 / "model.safetensors").write_bytes(data)
        train(finished.recipe, copied, resume="auto", cpu=True)
        assert_same_weights(copied, finished.output)
        assert (copied / "metrics-to-step-000004.jsonl").read_bytes() == journal
        said = capsys.readouterr().err
        for words in ("step-000004/model.safetensors", "goes on from step-000002", "metrics-to-step-000004.jsonl"):
            assert words in said

    def test_run_without_a_whole_checkpoint__is_left_as_it_is(self, copied: Path, finished: Finished) -> None:
        for step in (STEP_2, STEP_4):
            (copied / step / "run_state.json").unlink()
        before = (copied / "metrics.jsonl").read_bytes()
        with pytest.raises(ValueError, match=r"no checkpoint that is whole.*step-000002"):
            train(finished.recipe, copied, resume="auto", cpu=True)
        assert (copied / "metrics.jsonl").read_bytes() == before

    def test_run_that_another_process_uses__is_refused(self, copied: Path, finished: Finished) -> None:
        holder = FORKS.Process(target=hold_lock, args=(copied, ready := FORKS.Event(), done := FORKS.Event()))
        holder.start()
        try:
            assert ready.wait(PATIENCE)
            before = (copied / "metrics.jsonl").read_bytes()
            with pytest.raises(BlockingIOError, match=rf"another run uses the folder {copied}"):
                train(finished.recipe, copied, resume="auto", cpu=True)
            assert (copied / "metrics.jsonl").read_bytes() == before
        finally:
            done.set()
            holder.join()
        train(finished.recipe, copied, resume="auto", cpu=True)

    def test_weights_that_the_run_started_with__may_be_gone(self, finished: Finished, tmp_path: Path) -> None:
        source = Path(shutil.copytree(finished.output / STEP_2, tmp_path / "start"))
        started = changed(finished.recipe, f"init={source}", "model.config={}")
        train(started, tmp_path / "run", cpu=True)
        expected = weights_of(tmp_path / "run")
        shutil.rmtree(source)
        shutil.rmtree(tmp_path / "run" / STEP_4)
        train(started, tmp_path / "run", resume="auto", cpu=True)
        torch.testing.assert_close(weights_of(tmp_path / "run"), expected, rtol=0, atol=0)

    def test_moved_images_and_other_habits__are_the_same_run(
        self, copied: Path, finished: Finished, image_folder: Path
    ) -> None:
        shutil.rmtree(copied / STEP_4)
        habits = ("save_every=1", "log_every=1", "preview_every=4", "run.license=mit")
        moved = changed(load_recipe(copied), f"data.sources=[{image_folder}]", *habits)
        train(moved, copied, resume="auto", cpu=True)
        assert_same_weights(copied, finished.output)
        assert load_recipe(copied) == moved

    def test_export_before_the_checkpoint__does_not_make_it_another_run(
        self, finished: Finished, tmp_path: Path
    ) -> None:
        recipe = changed(finished.recipe, "export_every=1", "steps=2")  # an export writes to the configuration
        train(recipe, tmp_path / "run", cpu=True)
        train(recipe, tmp_path / "run", resume="auto", cpu=True)


class TestPath:
    def test_earlier_checkpoint__writes_the_later_ones_again(self, copied: Path, finished: Finished) -> None:
        (copied / STEP_4 / "optimizer.pt").write_bytes(b"damaged")
        with pytest.raises(ValueError, match=str(copied / STEP_4 / "optimizer.pt")):
            train(finished.recipe, copied, resume=copied / STEP_4, cpu=True)
        train(finished.recipe, copied, resume=copied / STEP_2, cpu=True)
        assert_same_weights(copied, finished.output)

    @pytest.mark.parametrize("name", ["optimizer.pt", "random_state_0.pt", "config.json", "run_state.json"])
    def test_file_that_is_missing__is_named(self, copied: Path, finished: Finished, name: str) -> None:
        (copied / STEP_4 / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            train(finished.recipe, copied, resume=copied / STEP_4, cpu=True)

    def test_checkpoint_of_another_run__starts_a_branch(
        self, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(finished.output / "checkpoints")
        train(finished.recipe, tmp_path / "branch", resume="step-000002", cpu=True)
        assert_same_weights(tmp_path / "branch", finished.output)
        assert [record["step"] for record in journal_of(tmp_path / "branch")] == [4]
        train(finished.recipe, tmp_path / "end", resume=finished.output / STEP_4, cpu=True)
        assert StellarModel.from_pretrained(tmp_path / "end" / "model") is not None

    def test_checkpoint__may_be_where_another_run_starts(self, finished: Finished, tmp_path: Path) -> None:
        source = finished.output / STEP_4
        started = changed(finished.recipe, f"init={source}", "model.config={}", "steps=1", "learning_rate=1e-5")
        train(started, tmp_path / "run", cpu=True)
        name = "stellar.encoder.sparse_tokens"
        after = load_file(tmp_path / "run" / "checkpoints" / "step-000001" / "model.safetensors")[name]
        torch.testing.assert_close(after, weights_of(finished.output)[name], rtol=0, atol=1e-4)


class TestRefused:
    def test_run_that_is_there__is_not_written_over(self, finished: Finished) -> None:
        before = {path: path.stat().st_mtime_ns for path in finished.output.rglob("*")}
        with pytest.raises(FileExistsError, match="--resume auto"):
            train(finished.recipe, finished.output, cpu=True)
        assert {path: path.stat().st_mtime_ns for path in finished.output.rglob("*")} == before

    def test_path__that_is_not_a_checkpoint_is_named(self, finished: Finished) -> None:
        model = finished.output / "model"
        with pytest.raises(FileNotFoundError, match=str(model)):
            train(finished.recipe, finished.output, resume=model, cpu=True)

    @pytest.mark.parametrize(
        ("overrides", "difference"),
        [
            (["num_hidden_layers=3"], "model.config.num_hidden_layers: 2 in the run, 3 now"),
            ([*SOP], 'model.config.token_objective: "prototypes" in the run, "sop" now'),
            (["learning_rate=2e-3", "seed=1"], "optimization.learning_rate: 0.001 in the run, 0.002 now"),
        ],
    )
    def test_other_recipe__is_refused_with_what_differs(
        self, finished: Finished, overrides: list[str], difference: str
    ) -> None:
        with pytest.raises(ValueError, match="another recipe") as caught:
            train(changed(finished.recipe, *overrides), finished.output, resume="auto", cpu=True)
        assert difference in str(caught.value)
        assert ("run.seed: 0 in the run, 1 now" in str(caught.value)) is ("seed=1" in overrides)

    @pytest.mark.parametrize("change", ["one more", "another size", "another name"])
    def test_other_images__are_refused_with_what_differs(
        self, finished: Finished, image_folder: Path, change: str
    ) -> None:
        image = image_folder / "image-0.png"
        if change == "one more":
            shutil.copy(image, image_folder / "image-9.png")
        elif change == "another size":
            image.write_bytes(image.read_bytes() + b"\0")
        else:
            image.rename(image_folder / "image-00.png")
        other = changed(finished.recipe, f"data.sources=[{image_folder}]")
        with pytest.raises(ValueError, match="images: 6 of ") as caught:
            train(other, finished.output, resume="auto", cpu=True)
        now = "7 of {} now" if change == "one more" else "6 of {} now; their names or sizes differ"
        assert now.format(image_folder) in str(caught.value)
        assert finished.recipe.data.sources[0] in str(caught.value)
