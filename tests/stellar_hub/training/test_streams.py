"""Training from a stream: the same run for any number of workers, killed or not, shared by processes."""

import json
import random
import signal
from pathlib import Path

import pytest

from stellar_hub.data.streams import Readers, open_stream
from stellar_hub.training.recipes.files import save_recipe
from stellar_hub.training.train import train
from tests.stellar_hub.data.sources.conftest import write_tar
from tests.stellar_hub.training.conftest import draw_images, recipe_for
from tests.training_processes import Training, different, final_weights, largest_difference

STEPS = 14


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose images are two unequal tars with a damaged image, read as a stream."""
    base = tmp_path_factory.mktemp("stream")
    files = sorted(draw_images(base / "images", 9).iterdir())
    for shard, part in enumerate((files[:6], files[6:])):
        members = {file.name: file.read_bytes() for file in part}
        write_tar(base / f"shard-{shard}.tar", members | ({"image-1.png": b"damaged"} if shard == 0 else {}))
    overrides = ("run.log_every=1", "run.save_every=2", f"optimization.steps={STEPS}", "optimization.optimizer=sgd")
    save_recipe(recipe_for(f"stream:{base}/shard-*.tar", *overrides), base / "recipe.yaml")
    return base / "recipe.yaml"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Path:
    """The folder of a run that nothing happened to."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    with Training(output, "--recipe", recipe, "--set", "data.num_workers=0") as training:
        assert training.wait() == [0], training.log()
    assert "a stream of images" in training.log()
    assert "image-1.png" in training.log()
    return output


@pytest.mark.slow
def test_run_killed_and_resumed_with_workers__ends_with_the_same_bits(
    recipe: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output, chance = tmp_path / "run", random.Random(0)
    options: tuple[str | Path, ...] = ("--recipe", recipe, "--set", "data.num_workers=2")
    for step in sorted(chance.sample(range(1, STEPS - 3), 3)):
        with Training(output, *options) as training:
            training.wait_for_step(step)
            assert training.kill() == [-signal.SIGKILL], training.log()
        options = ("--resume", "auto")
    with Training(output, *options) as training:
        assert training.wait() == [0], training.log()
    assert different(final_weights(output), final_weights(undisturbed)) == []


@pytest.mark.slow
def test_two_processes_killed_and_resumed__train_what_one_does(recipe: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with Training(output, "--recipe", recipe, num_processes=2) as training:
        training.wait_for_step(5)
        training.kill()
    with Training(output, "--resume", "auto", num_processes=2) as training:
        assert training.wait() == [0, 0], training.log()
    assert largest_difference(final_weights(output), final_weights(undisturbed)) < 1e-5


def test_epochs_of_a_stream__are_refused(recipe: Path, tmp_path: Path) -> None:
    name = f"stream:{recipe.parent}/shard-0.tar"
    with pytest.raises(ValueError, match=r"optimization\.epochs is 1.*optimization\.steps"):
        train(recipe_for(name, "optimization.steps=null", "optimization.epochs=1"), tmp_path / "run", cpu=True)


def test_three_processes__cannot_share_two_readers(recipe: Path, tmp_path: Path) -> None:

    with pytest.raises(ValueError, match="2 shards make 2 readers, which 3 processes cannot share evenly"):
        Readers(open_stream([f"stream:{recipe.parent}/shard-*.tar"]), 0).for_process(0, 3)


def test_checkpoint__holds_the_position_of_each_reader(undisturbed: Path) -> None:

    state = json.loads((undisturbed / "checkpoints" / f"step-{STEPS:06d}" / "run_state.json").read_text())
    assert sorted(state["cursors"]) == ["0", "1"]
    assert all(len(cursor) == 4 for cursor in state["cursors"].values())
