"""Where tokens are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.editing import drop_tokens, paint_token, place_of_pixel, token_at, token_center
from stellar_hub.modeling import StellarEncoding

from .conftest import make_encoding


def test_center__of_a_token_in_one_patch_is_that_patch() -> None:
    localization = torch.zeros(1, 12, 2)
    localization[..., 1] = 1
    localization[0, 7] = torch.tensor([1.0, 0])
    encoding = StellarEncoding(torch.zeros(1, 2, 3), localization, (3, 4))
    assert token_center(encoding, 0).tolist() == [[1, 3]]


def test_center__of_a_token_without_weight_is_the_middle() -> None:
    encoding = drop_tokens(make_encoding(grid=(4, 5)), 2)
    assert token_center(encoding, 2).tolist() == [[1.5, 2.0]] * 2


@given(row=st.integers(0, 3), column=st.integers(0, 4), down=st.floats(-0.49, 0.49), right=st.floats(-0.49, 0.49))
def test_token_at__is_the_strongest_of_the_patch(row: int, column: int, down: float, right: float) -> None:
    encoding = make_encoding(grid=(4, 5))
    expected = encoding.localization[:, 5 * row + column].argmax(dim=-1)
    assert torch.equal(token_at(encoding, row + down, column + right), expected)


def test_token_at__finds_what_was_painted_at_each_image() -> None:
    region = torch.zeros(4, 5)
    region[3, 4] = 1
    encoding = paint_token(make_encoding(), torch.tensor([3, 1]), region)
    assert token_at(encoding, 3.5, 4.5).tolist() == [3, 1]


def test_token_at__takes_a_place_for_each_image() -> None:
    encoding = make_encoding(grid=(4, 5))
    found = token_at(encoding, torch.tensor([0, 3]), torch.tensor([1.0, 2.0]))
    expected = [int(encoding.localization[0, 1].argmax()), int(encoding.localization[1, 17].argmax())]
    assert found.tolist() == expected


@pytest.mark.parametrize(("row", "column"), [(-0.6, 0), (3.6, 0), (0, 4.6), (0, -1)])
def test_place_outside__is_refused(row: float, column: float) -> None:
    with pytest.raises(ValueError, match=r"from -0.5 to [34].5, got"):
        token_at(make_encoding(grid=(4, 5)), row, column)


@pytest.mark.parametrize(
    ("x", "y", "place"), [(3.5, 3.5, (0, 0)), (-0.5, -0.5, (-0.5, -0.5)), (11.5, 3.5, (0, 1)), (3.5, 19.5, (2, 0))]
)
def test_place_of_pixel__has_the_row_first(x: float, y: float, place: tuple[float, float]) -> None:
    assert place_of_pixel(x, y, 8) == place
