"""A run stops at the first number that is none."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.training.health import NonFiniteLossError, check_finite
from stellar_hub.training.output import StellarPreTrainingOutput
from stellar_hub.training.step import StepResult

PATHS = ["pictures/a.png", "pictures/b.png"]


def result(loss: float = 1.0, mask_loss: float = 0.5, gradient_norm: float = 2.0) -> StepResult:
    losses = {"loss": torch.tensor(loss), "mask_loss": torch.tensor(mask_loss)}
    return StepResult(losses, torch.tensor(gradient_norm), StellarPreTrainingOutput(), PATHS)


@given(st.lists(st.floats(width=32), min_size=3, max_size=3))
def test_check__raises_exactly_where_a_number_is_not_finite(values: list[float]) -> None:
    if all(map(math.isfinite, values)):
        check_finite(1, result(*values), None)
    else:
        with pytest.raises(NonFiniteLossError):
            check_finite(1, result(*values), None)


def test_check__holds_for_half_precision() -> None:
    numbers = result()
    numbers.losses["loss"] = torch.tensor(float("inf"), dtype=torch.float16)
    with pytest.raises(NonFiniteLossError, match="loss inf"):
        check_finite(1, numbers, None)


def test_message__names_terms_pictures_checkpoint_and_what_to_do() -> None:
    with pytest.raises(NonFiniteLossError) as caught:
        check_finite(7, result(mask_loss=math.nan), Path("run/checkpoints/step-000004"))
    message = str(caught.value)
    assert message.startswith("the loss is not finite at step 7 (loss 1, mask_loss nan, gradient_norm 2); ")
    assert "the last good checkpoint is run/checkpoints/step-000004" in message
    assert "Lower the learning rate" in message
    assert all(path in message for path in PATHS)


def test_message__says_that_there_is_no_checkpoint_yet() -> None:
    with pytest.raises(NonFiniteLossError, match="there is no checkpoint yet"):
        check_finite(1, result(loss=math.inf), None)


def test_scaler__deals_with_an_infinite_gradient_itself() -> None:
    check_finite(1, result(gradient_norm=math.inf), None, scaled=True)
    with pytest.raises(NonFiniteLossError):
        check_finite(1, result(loss=math.nan), None, scaled=True)
