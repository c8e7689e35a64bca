"""What holds for every edit: rows of L, untouched tokens, no mutation, types, batches, gradients, bad arguments."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from stellar_hub.editing import (
    blend_encodings,
    drop_tokens,
    interpolate_encodings,
    keep_tokens,
    mirror_token,
    move_token,
    paint_token,
    scale_token,
    swap_tokens,
    token_at,
    token_center,
    transplant_token,
)
from stellar_hub.modeling import StellarEncoding, StellarModel

from .conftest import DTYPES, ROW_TOLERANCE, WIDTH, encodings, make_encoding

Edit = Callable[[StellarEncoding, StellarEncoding], StellarEncoding]  # of an encoding and another one


def other(encoding: StellarEncoding) -> StellarEncoding:
    """Another encoding of as many images on the same grid, with one token more."""
    batch, num_tokens = encoding.semantics.shape[:2]
    assert encoding.grid_size is not None
    return make_encoding(9, batch, encoding.grid_size, num_tokens + 1, dtype=encoding.semantics.dtype)


def half(encoding: StellarEncoding) -> Tensor:
    """A region: the upper half of the image, with a soft edge."""
    assert encoding.grid_size is not None
    height, width = encoding.grid_size
    return torch.linspace(1.5, -0.5, height).clamp(0, 1)[:, None].expand(height, width)


EDITS: dict[str, Edit] = {
    "drop": lambda e, o: drop_tokens(e, 1),
    "keep": lambda e, o: keep_tokens(e, [0]),
    "swap": lambda e, o: swap_tokens(e, 0, 1),
    "move": lambda e, o: move_token(e, 1, 0.7, -1.4),
    "scale": lambda e, o: scale_token(e, 1, 1.6),
    "shrink": lambda e, o: scale_token(e, 1, 0.4, center=(0, 0)),
    "mirror": lambda e, o: mirror_token(e, 1),
    "mirror vertical": lambda e, o: mirror_token(e, 1, "vertical"),
    "paint": lambda e, o: paint_token(e, 1, half(e), 0.8),
    "transplant": lambda e, o: transplant_token(e, o, 0),
    "transplant to": lambda e, o: transplant_token(e, o, 0, (0.5, 1.2)),
    "replace": lambda e, o: transplant_token(e, o, 0, replace=1),
    "blend": lambda e, o: blend_encodings(e, o, 0.3),
    "interpolate": lambda e, o: interpolate_encodings(e, o, 0.3),
}
# The tokens whose S each edit may change or add.
CHANGES_S = {"replace": [1], "interpolate": None}
every_edit = pytest.mark.parametrize("name", EDITS)


def has_weight_left(encoding: StellarEncoding, name: str) -> bool:
    """Whether a drop leaves something: very sharp maps give tokens no weight at all."""
    weights = encoding.localization.amax(dim=1) > 0
    return bool((weights[:, 0] if name == "keep" else weights[:, [0, *range(2, weights.shape[1])]].any(dim=1)).all())


@every_edit
@given(encoding=encodings(DTYPES))
def test_rows_of_l__sum_to_one(name: str, encoding: StellarEncoding) -> None:
    if name in ("drop", "keep") and not has_weight_left(encoding, name):
        return
    localization = EDITS[name](encoding, other(encoding)).localization
    assert localization.dtype == encoding.localization.dtype
    assert localization.min() >= 0
    sums = localization.double().sum(dim=-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=ROW_TOLERANCE[localization.dtype])


@every_edit
@given(encoding=encodings(DTYPES, sharpness=1.0))
def test_s_of_untouched_tokens__is_bit_equal(name: str, encoding: StellarEncoding) -> None:
    changed = CHANGES_S.get(name, [])
    if changed is None:
        return
    kept = [token for token in range(encoding.semantics.shape[1]) if token not in changed]
    assert torch.equal(EDITS[name](encoding, other(encoding)).semantics[:, kept], encoding.semantics[:, kept])


@every_edit
def test_encoding__is_not_changed_and_the_result_has_its_grid(name: str) -> None:
    encoding = make_encoding()
    before = copy.deepcopy(encoding)
    edited = EDITS[name](encoding, other(encoding))
    assert torch.equal(encoding.semantics, before.semantics)
    assert torch.equal(encoding.localization, before.localization)
    assert edited.grid_size == encoding.grid_size == (4, 5)
    assert isinstance(edited, StellarEncoding)
    edited.localization.zero_()
    if name != "swap":
        assert torch.equal(encoding.localization, before.localization)


@every_edit
@given(encoding=encodings(sharpness=1.0, batch=3))
def test_batches__equal_single_images(name: str, encoding: StellarEncoding) -> None:
    donor = other(encoding)
    together = EDITS[name](encoding, donor)
    for index in range(3):
        alone = EDITS[name](encoding.select(index), donor.select(index))
        for found, expected in zip(alone, together.select(index), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@every_edit
def test_edit__decodes_and_gradients_reach_s_and_l(name: str, shared_pixel_model: StellarModel) -> None:
    model = shared_pixel_model
    images = torch.rand(4, 3, 32, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        encoding, donor = (model.encode(pair) for pair in images.split(2))
    semantics, localization = (tensor.clone().requires_grad_() for tensor in encoding)
    edited = EDITS[name](StellarEncoding(semantics, localization, encoding.grid_size), donor)
    decoded = model.decode(edited)
    assert decoded.shape == (2, 3, 32, 24)
    decoded.square().mean().backward()
    for tensor in (semantics, localization):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


@every_edit
def test_gradients__are_those_of_finite_differences(name: str) -> None:
    encoding = make_encoding(3, batch=1, grid=(3, 2), num_tokens=3, sharpness=1.0)
    donor = other(encoding)

    def dense(semantics: Tensor, localization: Tensor) -> Tensor:
        edited = EDITS[name](StellarEncoding(semantics, localization, encoding.grid_size), donor)
        return edited.localization @ edited.semantics

    assert torch.autograd.gradcheck(dense, [tensor.requires_grad_() for tensor in encoding])


@pytest.mark.parametrize("name", ["drop", "keep", "swap", "move", "scale", "mirror", "paint"])
def test_tokens_per_image__are_those_edits_alone(name: str) -> None:
    encoding, tokens = make_encoding(batch=2), torch.tensor([2, 0])
    calls: dict[str, Callable[[StellarEncoding, Any], StellarEncoding]] = {
        "drop": lambda e, token: drop_tokens(e, token[:, None] if isinstance(token, Tensor) else token),
        "keep": lambda e, token: keep_tokens(e, token[:, None] if isinstance(token, Tensor) else token),
        "swap": lambda e, token: swap_tokens(e, token, 1),
        "move": lambda e, token: move_token(e, token, 1, 0.5),
        "scale": lambda e, token: scale_token(e, token, 2),
        "mirror": mirror_token,
        "paint": lambda e, token: paint_token(e, token, half(e)),
    }
    together = calls[name](encoding, tokens)
    for index, token in enumerate(tokens.tolist()):
        expected = calls[name](encoding.select(index), token)
        torch.testing.assert_close(together.select(index).localization, expected.localization, rtol=0, atol=1e-12)


ONE_TOKEN: dict[str, Callable[[StellarEncoding, Any], object]] = {
    "drop": drop_tokens,
    "keep": keep_tokens,
    "swap": lambda e, token: swap_tokens(e, token, 0),
    "move": lambda e, token: move_token(e, token, 1, 1),
    "scale": lambda e, token: scale_token(e, token, 2),
    "mirror": mirror_token,
    "paint": lambda e, token: paint_token(e, token, half(e)),
    "source token": lambda e, token: transplant_token(e, e, token),
    "replaced token": lambda e, token: transplant_token(e, e, 0, replace=token),
    "center": token_center,
}


@pytest.mark.parametrize("name", ONE_TOKEN)
@pytest.mark.parametrize("token", [4, -1, 10**30, torch.tensor(7), torch.tensor([0, 4])])
def test_token_out_of_range__is_refused(name: str, token: object) -> None:
    with pytest.raises(ValueError, match=r"from 0 to 3, .* got"):
        ONE_TOKEN[name](make_encoding(), token)


@pytest.mark.parametrize("name", ONE_TOKEN)
@pytest.mark.parametrize(
    "token", [True, 1.0, math.nan, "1", b"1", None, np.float64(1), torch.tensor(1.0), torch.tensor(True)]
)
def test_token_that_is_no_integer__is_refused(name: str, token: object) -> None:
    if name == "replaced token" and token is None:
        return
    with pytest.raises(TypeError, match=r"integer"):
        ONE_TOKEN[name](make_encoding(), token)


@pytest.mark.parametrize("name", ONE_TOKEN)
def test_integers_of_numpy_and_torch__are_tokens(name: str) -> None:
    encoding = make_encoding()
    expected = ONE_TOKEN[name](encoding, 1)
    for token in (np.int64(1), torch.tensor(1), torch.tensor([1], dtype=torch.uint8)):
        found = ONE_TOKEN[name](encoding, token)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


ONE_NUMBER: dict[str, Callable[[StellarEncoding, Any], object]] = {
    "rows": lambda e, value: move_token(e, 0, value, 0),
    "columns": lambda e, value: move_token(e, 0, 0, value),
    "factor": lambda e, value: scale_token(e, 0, value),
    "the row of center": lambda e, value: scale_token(e, 0, 2, center=(value, 0)),
    "strength": lambda e, value: paint_token(e, 0, half(e), value),
    "the column of position": lambda e, value: transplant_token(e, e, 0, (0, value)),
    "weight": lambda e, value: blend_encodings(e, e, value),
    "fraction": lambda e, value: interpolate_encodings(e, e, value),
    "row": lambda e, value: token_at(e, value, 0),
}


@pytest.mark.parametrize("name", ONE_NUMBER)
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 10**400, torch.tensor(math.nan)],
    ids=["nan", "inf", "-inf", "huge", "tensor"],
)
def test_number_that_is_not_finite__is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be"):
        ONE_NUMBER[name](make_encoding(), value)


@pytest.mark.parametrize("name", ONE_NUMBER)
@pytest.mark.parametrize("value", [True, "1", None, torch.tensor(True), 1j])
def test_number_of_another_type__is_refused(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=name):
        ONE_NUMBER[name](make_encoding(), value)


@pytest.mark.parametrize("name", ONE_NUMBER)
def test_number_for_other_images__is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be a number or a tensor of shape \(2,\)"):
        ONE_NUMBER[name](make_encoding(), torch.ones(3))


@pytest.mark.parametrize(
    ("encoding", "error", "message"),
    [
        (torch.zeros(1, 4, 6), TypeError, "model.encode returns, got Tensor"),
        ((torch.zeros(1, 4, 6), torch.zeros(1, 9, 5)), ValueError, "same number of tokens"),
        ((torch.zeros(1, 4, 6), torch.zeros(1, 12, 4)), ValueError, "square grid"),
        ((torch.zeros(1, 4, 6).long(), torch.zeros(1, 9, 4)), TypeError, "floating-point"),
    ],
)
def test_what_is_no_encoding__is_refused(encoding: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        drop_tokens(encoding, 0)


def test_encoding_without_a_grid__is_taken_to_be_square() -> None:
    semantics, localization = make_encoding(grid=(3, 3))
    assert move_token(StellarEncoding(semantics, localization), 0, 1, 1).grid_size == (3, 3)


@pytest.mark.parametrize(
    "edit", [transplant_token, blend_encodings, interpolate_encodings], ids=["transplant", "blend", "interpolate"]
)
class TestTwoEncodings:
    def call(self, edit: Callable[..., StellarEncoding], first: StellarEncoding, second: Any) -> StellarEncoding:
        return edit(first, second, 0)

    def test_another_width__is_refused(self, edit: Callable[..., StellarEncoding]) -> None:
        first, second = make_encoding(), make_encoding()
        narrow = StellarEncoding(second.semantics[..., : WIDTH - 1], second.localization, second.grid_size)
        with pytest.raises(ValueError, match="one width d, got 6 and 5"):
            self.call(edit, first, narrow)

    def test_another_number_of_images__is_refused(self, edit: Callable[..., StellarEncoding]) -> None:
        with pytest.raises(ValueError, match="1 or 2 images, as the first, got 3"):
            self.call(edit, make_encoding(), make_encoding(batch=3))

    def test_one_image__serves_a_batch(self, edit: Callable[..., StellarEncoding]) -> None:
        first, second = make_encoding(1), make_encoding(2, batch=1)
        repeated = StellarEncoding(
            second.semantics.repeat(2, 1, 1), second.localization.repeat(2, 1, 1), second.grid_size
        )
        for found, expected in zip(self.call(edit, first, second), self.call(edit, first, repeated), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
