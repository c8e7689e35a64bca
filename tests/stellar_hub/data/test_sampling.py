from itertools import chain, islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.data.sample_seed import epoch_permutation
from stellar_hub.data.sampling import ResumableBatchSampler, SampleKey


def stream(num_samples: int, seed: int, length: int) -> list[SampleKey]:
    """The first keys of the stream, by its definition."""
    epochs = range(length // num_samples + 1)
    keys = chain.from_iterable(
        [(epoch, index) for index in epoch_permutation(seed, epoch, num_samples).tolist()] for epoch in epochs
    )
    return list(islice(keys, length))


@given(
    num_samples=st.integers(1, 30),
    share=st.integers(1, 7),
    num_processes=st.integers(1, 4),
    seed=st.integers(0, 5),
    num_batches=st.integers(0, 9),
    skipped=st.integers(0, 9),
)
def test_sampler__processes_share_the_stream_from_any_batch_on(
    num_samples: int, share: int, num_processes: int, seed: int, num_batches: int, skipped: int
) -> None:
    batch_size = share * num_processes
    start_batch = min(skipped, num_batches)
    samplers = [
        ResumableBatchSampler(num_samples, batch_size, seed, num_batches, start_batch, process, num_processes)
        for process in range(num_processes)
    ]
    assert {len(sampler) for sampler in samplers} == {num_batches - start_batch}
    batches = [list(chain.from_iterable(parts)) for parts in zip(*samplers, strict=True)]
    expected = stream(num_samples, seed, num_batches * batch_size)
    assert [len(batch) for batch in batches] == [batch_size] * (num_batches - start_batch)
    assert list(chain.from_iterable(batches)) == expected[start_batch * batch_size :]


def test_sampler__gives_each_picture_once_per_epoch() -> None:
    keys = list(chain.from_iterable(ResumableBatchSampler(10, 4, seed=0, num_batches=5)))
    assert sorted(keys) == [(epoch, index) for epoch in range(2) for index in range(10)]


def test_sampler__a_folder_smaller_than_a_batch_repeats() -> None:
    assert list(ResumableBatchSampler(1, 3, seed=0, num_batches=2)) == [
        [(0, 0), (1, 0), (2, 0)],
        [(3, 0), (4, 0), (5, 0)],
    ]


def test_sampler__batches_of_one() -> None:
    keys = [key for (key,) in ResumableBatchSampler(4, 1, seed=0, num_batches=8)]
    assert sorted(keys) == [(epoch, index) for epoch in range(2) for index in range(4)]


def test_sampler__can_be_gone_through_again() -> None:
    sampler = ResumableBatchSampler(7, 3, seed=0, num_batches=6)
    assert list(sampler) == list(sampler)


def test_sampler__starts_anywhere_without_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []

    def recorded(seed: int, epoch: int, num_samples: int) -> Any:
        epochs.append(epoch)
        return epoch_permutation(seed, epoch, num_samples)

    monkeypatch.setattr("stellar_hub.data.sampling.epoch_permutation", recorded)
    sampler = ResumableBatchSampler(100, 10, seed=0, num_batches=10**9, start_batch=10**8)
    assert len(list(islice(sampler, 20))) == 20
    assert epochs == [10**7, 10**7 + 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_processes": 0}, "num_processes must be at least 1, got 0"),
        ({"start_batch": 6}, r"start_batch must be within \[0, num_batches = 5\], got 6"),
        ({"start_batch": -1}, "start_batch must be within"),
        ({"process_index": 1}, r"process_index must be within \[0, 0\], got 1"),
        ({"num_processes": 3}, "batch_size is 4 over all processes, which 3 .*choose a multiple of 3"),
    ],
)
def test_sampler__refuses_numbers_out_of_range(changes: dict[str, int], message: str) -> None:
    arguments = {"num_samples": 10, "batch_size": 4, "seed": 0, "num_batches": 5} | changes
    with pytest.raises(ValueError, match=message):
        ResumableBatchSampler(**arguments)
