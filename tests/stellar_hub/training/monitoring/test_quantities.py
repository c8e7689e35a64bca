"""Names of what a run records."""

from dataclasses import fields

from stellar_hub.training.model.output import StellarPreTrainingOutput
from stellar_hub.training.monitoring.quantities import QUANTITIES, good, in_order, label


def test_quantities__know_every_loss_and_meter() -> None:
    losses = {field.name for field in fields(StellarPreTrainingOutput) if "loss" in field.name}
    meters = {"assignment_entropy", "token_cosine", "effective_rank", "localization_entropy", "agreement"}
    assert losses | meters <= set(QUANTITIES)


def test_in_order__puts_unknown_names_last() -> None:
    assert in_order({"zeta", "learning_rate", "alpha", "loss"}) == ["loss", "learning_rate", "alpha", "zeta"]


def test_label__of_an_unknown_name_is_readable() -> None:
    assert label("mask_loss") == "mask loss"
    assert label("some_new_number") == "some new number"
    assert good("some_new_number") == ""
