"""One optimizer step, and what it is made of: inputs on the device, optimizer, schedule, teacher, gradients."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2, get_optimizer_info
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from stellar_hub.data.random_numbers import step_generator
from stellar_hub.data.views.crops import cut_views
from stellar_hub.data.views.photometric import PhotometricSettings, apply_photometric
from stellar_hub.training.captured_step import CapturedStep
from stellar_hub.training.model import StellarForPreTraining, StellarPreTrainingOutput
from stellar_hub.training.model.targets import cosine_momentum
from stellar_hub.training.recipes.sections import OptimizationRecipe
from stellar_hub.training.sharding import full_tensor, is_sharded

FUSED_OPTIMIZERS = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)  # that of Adagrad is for CPUs alone
LOSSES = tuple(field.name for field in dataclasses.fields(StellarPreTrainingOutput) if field.name.endswith("loss"))


def build_optimizer(model: StellarForPreTraining, recipe: OptimizationRecipe, fused: bool = False) -> Optimizer:
    """Builds timm's optimizer over all trainable parameters.

    Norms, biases, tokens and position embeddings get no weight decay. With `layer_decay` each encoder block has a lower
    learning rate than the one above it. The recipe's betas go to optimizers that have two.

    Args:
        model: The model.
        recipe: The optimizer and its numbers.
        fused: Whether one kernel updates many weights, for the optimizers in `FUSED_OPTIMIZERS`.
    """
    info = get_optimizer_info(recipe.optimizer)
    options: dict[str, Any] = {"betas": tuple(recipe.betas)} if info.has_betas and info.num_betas == 2 else {}
    if fused and info.opt_class in FUSED_OPTIMIZERS:
        options["fused"] = True
    return create_optimizer_v2(
        model,
        opt=recipe.optimizer,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        **options,
    )


def count_steps(recipe: OptimizationRecipe, num_images: int | None) -> int:
    """Returns the number of optimizer steps of the whole run; `num_images` is None for a stream.

    Raises:
        ValueError: if the recipe gives epochs, and the number of images is unknown.
    """
    if recipe.steps is not None:
        return recipe.steps
    if num_images is None:
        raise ValueError(
            f"optimization.epochs is {recipe.epochs}, but the number of images of a stream is unknown: set "
            "optimization.steps, and optimization.epochs=null"
        )
    assert recipe.epochs is not None, "a recipe has either"
    return math.ceil(recipe.epochs * num_images / (recipe.batch_size * recipe.gradient_accumulation_steps))


class ScheduleSettings(Protocol):
    """What decides the schedule: an `OptimizationRecipe`, or the settings of a run that trains a classifier."""

    @property
    def warmup_fraction(self) -> float:
        """Share of all steps over which the learning rate rises."""

    @property
    def final_learning_rate(self) -> float:
        """Learning rate at the end."""


def build_schedule(optimizer: Optimizer, recipe: ScheduleSettings, num_steps: int) -> CosineLRScheduler:
    """Builds timm's schedule: a linear warm-up from 0, then a cosine to `final_learning_rate`.

    `step_update(step)` sets the learning rate, and depends on nothing but the step. With a warm-up, step 0 has a
    learning rate of 0. The schedule reaches the final one at step `num_steps`, one past the last.
    """
    warmup = min(round(recipe.warmup_fraction * num_steps), num_steps - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=num_steps - warmup,
        lr_min=recipe.final_learning_rate,
        warmup_t=warmup,
        warmup_prefix=True,
        t_in_epochs=False,
        cycle_decay=0.5,  # of a second cycle, which there is not; timm warns of cosines of one step without it
    )


def model_inputs(
    batch: dict[str, Any],
    device: torch.device,
    photometric: PhotometricSettings,
    dtype: torch.dtype = torch.float32,
    view_sizes: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """Moves a batch to the device as uint8, cuts the views there if the workers did not, and changes their colours.

    Args:
        batch: A batch from `collate_samples`.
        device: Device of the model.
        photometric: Settings that the batch's photometric parameters were drawn with.
        dtype: Dtype of the views.
        view_sizes: Sides of global and of local views in pixels; only needed where the device cuts the views.

    Returns:
        The arguments of `StellarForPreTraining`; `pixel_values` is global view 0 before photometric augmentation.
    """
    return augmented_inputs(move_views(batch, device, view_sizes), photometric, dtype)


def move_views(
    batch: dict[str, Any], device: torch.device, view_sizes: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """Moves a batch to the device, and cuts the views there if the workers did not; see `model_inputs`.

    Returns:
        The tensors of a step, whose shapes do not depend on the images: views as uint8, photometric parameters, kept
        patches.
    """
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items() if isinstance(value, Tensor)}
    if "images" in batch:
        assert view_sizes is not None, "the stepper knows them"
        images = [image.to(device, non_blocking=True) for image in batch["images"]]
        moved |= cut_batch_views(images, moved, view_sizes)
    return {name: value for name, value in moved.items() if not name.endswith("_boxes")}


def augmented_inputs(
    moved: Mapping[str, Tensor], photometric: PhotometricSettings, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Returns the arguments of the model for tensors from `move_views`; see `model_inputs`."""
    global_views = moved["global_views"].to(dtype) / 255  # (B, V, 3, H, W)
    parameters = moved["photometric"].to(dtype)  # (B, V + V', 6), global views first
    num_global = global_views.shape[1]
    inputs = {"pixel_values": global_views[:, 0], "global_views": global_views}
    if photometric.global_views:
        inputs["global_views"] = augment_views(global_views, parameters[:, :num_global], photometric)
    if "local_views" in moved:
        local_views = moved["local_views"].to(dtype) / 255
        inputs["local_views"] = augment_views(local_views, parameters[:, num_global:], photometric)
    return inputs | {name: moved[name] for name in ("kept_patches", "num_tokens") if name in moved}


def cut_batch_views(images: list[Tensor], boxes: dict[str, Tensor], view_sizes: tuple[int, int]) -> dict[str, Tensor]:
    """Cuts the views of all images, and returns them by their names, `(B, V, 3, H, W)` uint8 each."""
    return {
        f"{kind}_views": torch.stack(
            [cut_views(image, own, size) for image, own in zip(images, boxes[f"{kind}_boxes"], strict=True)]
        )
        for kind, size in zip(("global", "local"), view_sizes, strict=True)
        if f"{kind}_boxes" in boxes
    }


def augment_views(views: Tensor, parameters: Tensor, photometric: PhotometricSettings) -> Tensor:
    """Applies photometric augmentation to views `(B, V, 3, H, W)`, with parameters `(B, V, 6)`."""
    augmented = apply_photometric(views.flatten(0, 1), parameters.flatten(0, 1), photometric.blur_kernel_size)
    return augmented.unflatten(0, views.shape[:2])


@dataclass
class StepResult:
    """The result of a step, still on the device.

    Attributes:
        losses: Mean of each loss over the step's batches, detached scalars of this process.
        gradient_norm: Norm of all gradients, before clipping.
        output: Output of the last batch, for the meters.
        paths: Paths of the images that this process used.
    """

    losses: dict[str, Tensor]
    gradient_norm: Tensor
    output: StellarPreTrainingOutput
    paths: list[str]


class Stepper:
    """The model, the optimizer and everything else that a step changes.

    Args:
        accelerator: The accelerator.
        wrapped: The model as `accelerator.prepare` returned it.
        model: The same model, not wrapped.
        optimizer: The optimizer as `accelerator.prepare` returned it.
        schedule: Schedule of the learning rate.
        photometric: Settings that the photometric parameters of the views were drawn with.
        clip_norm: Largest norm of the gradient, or None for no clipping.
        num_steps: Number of steps of the whole run.
        dtype: Dtype of the views.
        view_sizes: Sides of global and of local views in pixels; only needed where the device cuts the views.
        seed: Seed of the run, for what the objective draws.

    Attributes:
        captured: Forward and backward of batches of the usual shape as one graph; None computes all batches one
            operation after the other.
        augment: Makes the model's arguments of tensors from `move_views`: `augmented_inputs`, or a compiled one.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        wrapped: nn.Module,
        model: StellarForPreTraining,
        optimizer: Any,
        schedule: CosineLRScheduler,
        photometric: PhotometricSettings,
        clip_norm: float | None,
        num_steps: int,
        dtype: torch.dtype = torch.float32,
        view_sizes: tuple[int, int] | None = None,
        seed: int = 0,
    ):
        self.accelerator = accelerator
        self.wrapped = wrapped
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.photometric = photometric
        self.clip_norm = float("inf") if clip_norm is None else clip_norm
        self.num_steps = num_steps
        self.dtype = dtype
        self.view_sizes = view_sizes
        self.seed = seed
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.captured: CapturedStep | None = None
        self.augment: Callable[..., dict[str, Tensor]] = augmented_inputs

    def step(self, step: int, batches: list[dict[str, Any]]) -> StepResult:
        """Does one step, and returns its result; `step` counts from 0."""
        self.schedule.step_update(step)
        self.update_teacher(step)
        outputs = []
        for index, batch in enumerate(batches):
            generator = step_generator(self.seed, step, index)
            outputs.append(self.forward_backward(batch, batch is batches[-1], len(batches), generator))
            self.model.write_memories(outputs[-1])
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(
            losses=mean_losses(outputs),
            gradient_norm=torch.as_tensor(full_tensor(norm)).detach(),
            output=outputs[-1],
            paths=[path for batch in batches for path in batch["paths"]],
        )

    def update_teacher(self, step: int) -> None:
        """Moves the teacher, if there is one, by the momentum of this step."""
        config = self.model.config
        momentum = config.teacher_momentum
        if momentum is None:
            return
        if config.teacher_momentum_schedule == "cosine":
            momentum = cosine_momentum(momentum, step / self.num_steps)
        self.model.update_teacher(momentum)

    def forward_backward(
        self, batch: dict[str, Any], is_last: bool, num_batches: int = 1, generator: torch.Generator | None = None
    ) -> StellarPreTrainingOutput:
        """Does forward and backward of one batch of a step, and returns the output.

        Processes exchange gradients at the last batch of the step. If the model is sharded, they do so for each batch:
        a process has no room for the gradients of all weights.
        """
        moved = move_views(batch, self.accelerator.device, self.view_sizes)
        if self.captured is not None and self.captured.fits(moved):
            return self.captured(moved)
        exchange = is_last or is_sharded(self.model)
        with contextlib.nullcontext() if exchange else self.accelerator.no_sync(self.wrapped):
            return self.compute(moved, num_batches, generator)

    def compute(
        self, moved: Mapping[str, Tensor], num_batches: int = 1, generator: torch.Generator | None = None
    ) -> StellarPreTrainingOutput:
        """Does forward and backward of tensors from `move_views`, and returns the output."""
        if generator is None:  # a step that is only timed takes nothing from the run's own random numbers
            generator = step_generator(self.seed, 0, 0)
        inputs = self.augment(moved, self.photometric, self.dtype)
        # Shards are gathered as bfloat16 on GPUs, and copies of them would stay when their block is done.
        with contextlib.nullcontext() if is_sharded(self.model) else weights_cast_once():
            output: StellarPreTrainingOutput = self.wrapped(**inputs, generator=generator)
            assert output.loss is not None
            self.accelerator.backward(output.loss / num_batches)
        return output


@contextlib.contextmanager
def weights_cast_once() -> Iterator[None]:
    """Keeps autocast's copies of weights until the end of the backward pass, for blocks that are computed again there.

    Each use of autocast drops the copies when the outermost one ends, and this counts as an outer one. It does not
    switch autocast on: the backward pass is computed as before.
    """
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()


def mean_losses(outputs: list[StellarPreTrainingOutput]) -> dict[str, Tensor]:
    """Returns the mean of each loss that is switched on."""
    names = [name for name in LOSSES if getattr(outputs[0], name) is not None]
    return {name: torch.stack([getattr(output, name).detach() for output in outputs]).mean() for name in names}
