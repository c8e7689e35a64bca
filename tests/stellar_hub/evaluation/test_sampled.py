"""Some pictures of many."""

from pathlib import Path

from stellar_hub.evaluation.sampled import sample_pictures

SOURCE = [Path(str(number)) for number in range(50)]


def test_sample__is_of_the_seed_in_the_order_of_the_source() -> None:
    drawn = sample_pictures(SOURCE, 20, seed=1)
    assert len(drawn) == 20
    assert len(set(drawn.indices)) == 20
    assert list(drawn.indices) == sorted(drawn.indices)
    assert [drawn[index] for index in range(20)] == [SOURCE[index] for index in drawn.indices]
    assert sample_pictures(SOURCE, 20, seed=1).indices == drawn.indices
    assert sample_pictures(SOURCE, 20, seed=2).indices != drawn.indices
    assert list(sample_pictures(SOURCE, 100, seed=1)) == SOURCE
