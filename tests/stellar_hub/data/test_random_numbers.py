import pytest
import torch

from stellar_hub.data.random_numbers import epoch_permutation, replacement_generator, sample_generator


def test_sample_generator__same_numbers_give_the_same_draws() -> None:
    first, second = (torch.rand(5, generator=sample_generator(3, 1, 4)) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_sample_generator__every_number_matters_and_its_place() -> None:
    keys = [(seed, epoch, index) for seed in range(5) for epoch in range(5) for index in range(12)]
    draws = {tuple(torch.rand(2, generator=sample_generator(*key)).tolist()) for key in keys}
    assert len(draws) == len(keys)
    assert sample_generator(1, 1, 11).initial_seed() != sample_generator(1, 11, 1).initial_seed()


def test_sample_generator__first_draws_are_uniform_over_samples() -> None:
    draws = torch.stack([torch.rand((), generator=sample_generator(0, 0, index)) for index in range(4000)])
    counts = torch.histc(draws, bins=10, min=0, max=1)
    assert counts.min() > 320  # 400 expected, standard deviation 19
    assert counts.max() < 480


@pytest.mark.parametrize("seed", [-1, 0, 2**70])
def test_sample_generator__takes_any_whole_number(seed: int) -> None:
    assert 0 <= sample_generator(seed, 0, 0).initial_seed() < 2**63


def test_sample_generator__leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=sample_generator(0, 0, 0))
    epoch_permutation(0, 0, 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_replacement_generator__is_apart_from_the_samples() -> None:
    assert replacement_generator(0, 0, 0).initial_seed() != sample_generator(0, 0, 0).initial_seed()


@pytest.mark.parametrize("num_samples", [1, 2, 1000])
def test_epoch_permutation__holds_every_sample_once(num_samples: int) -> None:
    assert sorted(epoch_permutation(0, 0, num_samples).tolist()) == list(range(num_samples))


def test_epoch_permutation__differs_between_epochs_and_seeds_only() -> None:
    orders = {tuple(epoch_permutation(*key, 50).tolist()) for key in ((0, 0), (0, 1), (1, 0), (0, 0))}
    assert len(orders) == 3


def test_epoch_permutation__refuses_an_empty_epoch() -> None:
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        epoch_permutation(0, 0, 0)
