"""One optimizer step: teacher, forward and backward of each batch, clipping, update."""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from stellar_hub.data.views.crops import cut_views
from stellar_hub.data.views.photometric import PhotometricSettings, apply_photometric
from stellar_hub.training.model.modeling_pretraining import StellarForPreTraining
from stellar_hub.training.model.output import StellarPreTrainingOutput
from stellar_hub.training.model.teacher import cosine_momentum
from stellar_hub.training.sharding import is_sharded, whole_tensor


def to_device(
    batch: dict[str, Any],
    device: torch.device,
    photometric: PhotometricSettings,
    dtype: torch.dtype = torch.float32,
    view_sizes: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """Move views as uint8, or images to cut them of, and change their colours there.

    Args:
        batch: As `collate_samples` gives it.
        device: Where to.
        photometric: The settings its parameters were drawn with.
        dtype: Of the views.
        view_sizes: Sides of global and of local views; needed where the device cuts them.

    Returns:
        Arguments of `StellarForPreTraining`; `pixel_values` is global view 0 before photometric augmentation.
    """
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items() if isinstance(value, Tensor)}
    if "images" in batch:
        assert view_sizes is not None, "the stepper knows them"
        moved |= cut_batch([image.to(device, non_blocking=True) for image in batch["images"]], moved, view_sizes)
    global_views = moved["global_views"].to(dtype) / 255  # (B, V, 3, H, W)
    parameters = moved["photometric"].to(dtype)  # (B, V + V', 6), global views first
    num_global = global_views.shape[1]
    inputs = {"pixel_values": global_views[:, 0], "global_views": global_views}
    if photometric.global_views:
        inputs["global_views"] = change(global_views, parameters[:, :num_global], photometric)
    if "local_views" in moved:
        local_views = moved["local_views"].to(dtype) / 255
        inputs["local_views"] = change(local_views, parameters[:, num_global:], photometric)
    if "kept_patches" in moved:
        inputs["kept_patches"] = moved["kept_patches"]
    return inputs


def cut_batch(images: list[Tensor], boxes: dict[str, Tensor], view_sizes: tuple[int, int]) -> dict[str, Tensor]:
    """The views of all images, `(B, V, 3, H, W)` uint8 each, by their names."""
    return {
        f"{kind}_views": torch.stack(
            [cut_views(image, of_one, size) for image, of_one in zip(images, boxes[f"{kind}_boxes"], strict=True)]
        )
        for kind, size in zip(("global", "local"), view_sizes, strict=True)
        if f"{kind}_boxes" in boxes
    }


def change(views: Tensor, parameters: Tensor, photometric: PhotometricSettings) -> Tensor:
    """Photometric augmentation of `(B, V, 3, H, W)` by `(B, V, 6)`."""
    changed = apply_photometric(views.flatten(0, 1), parameters.flatten(0, 1), photometric.blur_kernel_size)
    return changed.unflatten(0, views.shape[:2])


TERMS = (
    "loss",
    "reconstruction_loss",
    "koleo_loss",
    "clustering_loss",
    "cls_clustering_loss",
    "mask_loss",
    "cls_loss",
)


@dataclass
class StepResult:
    """What a step leaves, still on the device.

    Attributes:
        losses: Mean of each term over the step's batches, detached scalars of this process.
        gradient_norm: Of all gradients, before clipping.
        output: The last batch's, for the meters.
        paths: The images of this process.
    """

    losses: dict[str, Tensor]
    gradient_norm: Tensor
    output: StellarPreTrainingOutput
    paths: list[str]


class Stepper:
    """Does steps.

    Args:
        accelerator: accelerate.
        model: The model as `accelerator.prepare` returned it.
        bare: The model itself.
        optimizer: As `accelerator.prepare` returned it.
        schedule: Of the learning rate.
        photometric: What the views' parameters were drawn with.
        clip_norm: Largest norm of the gradient, or None.
        num_steps: Of the whole run.
        dtype: Of the views.
        view_sizes: Sides of global and of local views, for views that the device cuts.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        bare: StellarForPreTraining,
        optimizer: Any,
        schedule: CosineLRScheduler,
        photometric: PhotometricSettings,
        clip_norm: float | None,
        num_steps: int,
        dtype: torch.dtype = torch.float32,
        view_sizes: tuple[int, int] | None = None,
    ):
        self.accelerator = accelerator
        self.model = model
        self.bare = bare
        self.optimizer = optimizer
        self.schedule = schedule
        self.photometric = photometric
        self.clip_norm = float("inf") if clip_norm is None else clip_norm
        self.num_steps = num_steps
        self.dtype = dtype
        self.view_sizes = view_sizes
        self.parameters = [parameter for parameter in bare.parameters() if parameter.requires_grad]

    def step(self, step: int, batches: list[dict[str, Any]]) -> StepResult:
        """Do step number `step`, counted from 0."""
        self.schedule.step_update(step)
        self.update_teacher(step)
        outputs = [self.accumulate(batch, batches) for batch in batches]
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(
            losses=mean_terms(outputs),
            gradient_norm=torch.as_tensor(whole_tensor(norm)).detach(),
            output=outputs[-1],
            paths=[path for batch in batches for path in batch["paths"]],
        )

    def update_teacher(self, step: int) -> None:
        """Move the teacher, if there is one, by the momentum of this step."""
        config = self.bare.config
        momentum = config.teacher_momentum
        if momentum is None:
            return
        if config.teacher_momentum_schedule == "cosine":
            momentum = cosine_momentum(momentum, step / self.num_steps)
        self.bare.update_teacher(momentum)

    def accumulate(self, batch: dict[str, Any], batches: list[dict[str, Any]]) -> StellarPreTrainingOutput:
        """Forward and backward of one batch; processes exchange gradients at the step's last.

        If the model is sharded, they do so for each batch: a process has no room for the gradients of all weights.
        """
        inputs = to_device(batch, self.accelerator.device, self.photometric, self.dtype, self.view_sizes)
        exchange = batch is batches[-1] or is_sharded(self.bare)
        with contextlib.nullcontext() if exchange else self.accelerator.no_sync(self.model):
            output = self.model(**inputs)
            self.accelerator.backward(output.loss / len(batches))
        return output


def mean_terms(outputs: list[StellarPreTrainingOutput]) -> dict[str, Tensor]:
    """The mean of each term that is switched on."""
    names = [name for name in TERMS if getattr(outputs[0], name) is not None]
    return {name: torch.stack([getattr(output, name).detach() for output in outputs]).mean() for name in names}
