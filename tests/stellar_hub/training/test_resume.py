"""A run that is killed or stopped, and goes on, ends with the very weights of one that was not."""

import os
import random
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from stellar_hub.training.checkpoints.checkpoints import Checkpoints
from stellar_hub.training.recipes.files import save_recipe
from tests.stellar_hub.training.conftest import draw_images, recipe_for
from tests.training_processes import Training, different, final_weights, images_read, last_step, measured

pytestmark = pytest.mark.slow

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
        assert "checkpoint saved; --resume auto goes on" in training.log()
    stopped = last_step(output)
    assert 3 <= stopped < STEPS
    assert Checkpoints(output / "checkpoints", keep=2).steps() == [stopped]
    with Training(output, "--resume", "auto") as training:
        assert training.wait() == [0], training.log()
    check_same(output, undisturbed)


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
        assert "error: DataLoader worker" in training.log()
        assert "Traceback" not in training.log()
        training_survivors = training.survivors()
    assert training_survivors == []
    checkpoint = Checkpoints(output / "checkpoints", keep=2).latest()
    assert checkpoint is not None
    assert load_file(checkpoint / "model.safetensors")
    with Training(output, "--resume", "auto") as training:
        assert training.wait() == [0], training.log()
    check_same(output, undisturbed)
