import pytest
import torch

from stellar_hub.retrieval.recall import recall_at, without_self


def test_recall__counts_queries_with_a_hit() -> None:
    found = torch.tensor([[1, 2, 3], [2, 2, 1], [3, 3, 3], [-1, 1, 2]])
    assert recall_at(found, torch.tensor([1, 1, 1, 2]), (1, 2, 3)) == {1: 0.25, 2: 0.25, 3: 0.75}


@pytest.mark.parametrize("ks", [(0,), (4,)])
def test_k__is_checked(ks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ks must lie between 1 and 3, the number found"):
        recall_at(torch.zeros(2, 3), torch.zeros(2), ks)


def test_shapes__are_checked() -> None:
    with pytest.raises(ValueError, match=r"must have shapes \(Q, n\) and \(Q,\)"):
        recall_at(torch.zeros(2, 3), torch.zeros(3))


def test_self__is_left_out() -> None:
    rows = torch.tensor([[4, 5, 6], [7, 4, 5], [1, 2, 3]])
    assert without_self(rows, torch.tensor([4, 4, 9])).tolist() == [[5, 6], [7, 5], [1, 2]]
