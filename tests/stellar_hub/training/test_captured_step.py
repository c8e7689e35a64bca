"""A step as one graph, with a graph that runs on a CPU: the same numbers as without, and results that stay."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stellar_hub.training.captured_step import CapturedStep, map_tensors
from stellar_hub.training.model import StellarPreTrainingOutput
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.run import Run, build_run
from stellar_hub.training.step_choices import capture, noise_batch
from tests.stellar_hub.training.conftest import changed, recipe_for


class ReplayedGraph:
    """A graph for CPUs: it runs the function again and writes what it gives over the tensors of the captured call.

    Args:
        parameters: Parameters whose gradients a replay overwrites.
    """

    def __init__(self, parameters: list[nn.Parameter]):
        self.parameters = parameters
        self.replays = 0

    def capture(self, function: Callable[[], StellarPreTrainingOutput]) -> StellarPreTrainingOutput:
        self.function, self.output = function, function()
        self.gradients = [parameter.grad for parameter in self.parameters]
        return self.output

    def replay(self) -> None:
        self.replays += 1
        fresh = self.function()
        for name, value in fresh.items():
            self.output[name].copy_(value)
        for kept, parameter in zip(self.gradients, self.parameters, strict=True):
            assert kept is not None
            assert parameter.grad is not None
            kept.copy_(parameter.grad)
            parameter.grad = None


@pytest.fixture
def recipe(image_folder: Path) -> Recipe:
    """With a teacher, local views and masks."""
    return recipe_for(image_folder, "model.config.teacher_momentum=0.9")


def build(recipe: Recipe, folder: Path, captured: bool) -> Run:
    run = build_run(recipe, folder, cpu=True)
    if captured:
        capture(run.stepper, noise_batch(run.recipe, run.stepper), lambda: ReplayedGraph(run.stepper.parameters))
    return run


@pytest.mark.parametrize(
    "override",
    ["run.precision=fp32", "run.precision=bf16", "data.device_crops=true", "model.config.nested_dropout=0.5"],
)
def test_captured_steps__give_the_weights_and_losses_of_others(recipe: Recipe, tmp_path: Path, override: str) -> None:
    found: list[Any] = []
    for captured in (True, False):
        run = build(changed(recipe, override), tmp_path / str(captured), captured)
        losses = []
        for step, batches in enumerate(run.batches.steps()):
            result = run.stepper.step(step, batches)
            losses.append((result.losses, result.gradient_norm))
        graph: Any = getattr(run.stepper.captured, "_graph", None)
        assert (graph.replays if captured else 0) == (4 if captured else 0)
        found.append((losses, run.model.state_dict()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)


def test_results__do_not_change_with_the_next_step(recipe: Recipe, tmp_path: Path) -> None:
    stepper = build(recipe, tmp_path / "run", captured=True).stepper
    first, second = (noise_batch(changed(recipe, f"batch_size={size}"), stepper) for size in (4, 4))
    second["global_views"] = 255 - second["global_views"]
    output = stepper.forward_backward(first, is_last=True)
    before = map_tensors(output, Tensor.clone)
    other = stepper.forward_backward(second, is_last=True)
    torch.testing.assert_close(dict(output.items()), dict(before.items()), rtol=0, atol=0)
    assert (other.tokens - output.tokens).abs().max() > 0
    assert all(not value.requires_grad for value in output.values())


def test_gradients__are_those_of_the_last_batch_and_not_a_sum(recipe: Recipe, tmp_path: Path) -> None:
    stepper = build(recipe, tmp_path / "run", captured=True).stepper
    batch = noise_batch(recipe, stepper)
    gradients = []
    for _ in range(2):
        stepper.forward_backward(batch, is_last=True)
        gradients.append([parameter.grad.clone() for parameter in stepper.parameters if parameter.grad is not None])
    assert len(gradients[0]) == len(stepper.parameters)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_batch_of_another_size__is_computed_without_the_graph(recipe: Recipe, tmp_path: Path) -> None:
    stepper = build(recipe, tmp_path / "run", captured=True).stepper
    smaller = noise_batch(changed(recipe, "batch_size=2"), stepper)
    assert stepper.forward_backward(smaller, is_last=True).tokens.shape[0] == 2
    graph: Any = stepper.captured
    assert graph._graph.replays == 0


def test_graph_that_is_not_given__is_a_cuda_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ReplayedGraph] = []

    def cuda_graph() -> ReplayedGraph:
        made.append(ReplayedGraph([]))
        return made[-1]

    monkeypatch.setattr("stellar_hub.training.captured_step.CudaGraph", cuda_graph)
    step = CapturedStep(lambda batch: StellarPreTrainingOutput(loss=batch["x"].sum()), [], {"x": torch.ones(2)})
    assert float(step({"x": torch.full((2,), 3.0)}).loss) == 6
    assert [graph.replays for graph in made] == [1]


@pytest.mark.gpu
def test_cuda_graph__gives_the_losses_of_plain_steps(recipe: Recipe, tmp_path: Path) -> None:
    found = []
    for graphs in ("true", "false"):
        run = build_run(changed(recipe, f"run.cuda_graphs={graphs}"), tmp_path / graphs)
        assert (run.stepper.captured is not None) == (graphs == "true")
        steps = enumerate(run.batches.steps())
        found.append([float(run.stepper.step(step, batches).losses["loss"]) for step, batches in steps])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=0)
