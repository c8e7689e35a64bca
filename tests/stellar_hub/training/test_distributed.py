"""Two processes over gloo are one: losses, weights, images; and what happens when one of them is gone."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from stellar_hub.training.checkpoints.checkpoints import Checkpoints, read_state
from stellar_hub.training.recipes.files import save_recipe
from tests.stellar_hub.training.conftest import SOP, SOP_PATCHES, draw_images, recipe_for
from tests.training_processes import (
    PATIENCE,
    Training,
    different,
    final_weights,
    free_port,
    images_read,
    largest_difference,
    last_step,
    measured,
)

pytestmark = pytest.mark.slow

NUM_IMAGES = 10
STEPS = 10
BATCH = 4
SGD = ("optimization.optimizer=sgd", "optimization.learning_rate=0.01")
ADAMW = ("optimization.optimizer=adamw", "optimization.learning_rate=1e-3", "run.precision=fp64")
TEACHER = ("model.config.teacher_momentum=0.9",)
# Optimizer and precision, teacher, and how far two processes may be from one: float32 is as exact as its sums, which
# AdamW blows up where gradients are near zero.
VARIANTS = {
    "sgd": (SGD, 1e-5),
    "adamw-teacher": (ADAMW + TEACHER, 1e-9),
    "adamw-sop": (ADAMW + SOP, 1e-7),  # the gradients of some positions are very near zero
    "adamw-sop-patches": (ADAMW + SOP_PATCHES, 1e-9),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of as many images as are not a multiple of the batch."""
    return draw_images(tmp_path_factory.mktemp("data") / "images", NUM_IMAGES)


def write_recipe(path: Path, images: Path, *overrides: str, steps: int = STEPS) -> Path:
    """The tiny recipe with every step journaled."""
    always = (f"optimization.steps={steps}", f"optimization.batch_size={BATCH}", "run.log_every=1")
    save_recipe(recipe_for(images, *always, *overrides), path)
    return path


@pytest.fixture(scope="module", params=VARIANTS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, images: Path
) -> tuple[Path, Path, float]:
    """The folders of a run in one process and of the same in two, and how far they may be apart."""
    overrides, tolerance = VARIANTS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    recipe = write_recipe(folder / "recipe.yaml", images, *overrides, "run.save_every=100")
    for name, count in (("one", 1), ("two", 2)):
        with Training(folder / name, "--recipe", recipe, num_processes=count) as training:
            assert training.wait() == [0] * count, training.log()
    return folder / "one", folder / "two", tolerance


def test_two_processes__measure_what_one_measures(pair: tuple[Path, Path, float]) -> None:
    one, two, tolerance = pair
    alone, together = measured(one), measured(two)
    assert [record["step"] for record in together] == list(range(1, STEPS + 1))
    names = [name for name in alone[0] if name.endswith("loss") or name in ("assignment_entropy", "learning_rate")]
    for name in names:
        torch.testing.assert_close(
            torch.tensor([record[name] for record in together], dtype=torch.float64),
            torch.tensor([record[name] for record in alone], dtype=torch.float64),
            rtol=tolerance,  # the whole loss is about 60, where float32 has steps of 4e-6
            # The meter is computed in float32.
            atol=max(tolerance, 1e-6) if name == "assignment_entropy" else tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_two_processes__end_with_the_weights_of_one(pair: tuple[Path, Path, float]) -> None:
    one, two, tolerance = pair
    weights = final_weights(one)
    memories = [name for name in weights if name.endswith("_memory.rows")]
    assert len(memories) == (2 if "sop" in one.parent.name else 0)
    assert largest_difference(final_weights(two), weights) < tolerance


def test_two_processes__read_the_images_of_one(pair: tuple[Path, Path, float]) -> None:
    one, two, _ = pair
    alone, first, second = images_read(one), images_read(two, 0), images_read(two, 1)
    assert len(alone) == STEPS
    assert {step: first[step] + second[step] for step in first} == alone
    assert {len(names) for names in [*first.values(), *second.values()]} == {BATCH // 2}


def test_two_processes__read_each_image_once_per_epoch(pair: tuple[Path, Path, float]) -> None:
    _, two, _ = pair
    first, second = images_read(two, 0), images_read(two, 1)
    stream = [name for step in range(STEPS) for name in first[step] + second[step]]
    epochs = [stream[start : start + NUM_IMAGES] for start in range(0, len(stream), NUM_IMAGES)]
    assert len(epochs) == STEPS * BATCH // NUM_IMAGES
    assert all(set(Counter(epoch).values()) == {1} and len(epoch) == NUM_IMAGES for epoch in epochs)


def test_training__moves_weights_by_far_more_than_the_tolerance(pair: tuple[Path, Path, float]) -> None:
    one, _, _ = pair
    losses = [record["loss"] for record in measured(one)]
    assert max(losses) - min(losses) > 1e-2


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """The folder of a run in two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = write_recipe(folder / "recipe.yaml", images, *TEACHER, "run.save_every=4", steps=16)
    with Training(folder / "run", "--recipe", recipe, num_processes=2) as training:
        assert training.wait() == [0, 0], training.log()
    return folder / "run"


@pytest.mark.parametrize("ranks", [(0, 1), (1,)], ids=["all", "one"])
def test_sigterm__stops_both_processes_after_a_checkpoint(undisturbed: Path, tmp_path: Path, ranks: tuple[int]) -> None:
    output = tmp_path / "run"
    workers = () if len(ranks) == 1 else ("--set", "data.num_workers=1")
    with Training(output, "--recipe", undisturbed / "recipe.yaml", *workers, num_processes=2) as training:
        training.wait_for_step(5)
        training.signal(signal.SIGTERM, ranks)
        assert training.wait() == [143, 143], training.log()
        assert training.survivors() == []
    stopped = last_step(output)
    assert 5 <= stopped < 16
    assert Checkpoints(output / "checkpoints", keep=2).steps()[-1] == stopped
    with Training(output, "--resume", "auto", num_processes=2) as training:
        assert training.wait() == [0, 0], training.log()
    assert different(final_weights(output), final_weights(undisturbed)) == []
    assert measured(output) == measured(undisturbed)
    assert [images_read(output, rank) for rank in (0, 1)] == [images_read(undisturbed, rank) for rank in (0, 1)]


def test_run_begun_alone__goes_on_in_two_processes(images: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", images, *ADAMW, *TEACHER)
    with Training(tmp_path / "alone", "--recipe", recipe) as training:
        assert training.wait() == [0], training.log()
    with Training(tmp_path / "run", "--recipe", recipe) as training:
        training.wait_for_step(3)
        training.signal(signal.SIGTERM)
        assert training.wait() == [143], training.log()
    with Training(tmp_path / "run", "--resume", "auto", num_processes=2) as training:
        assert training.wait() == [0, 0], training.log()
    assert largest_difference(final_weights(tmp_path / "run"), final_weights(tmp_path / "alone")) < 1e-9


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU they find each other")
def test_image__that_only_the_second_process_cannot_read_is_named_by_the_first(tmp_path: Path) -> None:
    images = draw_images(tmp_path / "images", 3)
    (images / "damaged.png").write_bytes(b"no image")
    recipe = write_recipe(tmp_path / "recipe.yaml", images, steps=6)
    with Training(tmp_path / "run", "--recipe", recipe, num_processes=2) as training:
        assert training.wait() == [0, 0], training.log()
    readers = [sum("damaged" in str(path) for path in images_read(tmp_path / "run", rank)) for rank in (0, 1)]
    assert training.log(0).count("skipped image 1: ") == 1, readers
    assert "skipped image" not in training.log(1)
    assert "| images that could not be read | 1 |" in (tmp_path / "run" / "model" / "README.md").read_text()
    for sentence in ("the model is in", "new weights"):
        assert sentence not in training.log(1)


def test_processes_that_would_train_alone__are_refused(images: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", images)
    with Training(tmp_path / "run", "--recipe", recipe, num_processes=2, cpu=False) as training:
        assert training.wait() == [1, 1], training.log()
        assert "error: 2 processes were launched" in training.log()  # the other may miss its end of the connection
        assert "pass --cpu" in training.log()
    assert not (tmp_path / "run").exists()


@contextmanager
def launched(output: Path, *options: str | Path) -> Iterator[psutil.Process]:
    """The command in two processes under a launcher, as users start it; in a session of its own."""
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    command = [sys.executable, *launcher, "-m", "stellar_hub", "train", "--cpu", "--output", output, *options]
    with open(output.with_name("launched.txt"), "wb") as log:
        process = psutil.Popen(
            list(map(str, command)),
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    family = []
    try:
        yield process
        family = process.children(recursive=True) if process.is_running() else []
    finally:
        for member in [*family, process]:
            if member.is_running():
                member.kill()
        process.wait()


def test_process_that_dies__ends_the_launch_and_leaves_the_checkpoint(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    recipe = write_recipe(tmp_path / "recipe.yaml", images, "run.save_every=2", steps=100_000)
    with launched(output, "--recipe", recipe) as launcher:
        wait_for_step(output, 5, launcher)
        family = launcher.children(recursive=True)
        second = next(member for member in family if member.environ().get("RANK") == "1")
        second.kill()
        killed = time.monotonic()
        assert launcher.wait(60) != 0
        assert time.monotonic() - killed < 60
        _, alive = psutil.wait_procs(family, timeout=10)
        assert alive == []
    checkpoint = Checkpoints(output / "checkpoints", keep=2).latest()
    assert checkpoint is not None
    assert not list(checkpoint.parent.glob(".*"))
    done = read_state(checkpoint)["step"]
    with Training(output, "--resume", "auto", num_processes=2) as training:
        training.wait_until(lambda: f"resuming from step {done} " in training.log())
        training.wait_for_step(done + 3)


def wait_for_step(output: Path, step: int, launcher: psutil.Process) -> None:
    """Look until the journal has a step."""
    end = time.monotonic() + PATIENCE
    while last_step(output) < step:
        log = output.with_name("launched.txt").read_text()
        assert launcher.is_running(), log
        assert launcher.status() != psutil.STATUS_ZOMBIE, log
        assert time.monotonic() < end, log
        time.sleep(0.1)


@pytest.mark.parametrize("sharded", [False, True], ids=["replicated", "sharded"])
def test_probes__leave_the_weights_of_two_processes_as_they_are(images: Path, tmp_path: Path, sharded: bool) -> None:
    for name, every in (("off", 0), ("on", 2)):
        recipe = write_recipe(tmp_path / f"{name}.yaml", images, f"run.probe_every={every}", steps=4)
        with Training(tmp_path / name, "--recipe", recipe, num_processes=2, sharded=sharded) as training:
            assert training.wait() == [0, 0], training.log()
    assert different(final_weights(tmp_path / "on"), final_weights(tmp_path / "off")) == []
    assert ["probe_rank" in record for record in measured(tmp_path / "on")] == [True, True, False, True]
    assert [training.log(rank).count("probe after step") for rank in (0, 1)] == [3, 0]
