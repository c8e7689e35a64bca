"""A model shared out among two processes is that of one: losses, weights, checkpoints both ways, what is left."""

import copy
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.training.checkpoints.checkpoints import Checkpoints
from stellar_hub.training.recipes.files import load_recipe, save_recipe
from stellar_hub.training.sharding import SHARDED_OPTIMIZERS, full_tensor
from stellar_hub.training.train import train
from tests.stellar_hub.training.conftest import SOP, draw_images, recipe_for, tiny_recipe_values
from tests.training_processes import FORKS, Training, different, final_weights, free_port, largest_difference, measured

pytestmark = pytest.mark.slow

STEPS = 4
SGD = ("optimization.optimizer=sgd", "optimization.learning_rate=0.01", "run.preview_every=2")
TEACHER = ("model.config.teacher_momentum=0.9",)
# What changes the order in which blocks are gathered and gradients summed.
AGAIN = ("run.gradient_checkpointing=true", "optimization.gradient_accumulation_steps=2")
# What begins from a model for inference has parts that no file holds.
VARIANTS = {"alone": (*SGD, "model.config={}"), "teacher": SGD + TEACHER + AGAIN, "sop": SGD + SOP + AGAIN}
TOLERANCE = 1e-5
# AdamW blows up the rounding of float32 where gradients are near zero.
EXACT = ("run.precision=fp64", "optimization.steps=7", "run.save_every=3", "run.keep_checkpoints=3")
EXACT_TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of as many images as are not a multiple of the batch."""
    return draw_images(tmp_path_factory.mktemp("data") / "images", 10)


def write_recipe(path: Path, images: Path, *overrides: str) -> Path:
    """The tiny recipe with every step journaled."""
    save_recipe(recipe_for(images, f"optimization.steps={STEPS}", "run.log_every=1", *overrides), path)
    return path


@pytest.fixture(scope="module", params=VARIANTS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, image_folder: Path
) -> tuple[Path, Path]:
    """The folders of a run in one process and of the same in two, sharded; both start from a checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(7)  # not the recipe's: weights that were not read would show
    StellarModel(StellarConfig(**tiny_recipe_values()["model"]["config"])).save_pretrained(folder / "begin")
    start = f"model.init={folder / 'begin'}"
    recipe = write_recipe(folder / "recipe.yaml", image_folder, start, *VARIANTS[request.param])
    with Training(folder / "two", "--recipe", recipe, num_processes=2, sharded=True) as training:
        train(load_recipe(recipe), folder / "one", cpu=True)
        assert training.wait() == [0, 0], training.log()
    assert "batch 4 on 2 x cpu, sharded, fp32" in training.log(0)
    return folder / "one", folder / "two"


def test_sharded_run__measures_what_one_process_measures(pair: tuple[Path, Path]) -> None:
    alone, together = map(measured, pair)
    assert [record["step"] for record in together] == list(range(1, STEPS + 1))
    names = [name for name in alone[0] if name.endswith("loss") or name in ("gradient_norm", "assignment_entropy")]
    for name in names:
        torch.testing.assert_close(
            torch.tensor([record[name] for record in together]),
            torch.tensor([record[name] for record in alone]),
            rtol=TOLERANCE,
            atol=TOLERANCE,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    losses = [record["loss"] for record in alone]
    assert max(losses) - min(losses) > 0.5


def test_sharded_run__ends_with_the_weights_of_one_process(pair: tuple[Path, Path]) -> None:
    one, two = pair
    assert largest_difference(final_weights(two), final_weights(one)) < TOLERANCE


def test_sharded_run__leaves_a_model_for_inference(pair: tuple[Path, Path], images: Tensor) -> None:
    one, two = (StellarModel.from_pretrained(output / "model") for output in pair)
    torch.testing.assert_close(two.encode(images), one.encode(images), rtol=1e-4, atol=1e-4)
    assert "| device | 2 x cpu, sharded |" in (pair[1] / "model" / "README.md").read_text()


def test_sharded_run__draws_images(pair: tuple[Path, Path]) -> None:
    names = [sorted(path.name for path in (output / "previews").iterdir()) for output in pair]
    assert names == [["step-000002.png", "step-000004.png"]] * 2


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """The folder of a sharded run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = write_recipe(folder / "recipe.yaml", image_folder, *TEACHER, *EXACT)
    with Training(folder / "run", "--recipe", recipe, num_processes=2, sharded=True) as training:
        assert training.wait() == [0, 0], training.log()
    return folder / "run"


def test_sharded_run_that_is_killed__goes_on_to_the_same_bits(undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with Training(output, "--recipe", undisturbed / "recipe.yaml", num_processes=2, sharded=True) as training:
        training.wait_for_step(4)
        assert training.kill() == [-signal.SIGKILL] * 2, training.log()
    assert Checkpoints(output / "checkpoints", keep=3).steps()[-1] in (3, 6)
    with Training(output, "--resume", "auto", num_processes=2, sharded=True) as training:
        assert training.wait() == [0, 0], training.log()
        assert "resuming from step" in training.log(0)
    assert different(final_weights(output), final_weights(undisturbed)) == []
    assert measured(output) == measured(undisturbed)


def test_checkpoint__goes_from_a_sharded_run_to_a_plain_one_and_back(undisturbed: Path, tmp_path: Path) -> None:
    sharded, plain = undisturbed / "checkpoints" / "step-000003", tmp_path / "plain" / "checkpoints" / "step-000006"
    train(load_recipe(undisturbed / "recipe.yaml"), tmp_path / "plain", resume=sharded, cpu=True)
    with Training(tmp_path / "back", "--resume", plain, num_processes=2, sharded=True) as training:
        assert training.wait() == [0, 0], training.log()
    expected = final_weights(undisturbed)
    for output in ("plain", "back"):
        assert largest_difference(final_weights(tmp_path / output), expected) < EXACT_TOLERANCE


def step_with_shards(rank: int, port: int) -> None:
    """In one of two processes: each optimizer steps with shards as with whole weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    inputs = torch.randn(4, 6, dtype=torch.float64)
    for name in SHARDED_OPTIMIZERS:
        whole = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        before, sharded = copy.deepcopy(whole), copy.deepcopy(whole)
        fully_shard(sharded, mesh=init_device_mesh("cpu", (2,)))
        for model in (whole, sharded):
            optimizer = create_optimizer_v2(model, opt=name, lr=0.01, weight_decay=0.04)
            for _ in range(3):
                model(inputs).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        for old, expected, found in zip(before.parameters(), whole.parameters(), sharded.parameters(), strict=True):
            assert (old - expected).abs().max() > 1e-6, name
            torch.testing.assert_close(full_tensor(found), expected, rtol=0, atol=1e-12, msg=name)
    dist.destroy_process_group()


def test_optimizers__step_with_shards_as_with_whole_weights() -> None:
    port = free_port()
    processes = [FORKS.Process(target=step_with_shards, args=(rank, port)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0, 0]
