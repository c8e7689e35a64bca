"""What a pretraining step returns."""

import dataclasses

import torch

from stellar_hub.training import StellarPreTrainingOutput


def test_fields__are_in_the_documented_order() -> None:
    assert [field.name for field in dataclasses.fields(StellarPreTrainingOutput)] == [
        "loss",
        "reconstruction_loss",
        "koleo_loss",
        "clustering_loss",
        "cls_clustering_loss",
        "mask_loss",
        "cls_loss",
        "tokens",
        "localization",
        "mean_assignment",
        "agreement",
    ]


def test_fields__are_described() -> None:
    for field in dataclasses.fields(StellarPreTrainingOutput):
        assert f"\n        {field.name}: " in (StellarPreTrainingOutput.__doc__ or "")


def test_terms_that_are_off__are_none_and_no_keys() -> None:
    output = StellarPreTrainingOutput(loss=torch.ones(()), clustering_loss=torch.ones(()))
    assert list(output) == ["loss", "clustering_loss"]
    assert output.mask_loss is None
    assert output[0] is output.loss
