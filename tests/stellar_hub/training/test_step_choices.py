"""How a step is computed: chosen by the device, measured, or as the recipe says; and the same weights in every way."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stellar_hub.modeling import StellarConfig
from stellar_hub.training import step_choices as module
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.run import Run, build_run
from stellar_hub.training.step import Stepper, augmented_inputs, move_views
from stellar_hub.training.step_choices import (
    StepMeasurement,
    capture_obstacle,
    choose_by_device,
    choose_step,
    compiled_parts,
    describe_choices,
    noise_batch,
    restore_choices,
    set_channels_last,
    time_step,
    undo_compiling,
)
from tests.stellar_hub.training.conftest import SOP, changed, recipe_for
from tests.stellar_hub.training.test_captured_step import ReplayedGraph

OPEN = ("run.compile=null", "run.cuda_graphs=null")


@pytest.fixture
def run(tiny_recipe: Recipe, tmp_path: Path) -> Run:
    return build_run(tiny_recipe, tmp_path / "run", cpu=True)


def times(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """Let a step take these seconds in the ways that are tried one after the other."""
    remaining = list(seconds)
    monkeypatch.setattr(module, "time_step", lambda *args: (remaining.pop(0), 0.0))


def is_compiled(run: Run) -> bool:
    return any(block._compiled_call_impl is not None for block in compiled_parts(run.model))


@pytest.mark.parametrize(
    ("seconds", "compiled", "captured"),
    [((1.0, 0.5, 0.2), True, True), ((1.0, 1.2, 0.2), False, True), ((1.0, 0.5, 0.49), True, False)],
)
def test_null__keeps_what_is_faster(
    run: Run, monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, ...], compiled: bool, captured: bool
) -> None:
    times(monkeypatch, *seconds)
    graph = ReplayedGraph(run.stepper.parameters)
    recipe, (line, *last) = choose_step(changed(run.recipe, *OPEN), run.stepper, lambda: graph, measure=True)
    assert (recipe.run.compile, recipe.run.cuda_graphs) == (compiled, captured)
    assert (is_compiled(run), run.stepper.captured is not None) == (compiled, captured)
    assert "blocks compiled 1000.0 to" in line
    assert line.count("not kept") == 2 - compiled - captured
    assert [("compiled blocks" in words, "a CUDA graph" in words) for words in last] == [(compiled, captured)]
    undo_compiling(run.stepper)


def test_failure_of_what_is_open__is_said_and_the_run_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(stepper: Stepper) -> None:
        raise RuntimeError("no compiler\nhere")

    times(monkeypatch, 1.0)
    monkeypatch.setattr(module, "compile_step", fail)
    recipe, (line,) = choose_step(changed(run.recipe, "run.compile=null"), run.stepper, measure=True)
    assert recipe.run.compile is False
    assert "blocks compiled failed (no compiler here)" in line
    with pytest.raises(RuntimeError, match="no compiler"):
        choose_step(changed(run.recipe, "run.compile=true", "cuda_graphs=null"), run.stepper, measure=False)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_full_memory__ends_a_launch_whose_other_processes_would_wait(
    monkeypatch: pytest.MonkeyPatch, num_processes: int
) -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    times(monkeypatch, 1.0)
    stepper: Any = SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=num_processes), optimizer=torch.optim.SGD([torch.zeros(1)])
    )
    steps = StepMeasurement(stepper, {})
    if num_processes == 1:
        assert not steps.attempt(None, "blocks compiled", fail, lambda: None)
        return
    with pytest.raises(torch.OutOfMemoryError):
        steps.attempt(None, "blocks compiled", fail, lambda: None)


def test_null_on_a_cpu__changes_nothing(tiny_recipe: Recipe, tmp_path: Path) -> None:
    run = build_run(changed(tiny_recipe, *OPEN, "prototype_precision=null"), tmp_path / "run", cpu=True)
    assert (run.recipe.run.compile, run.recipe.run.cuda_graphs) == (False, False)
    assert run.recipe.optimization.prototype_precision == run.model.prototype_precision == "fp32"
    assert not is_compiled(run)
    assert len(run.notes) == 1
    assert describe_choices(run.recipe, run.stepper) is None


def test_graph_that_is_asked_for_on_a_cpu__is_refused_with_a_note(tiny_recipe: Recipe, tmp_path: Path) -> None:
    run = build_run(changed(tiny_recipe, "run.cuda_graphs=true"), tmp_path / "run", cpu=True)
    assert run.recipe.run.cuda_graphs is False
    assert "no CUDA graph" in run.notes[1]


@pytest.mark.parametrize(("device", "mixed", "expected"), [("cuda", "bf16", "tf32"), ("cuda", "no", "fp32")])
def test_prototype_precision__follows_device_and_precision(
    tiny_recipe: Recipe, device: str, mixed: str, expected: str
) -> None:
    accelerator: Any = SimpleNamespace(device=torch.device(device), mixed_precision=mixed)
    found = choose_by_device(changed(tiny_recipe, "prototype_precision=null", *OPEN), accelerator)
    assert found.optimization.prototype_precision == expected
    assert found.run.compile is found.run.cuda_graphs is None  # to be measured
    assert choose_by_device(tiny_recipe, accelerator) == tiny_recipe


def test_resumed_run__keeps_its_choices(tiny_recipe: Recipe, tmp_path: Path) -> None:
    build_run(changed(tiny_recipe, "data.device_crops=true", "prototype_precision=tf32"), tmp_path / "run", cpu=True)
    start = tmp_path / "run" / "checkpoints" / "step-000002"
    found = restore_choices(changed(tiny_recipe, "device_crops=null", "prototype_precision=null", *OPEN), start)
    assert (found.data.device_crops, found.optimization.prototype_precision) == (True, "tf32")
    assert (found.run.compile, found.run.cuda_graphs) == (False, False)
    assert restore_choices(tiny_recipe, start) == tiny_recipe


@pytest.mark.parametrize(
    ("options", "values", "words"),
    [
        ((), {"device": torch.device("cuda")}, None),
        ((), {}, "CUDA device"),
        ((), {"device": torch.device("cuda"), "num_processes": 2}, "several processes"),
        (("gradient_accumulation_steps=2",), {"device": torch.device("cuda")}, "several batches"),
        ((), {"device": torch.device("cuda"), "scaler": object()}, "fp16"),
        (("gradient_checkpointing=true",), {"device": torch.device("cuda")}, "checkpointing"),
    ],
)
def test_capture__is_left_out_where_it_cannot_be_right(
    run: Run, options: tuple[str, ...], values: dict[str, Any], words: str | None
) -> None:
    accelerator = SimpleNamespace(**{"device": torch.device("cpu"), "num_processes": 1, "scaler": None, **values})
    stepper: Any = SimpleNamespace(accelerator=accelerator, model=run.model)
    found = capture_obstacle(changed(run.recipe, *options), stepper)
    assert found is None if words is None else words in str(found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token_objective": "sop", "teacher_momentum": 0.9}, "SOP"),
        ({"baseline_loss": "lejepa"}, "LeJEPA"),
        ({"baseline_loss": "dino", "teacher_momentum": 0.9}, None),
    ],
)
def test_capture__is_left_out_where_a_step_draws(options: dict[str, Any], words: str | None) -> None:
    accelerator = SimpleNamespace(device=torch.device("cuda"), num_processes=1, scaler=None)
    stepper: Any = SimpleNamespace(accelerator=accelerator, model=SimpleNamespace(config=StellarConfig(**options)))
    found = capture_obstacle(recipe_for(Path("images")), stepper)
    assert found is None if words is None else words in str(found)


@pytest.mark.parametrize("overrides", [(), SOP], ids=["prototypes", "sop"])
def test_measuring__leaves_model_and_random_numbers_as_they_were(
    image_folder: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    run = build_run(recipe_for(image_folder, *overrides), tmp_path / "run", cpu=True)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    state = torch.get_rng_state()
    assert time_step(run.stepper, noise_batch(run.recipe, run.stepper))[0] > 0
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(run.model.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in run.model.parameters())


@pytest.mark.parametrize("override", ["mask_ratio=null", "num_local_views=0", "mask_ratio=0.5"])
def test_noise__is_a_batch_as_the_workers_make_it(image_folder: Path, tmp_path: Path, override: str) -> None:
    run = build_run(recipe_for(image_folder, override), tmp_path / "run", cpu=True)
    real = next(run.batches.steps())[0]
    made = noise_batch(run.recipe, run.stepper)
    assert made.keys() == real.keys()
    tensors = {name: (value.shape, value.dtype) for name, value in real.items() if isinstance(value, torch.Tensor)}
    assert {name: (made[name].shape, made[name].dtype) for name in tensors} == tensors


def test_channels_last__changes_no_value(build_pretraining_model: Any, views: dict[str, torch.Tensor]) -> None:
    model = build_pretraining_model(reconstruction_head="vq")
    before, loss = {name: value.clone() for name, value in model.state_dict().items()}, model(**views).loss
    set_channels_last(model, True)
    assert model.tokenizer_encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(**views).loss, loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert len(compiled_parts(model)) > len(list(model.stellar.encoder.blocks) + list(model.stellar.decoder.blocks))


def test_augmentation__compiles_as_one_graph_with_the_same_views(run: Run) -> None:
    batch = noise_batch(run.recipe, run.stepper)
    moved = move_views(batch, torch.device("cpu"))
    compiled = torch.compile(augmented_inputs, backend="eager", fullgraph=True, dynamic=False)
    expected = augmented_inputs(moved, run.recipe.augmentation)
    torch.testing.assert_close(compiled(moved, run.recipe.augmentation, torch.float32), expected, rtol=0, atol=1e-6)
