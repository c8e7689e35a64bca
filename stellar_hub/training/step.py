"""One optimizer step: teacher, forward and backward of each batch, clipping, update."""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from stellar_hub.data.photometric import PhotometricSettings
from stellar_hub.training.device_batch import to_device
from stellar_hub.training.gathering import whole_tensor
from stellar_hub.training.modeling_pretraining import StellarForPreTraining
from stellar_hub.training.output import StellarPreTrainingOutput
from stellar_hub.training.sharding import is_sharded
from stellar_hub.training.teacher import cosine_momentum

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
        paths: The pictures of this process.
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
