"""A token of another image."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.editing import token_center, transplant_token
from stellar_hub.editing.transplanting import resample
from stellar_hub.modeling import StellarEncoding

from .conftest import compact_encoding, make_encoding


def test_new_token__has_the_s_and_the_map_of_the_source() -> None:
    encoding, source = make_encoding(1), make_encoding(2, num_tokens=7)
    edited = transplant_token(encoding, source, 6)
    assert edited.semantics.shape[1] == 5
    assert torch.equal(edited.semantics[:, 4], source.semantics[:, 6])
    torch.testing.assert_close(edited.localization[..., 4], source.localization[..., 6])


def test_replaced_token__has_the_s_and_the_map_of_the_source() -> None:
    encoding, source = make_encoding(1), make_encoding(2)
    edited = transplant_token(encoding, source, 3, replace=torch.tensor([0, 2]))
    for index, token in enumerate((0, 2)):
        assert torch.equal(edited.semantics[index, token], source.semantics[index, 3])
        torch.testing.assert_close(edited.localization[index, :, token], source.localization[index, :, 3])


@given(row=st.floats(2, 5), column=st.floats(2, 6))
def test_position__is_where_the_center_goes(row: float, column: float) -> None:
    source = compact_encoding()
    encoding = make_encoding(batch=1, grid=(8, 9))
    edited = transplant_token(encoding, source, 0, (row, column))
    expected = torch.tensor([[row, column]], dtype=torch.float64)
    torch.testing.assert_close(token_center(edited, 4), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("grid", [(16, 18), (4, 3), (8, 27)])
def test_another_grid__covers_the_same_share_of_the_image(grid: tuple[int, int]) -> None:
    source = compact_encoding()
    edited = transplant_token(make_encoding(batch=1, grid=grid), source, 0)
    assert edited.grid_size == grid
    share = float(edited.localization[..., 4].mean())
    assert share == pytest.approx(float(source.localization[..., 0].mean()), rel=1e-6)


def test_resample__keeps_a_constant_and_finer_halves() -> None:
    constant = torch.full((1, 3, 4), 0.7, dtype=torch.float64)
    torch.testing.assert_close(resample(constant, (7, 2)), torch.full((1, 7, 2), 0.7, dtype=torch.float64))
    step = torch.tensor([[[0.0, 1.0]]])
    assert resample(step, (1, 4)).tolist() == [[[0, 0.25, 0.75, 1]]]


def test_source__is_converted_to_type_and_device() -> None:
    edited = transplant_token(make_encoding(dtype=torch.float16), make_encoding(2), 0)
    assert {edited.semantics.dtype, edited.localization.dtype} == {torch.float16}


def test_source_token_per_image__of_a_source_with_one_image_is_one_number() -> None:
    with pytest.raises(ValueError, match=r"source_token must be a number or a tensor of shape \(1,\)"):
        transplant_token(make_encoding(), make_encoding(2, batch=1), torch.tensor([0, 1]))


def test_gradients__reach_the_source_and_the_position() -> None:
    source = StellarEncoding(*(tensor.requires_grad_() for tensor in make_encoding(2)), grid_size=(4, 5))  # type: ignore[misc]
    position = torch.tensor([1.3, 2.2], dtype=torch.float64, requires_grad=True)
    semantics, localization = transplant_token(make_encoding(1), source, 1, position)
    (localization @ semantics).square().sum().backward()
    for tensor in (*source, position):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0
