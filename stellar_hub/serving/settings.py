"""The settings of a server, checked when they are made."""

import math
import os
from dataclasses import dataclass

from stellar_hub.features.encoding import check_precision
from stellar_hub.features.preparation import check_at_least
from stellar_hub.modeling.limits import check_limit

MAX_SECONDS = 86_400


def default_num_workers() -> int:
    """Returns the number of threads that read images unless another is given: one for each core, at most 4."""
    return min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class ServingSettings:
    """How a server batches, and how long it waits.

    Attributes:
        max_batch_size: Largest number of images of the model's own size that go through the model at once. Larger
            images count by their patches.
        max_wait_ms: Milliseconds that the first image of a batch waits for others that are being read.
        max_queue: Largest number of images that are accepted and not yet answered; further requests are refused.
        timeout: Seconds that a request may take, from its first byte to its answer.
        shutdown_timeout: Seconds that requests get to finish when the server stops.
        num_workers: Number of threads that read images and write answers.
        precision: Precision of the computation: "float32" is the model's own dtype, "float16" and "bfloat16" use
            autocast.
        optimize: Whether to call `optimize_for_inference`, which measures what is faster. Results then agree up to
            rounding.

    Raises:
        ValueError: if a number is out of range, or there is no such precision.
    """

    max_batch_size: int = 32
    max_wait_ms: float = 10.0
    max_queue: int = 256
    timeout: float = 60.0
    shutdown_timeout: float = 30.0
    num_workers: int = 0
    precision: str = "float32"
    optimize: bool = False

    def __post_init__(self) -> None:
        check_at_least("max_batch_size", self.max_batch_size, 1)
        check_at_least("max_queue", self.max_queue, 1)
        if not self.num_workers:
            object.__setattr__(self, "num_workers", default_num_workers())
        check_at_least("num_workers", self.num_workers, 1)
        _check_range("max_wait_ms", self.max_wait_ms, 0, 10_000)
        _check_range("timeout", self.timeout, 0.01, MAX_SECONDS)
        _check_range("shutdown_timeout", self.shutdown_timeout, 0, MAX_SECONDS)
        check_precision(self.precision)

    def room(self, patches: int, own_patches: int) -> int:
        """Returns how many images of a size go through the model at once, at least 1.

        Args:
            patches: Number of patches of one of them.
            own_patches: Number of patches of an image of the model's own size.
        """
        return max(1, min(self.max_batch_size, self.max_batch_size * own_patches // max(patches, 1)))


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} must be from {low:g} to {high:g}, got {value:g}")


def check_patches(patches: int, subject: str) -> None:
    """Raises ValueError if an image has more patches than a server takes."""
    check_limit("request_patches", patches, subject)
