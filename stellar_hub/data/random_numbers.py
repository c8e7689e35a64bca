"""Random numbers that depend on the sample only: the same for any number of workers, processes or restarts."""

import hashlib

import torch
from torch import Tensor


def sample_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """The CPU generator for all draws of one sample.

    Args:
        seed: The run's seed.
        epoch: How often the data have been gone through before.
        index: Which image.
    """
    return _generator("sample", seed, epoch, index)


def replacement_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """The CPU generator that chooses what stands in for a sample that cannot be read; apart from its other draws."""
    return _generator("replacement", seed, epoch, index)


def epoch_permutation(seed: int, epoch: int, num_samples: int) -> Tensor:
    """The order of an epoch: a permutation of `range(num_samples)`, `(num_samples,)` int64.

    Raises:
        ValueError: if `num_samples` is below 1.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    return torch.randperm(num_samples, generator=_generator("epoch", seed, epoch))


def block_generator(seed: int, epoch: int, reader: int, place: int, offset: int) -> torch.Generator:
    """The CPU generator that shuffles a block of a stream, told by where it begins."""
    return _generator("block", seed, epoch, reader, place, offset)


def _generator(purpose: str, *numbers: int) -> torch.Generator:
    # Hashed, as neighbouring seeds (0, 1, 2, ...) start generators in related states, and sums of them would collide.
    text = " ".join([purpose, *(str(int(number)) for number in numbers)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
