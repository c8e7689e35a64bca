import pytest
import torch

from stellar_hub.extraction import FeatureBatch, PictureRecord

BATCH = FeatureBatch([PictureRecord(4, "a"), PictureRecord(5, "b", error="why")], {"S": torch.zeros(2, 4, 8)})


def test_batch__tells_rows_and_which_are_ok() -> None:
    assert BATCH.row_ids.tolist() == [4, 5]
    assert BATCH.ok.tolist() == [True, False]
    assert len(BATCH) == 2
    assert BATCH["S"] is BATCH.features["S"]


def test_batch__names_what_it_has() -> None:
    with pytest.raises(KeyError, match="there is no 'L' here, only S"):
        BATCH["L"]
