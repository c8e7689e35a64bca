"""The settings of a run that trains a classifier: checked, kept in its folder, and compared when it is resumed."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from timm.optim import list_optimizers

from stellar_hub.data.strict_settings import check_probability, check_value, fit_fields
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.training.recipes.differences import differences
from stellar_hub.training.recipes.sections import MAX_BATCH_SIZE, MAX_COUNT, MAX_SEED, MAX_SIDE

LEARNING_RATES = {"full": 1e-4, "frozen": 1e-2, "lora": 1e-3}
# They do not change the result, or only its rounding, so that a resumed run may have others.
MAY_CHANGE = (
    *("num_workers", "log_every", "save_every", "keep_checkpoints", "gradient_checkpointing", "license", "trackers"),
)


@strict
@dataclass(frozen=True)
class FinetuneSettings:
    """The settings of a run that trains a classifier.

    Attributes:
        model: Name, folder, Hub repository or file of the model to start from. A classifier with the same classes
            goes on with its head; others get a new one.
        mode: What is trained: "full" the encoder and the head, "frozen" the head, "lora" the head and low-rank updates
            of the attention, which are merged into the weights of the saved model.
        pooling: What the head reads: "mean" of the sparse tokens, "cls", or "both".
        epochs: Number of passes over the training images.
        batch_size: Number of images per step, over all processes.
        optimizer: Name of an optimizer of timm.
        learning_rate: Highest learning rate; None takes the one of the mode in `LEARNING_RATES`.
        weight_decay: Weight decay.
        layer_decay: Factor of the learning rate from each block to the block below, in (0, 1]; "full" alone.
        warmup_fraction: Share of all steps over which the learning rate rises from 0.
        final_learning_rate: Learning rate at the end; the rate falls to it as a cosine.
        clip_norm: Largest norm of the gradient of all weights; None does not clip.
        label_smoothing: Share of each label that is spread over all classes, in [0, 1).
        dropout: Probability with which the head drops a number that it reads, in [0, 1).
        lora_rank: Rank of the low-rank updates.
        image_size: Side of the images in pixels; None takes that of the model's image processor.
        min_crop_area: Smallest share of an image's area that a training crop shows, in (0, 1]; 1 takes whole images.
        flip_probability: Probability that a training crop is mirrored left to right.
        holdout: Share of each class that is held out to measure on where no test images are given.
        keep: Which weights the saved model has: those with the "best" accuracy, or the "last" ones.
        precision: "fp32", "bf16", "fp16" or "auto", which is bf16 on GPUs that support it and else fp32.
        gradient_checkpointing: Whether blocks are computed again in the backward pass, for less memory and more time.
        seed: Seed of all random numbers.
        num_workers: Number of processes that read images, per training process; None takes the share of the cores.
        log_every: Number of steps between two lines of the journal.
        save_every: Number of steps between two checkpoints; None saves after each epoch.
        keep_checkpoints: Number of checkpoints to keep, the newest ones.
        license: License of the weights for the card, as the Hub spells it; None leaves it open.
        trackers: Trackers that get the journal's numbers too: "tensorboard", "wandb".

    Raises:
        ValueError: if a value has the wrong type or is out of range; the message begins with its name.
    """

    model: str
    mode: Literal["full", "frozen", "lora"] = "full"
    pooling: Literal["mean", "cls", "both"] = "mean"
    epochs: int = 20
    batch_size: int = 64
    optimizer: str = "adamw"
    learning_rate: float | None = None
    weight_decay: float = 0.05
    layer_decay: float | None = None
    warmup_fraction: float = 0.1
    final_learning_rate: float = 0.0
    clip_norm: float | None = 1.0
    label_smoothing: float = 0.0
    dropout: float = 0.0
    lora_rank: int = 8
    image_size: int | None = None
    min_crop_area: float = 0.35
    flip_probability: float = 0.5
    holdout: float = 0.2
    keep: Literal["best", "last"] = "best"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    seed: int = 0
    num_workers: int | None = None
    log_every: int = 10
    save_every: int | None = None
    keep_checkpoints: int = 2
    license: str | None = None
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()

    def __post_init__(self) -> None:
        fit_fields(self)
        for name, most in (("batch_size", MAX_BATCH_SIZE), ("lora_rank", 2**13), ("image_size", MAX_SIDE)):
            value = getattr(self, name)
            check_value(value is None or 1 <= value <= most, name, value, f"at least 1 and at most {most}")
        for name in ("epochs", "log_every", "save_every", "keep_checkpoints"):
            value = getattr(self, name)
            check_value(value is None or value >= 1, name, value, "at least 1")
        workers = self.num_workers
        check_value(workers is None or 0 <= workers <= MAX_COUNT, "num_workers", workers, f"from 0 to {MAX_COUNT}")
        check_value(0 <= self.seed <= MAX_SEED, "seed", self.seed, f"within [0, {MAX_SEED}]")
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            check_value(value is None or value > 0, name, value, "above 0")
        for name in ("weight_decay", "final_learning_rate"):
            check_value(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("label_smoothing", "dropout", "warmup_fraction"):
            check_value(0 <= getattr(self, name) < 1, name, getattr(self, name), "within [0, 1)")
        check_value(0 < self.min_crop_area <= 1, "min_crop_area", self.min_crop_area, "within (0, 1]")
        check_value(0 < self.holdout < 1, "holdout", self.holdout, "within (0, 1)")
        check_probability("flip_probability", self.flip_probability)
        self._check_optimizer()

    def _check_optimizer(self) -> None:
        decay = self.layer_decay
        check_value(decay is None or 0 < decay <= 1, "layer_decay", decay, "within (0, 1]")
        if decay is not None and self.mode != "full":
            raise ValueError(f"layer_decay needs the mode full, got {self.mode}")
        if self.optimizer not in list_optimizers():
            raise ValueError(f"optimizer must be one of timm's, such as adamw, sgd or lamb, got {self.optimizer!r}")

    @property
    def highest_rate(self) -> float:
        """The highest learning rate, as given or by the mode."""
        return LEARNING_RATES[self.mode] if self.learning_rate is None else self.learning_rate

    def as_dict(self) -> dict[str, Any]:
        """Returns all values as JSON can hold them."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    def write(self, path: Path) -> None:
        """Writes the settings as JSON, readable for the user alone, as a name may be an address."""
        write_atomically(path, (json.dumps(self.as_dict(), indent=2) + "\n").encode(), private=True)


def refuse_other_run(checkpoint: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises ValueError, with a line for each difference, unless a run may go on from a checkpoint.

    Args:
        checkpoint: Folder of the checkpoint.
        before: "settings" and "data" of the run that wrote it.
        now: The same of the run that goes on.
    """
    if not isinstance(before.get("settings"), dict) or not isinstance(before.get("data"), dict):
        raise ValueError(f"{checkpoint} is not of a run that trains a classifier: stellar-hub train resumes it")
    lines = []
    for part in ("settings", "data"):
        old, new = before[part], now[part]
        kept = {name: value for name, value in old.items() if name not in MAY_CHANGE}
        lines += differences(kept, {name: value for name, value in new.items() if name not in MAY_CHANGE})
    if lines:
        raise ValueError(
            f"{checkpoint} cannot be resumed, because the run began otherwise:\n  "
            + "\n  ".join(lines)
            + "\nRepeat the options of the run, or begin a new one with another --output"
        )
