"""Names, order and curves of what a run records."""

from dataclasses import fields

from stellar_hub.training import StellarPreTrainingOutput
from stellar_hub.training.monitoring.collapse_meters import METERS
from stellar_hub.training.monitoring.quantities import QUANTITIES, curves_of, good, in_order, label


def test_quantities__know_every_loss_and_meter() -> None:
    losses = {field.name for field in fields(StellarPreTrainingOutput) if "loss" in field.name}
    assert losses | METERS.keys() <= QUANTITIES.keys()


def test_in_order__puts_unknown_names_last() -> None:
    assert in_order({"zeta", "learning_rate", "alpha", "loss"}) == ["loss", "learning_rate", "alpha", "zeta"]


def test_label__of_an_unknown_name_is_readable() -> None:
    assert label("mask_loss") == "mask loss"
    assert label("some_new_number") == "some new number"
    assert good("some_new_number") == ""


def test_curves_of__take_the_last_record_of_a_step_in_the_order_of_quantities() -> None:
    records = [
        {"step": 3, "loss": 9.0},
        {"step": 2, "gradient_norm": 0.5, "loss": 2.0},
        {"step": 3, "loss": 5.0},
        {"step": 1, "loss": 1.0},
    ]
    loss, norm = curves_of(records)
    assert (loss.label, loss.steps.tolist(), loss.values.tolist(), loss.log) == (
        "loss, total",
        [1, 2, 3],
        [1, 2, 5],
        False,
    )
    assert (norm.label, norm.steps.tolist(), norm.log) == ("gradient norm", [2], True)
    assert curves_of([{"step": 3}]) == curves_of([]) == []
