"""Segments without labels."""

import pytest
import torch

from stellar_hub.evaluation.segments import check_segments, cluster_regions, objects_of, overlap
from stellar_hub.measures import UNLABELLED


def test_clusters__find_groups_of_patches() -> None:
    patches = torch.zeros(16, 3)
    patches[:8] = 1
    patches += 0.01 * torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    regions = cluster_regions(patches, (4, 4), 2, seed=0)
    assert regions.shape == (2, 4, 4)
    assert torch.equal(regions.sum(dim=0), torch.ones(4, 4, dtype=torch.long))
    upper = regions[regions[:, 0, 0]][0]
    assert upper[:2].all()
    assert not upper[2:].any()


def test_clusters__of_one_colour_leave_some_empty() -> None:
    regions = cluster_regions(torch.ones(4, 2), (2, 2), 16, seed=0)
    assert regions.shape == (16, 2, 2)
    assert regions.sum() == 4


def test_objects__are_the_classes_that_are_there() -> None:
    mask = torch.tensor([[0, 0, 2], [2, UNLABELLED, 5]])
    assert objects_of(mask, None).shape == (3, 2, 3)
    without_background = objects_of(mask, 0)
    assert torch.equal(without_background[0], mask == 2)
    assert torch.equal(without_background[1], mask == 5)
    assert objects_of(torch.full((2, 2), UNLABELLED), None).shape == (0, 2, 2)


def test_overlap__lets_a_segment_serve_two_objects_or_one() -> None:
    mask = torch.tensor([[1, 1, 1, 2]])
    whole, nothing = torch.ones(1, 1, 4, dtype=torch.bool), torch.zeros(1, 1, 4, dtype=torch.bool)
    best, matched = overlap([torch.cat([whole, nothing])], mask[None], None)
    assert best == pytest.approx([0.75, 0.25])
    assert matched == pytest.approx([0.75, 0.0])
    assert overlap([whole], torch.zeros(1, 1, 4, dtype=torch.uint8), 0) == ([], [])


def test_versions__are_said() -> None:
    assert set(check_segments()) == {"scikit-learn", "scipy"}
