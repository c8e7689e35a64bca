"""Random numbers that depend on sample or step alone: any number of workers, processes and restarts draws the same."""

import hashlib

import torch
from torch import Tensor


def sample_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """Returns the CPU generator for all draws of one sample.

    Args:
        seed: Seed of the run.
        epoch: Number of complete passes over the data before this one.
        index: Index of the image in its source.
    """
    return _generator("sample", seed, epoch, index)


def replacement_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """Returns the CPU generator that chooses the replacement of a sample that cannot be read.

    It is independent of the sample's other draws. The arguments are those of `sample_generator`.
    """
    return _generator("replacement", seed, epoch, index)


def epoch_permutation(seed: int, epoch: int, num_samples: int) -> Tensor:
    """Returns the order of an epoch: a permutation of `range(num_samples)`, `(num_samples,)` int64.

    Raises:
        ValueError: if `num_samples` is below 1.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    return torch.randperm(num_samples, generator=_generator("epoch", seed, epoch))


def block_generator(seed: int, epoch: int, reader: int, position: int, offset: int) -> torch.Generator:
    """Returns the CPU generator that shuffles a block of a stream.

    Args:
        seed: Seed of the run.
        epoch: Epoch of the reader.
        reader: Number of the reader.
        position: Position of the block's first shard among the reader's shards of this epoch.
        offset: Number of images of that shard before the block.
    """
    return _generator("block", seed, epoch, reader, position, offset)


def step_generator(seed: int, step: int, batch: int) -> torch.Generator:
    """Returns the CPU generator for what an objective draws for one batch, the same in all processes.

    Args:
        seed: Seed of the run.
        step: Number of steps before this one.
        batch: Number of the step's batches before this one.
    """
    return _generator("step", seed, step, batch)


def _generator(purpose: str, *numbers: int) -> torch.Generator:
    # Hashed, because neighbouring seeds (0, 1, 2, ...) start generators in related states, and sums would collide.
    text = " ".join([purpose, *(str(int(number)) for number in numbers)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
