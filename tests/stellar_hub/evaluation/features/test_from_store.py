"""Features out of a store."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from stellar_hub.data.labelled import LabelledPictures
from stellar_hub.evaluation.features.from_store import from_store

NAMES = ["a.png", "b.png", "c.png"]
LABELLED = LabelledPictures("mine", [Path(name) for name in NAMES], (0, 1, 0), ("x", "y"))


class Store:
    """Rows in memory, in an order of its own."""

    def __init__(self, names: Sequence[str], outputs: tuple[str, ...] = ("S", "L", "pooled"), failed: str = ""):
        self.names = names
        self.outputs = outputs
        self.failed = failed

    def __len__(self) -> int:
        return len(self.names)

    def read(self, output: str, rows: Sequence[int]) -> Tensor:
        shape = {"S": (2, 3), "L": (4, 2), "pooled": (3,)}[output]
        return torch.stack([torch.full(shape, float(ord(self.names[row][0]))) for row in rows]).half()

    def records(self, rows: Sequence[int]) -> list[SimpleNamespace]:
        errors = ["it is broken" if self.names[row] == self.failed else None for row in rows]
        return [SimpleNamespace(picture=self.names[row], error=error) for row, error in zip(rows, errors, strict=True)]


def test_store__is_read_in_the_order_of_the_pictures() -> None:
    found = from_store(Store(["c.png", "a.png", "d.png", "b.png"]), LABELLED, ["S-mean", "S-set", "Z"])
    letters = torch.tensor([float(ord(letter)) for letter in "abc"])
    assert torch.equal(found.features["S-mean"], letters[:, None].expand(-1, 3))
    assert found.features["S-set"].shape == (3, 2, 3)
    torch.testing.assert_close(found.features["Z"], (2 * letters**2)[:, None, None].expand(-1, 4, 3))
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 0]


def test_what_a_store_lacks__is_named() -> None:
    with pytest.raises(ValueError, match="the store has no cls, patches; it has S, L, pooled"):
        from_store(Store(NAMES), LABELLED, ["cls", "patches-mean"])
    with pytest.raises(ValueError, match=r"lacks 1 of the 3 pictures of mine, the first is c\.png"):
        from_store(Store(NAMES[:2]), LABELLED, ["S-mean"])
    with pytest.raises(ValueError, match=r"the store has no features of b\.png: it is broken"):
        from_store(Store(NAMES, failed="b.png"), LABELLED, ["S-mean"])
