"""Peak signal-to-noise ratio."""

import math

from torch import Tensor


def psnr(images: Tensor, references: Tensor) -> float:
    """Peak signal-to-noise ratio of values in [0, 1]: `-10 log10` of the mean squared error over all elements.

    Args:
        images: Any shape, in [0, 1].
        references: The same shape, in [0, 1].

    Returns:
        Decibels; infinite where the two are equal.

    Raises:
        ValueError: if the shapes differ.
    """
    if images.shape != references.shape:
        raise ValueError(f"shapes differ: {tuple(images.shape)} and {tuple(references.shape)}")
    error = (images.float() - references.float()).square().mean().item()
    return -10 * math.log10(error) if error else math.inf
