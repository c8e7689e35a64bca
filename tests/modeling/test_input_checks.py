import re

import numpy as np
import pytest
import torch
from torch import Tensor

from stellar_hub.modeling.input_checks import (
    VALUE_TOLERANCE,
    check_encoding,
    check_image_shape,
    check_num_tokens,
    check_pixel_values,
    check_value_range,
    nearest_multiples,
    resolve_grid_size,
    unpack_encoding,
)
from stellar_hub.modeling.outputs import StellarModelOutput

PATCH = 8


def batch_between(low: float, high: float) -> Tensor:
    return torch.linspace(low, high, 2 * 3 * 16 * 16).view(2, 3, 16, 16)


class TestNumTokens:
    @pytest.mark.parametrize("number", [1, 4, np.int64(3)])
    def test_numbers_in_range__pass(self, number: int) -> None:
        check_num_tokens(number, 4)

    @pytest.mark.parametrize("number", [0, -1, 5])
    def test_numbers_out_of_range__are_refused(self, number: int) -> None:
        with pytest.raises(ValueError, match=f"1 to 4, .* got {number}"):
            check_num_tokens(number, 4)

    @pytest.mark.parametrize("number", [True, 2.0, "2"])
    def test_what_is_not_an_integer__is_refused(self, number: object) -> None:
        with pytest.raises(TypeError, match=f"got {type(number).__name__}"):
            check_num_tokens(number, 4)


class TestShape:
    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((3, 16, 16), r"\(B, 3, H, W\), got \(3, 16, 16\): .*unsqueeze\(0\)"),
            ((1, 2, 3, 16, 16), r"\(B, 3, H, W\), got \(1, 2, 3, 16, 16\)$"),
            ((2, 4, 16, 16), r"3 channels .*got shape \(2, 4, 16, 16\)$"),
            ((2, 16, 16, 3), r"got shape \(2, 16, 16, 3\): .*permute\(0, 3, 1, 2\)"),
            ((0, 3, 16, 16), r"empty batch, shape \(0, 3, 16, 16\)"),
            ((1, 3, 20, 16), "height .* 8, such as 16 or 24, got 20"),
            ((1, 3, 16, 23), "width .* 8, such as 16 or 24, got 23"),
            ((1, 3, 0, 16), "height .* 8, such as 8, got 0"),
        ],
    )
    def test_wrong_shape__says_what_is_wrong(self, shape: tuple[int, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_pixel_values(torch.zeros(shape), PATCH)

    @pytest.mark.parametrize("shape", [(1, 3, 8, 8), (5, 3, 8, 24), (1, 3, 256, 8)])
    def test_right_shape__passes(self, shape: tuple[int, ...]) -> None:
        check_image_shape(torch.zeros(shape, device="meta"), PATCH, 3)

    @pytest.mark.parametrize(("value", "expected"), [(1, [8]), (8, [8, 16]), (15, [8, 16]), (0, [8])])
    def test_nearest_multiples__enclose_the_value(self, value: int, expected: list[int]) -> None:
        assert nearest_multiples(value, 8) == expected


class TestType:
    @pytest.mark.parametrize("value", [np.zeros((1, 3, 16, 16)), "image.png"])
    def test_no_tensor__names_the_type_and_the_processor(self, value: object) -> None:
        message = rf"\(B, 3, H, W\), got {type(value).__name__}: StellarImageProcessor"
        with pytest.raises(TypeError, match=message):
            check_pixel_values(value, PATCH)  # type: ignore[arg-type]

    def test_result_of_the_processor__is_asked_for_its_entry(self) -> None:
        with pytest.raises(TypeError, match='got dict: pass its entry "pixel_values"'):
            check_pixel_values({"pixel_values": torch.zeros(1, 3, 16, 16)}, PATCH)  # type: ignore[arg-type]

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
    def test_other_dtype__is_named(self, dtype: torch.dtype) -> None:
        with pytest.raises(TypeError, match=rf"uint8, got {dtype}"):
            check_pixel_values(torch.zeros(1, 3, 16, 16, dtype=dtype), PATCH)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.uint8])
    def test_allowed_dtype__passes(self, dtype: torch.dtype) -> None:
        check_pixel_values(torch.ones(1, 3, 16, 16, dtype=dtype), PATCH)


class TestValues:
    @pytest.mark.parametrize(
        ("low", "high", "message"),
        [
            (-2.1, 2.6, r"\[0, 1\], got values from -2\.1 to 2\.6, .*ImageNet-normalized"),
            (0.0, 255.0, r"from 0 to 255, .*0-255 range"),
            (0.0, 1.5, r"from 0 to 1\.5: "),
            (-300.0, 300.0, "from -300 to 300: "),
            (-0.06, 1.0, r"from -0\.06 to 1"),
        ],
    )
    def test_out_of_range__says_what_it_looks_like(self, low: float, high: float, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_pixel_values(batch_between(low, high), PATCH)

    @pytest.mark.parametrize("infinity", [float("inf"), float("-inf")])
    def test_infinity__is_not_finite(self, infinity: float) -> None:
        pixel_values = batch_between(0, 1)
        pixel_values[1, 2, 3, 4] = infinity
        with pytest.raises(ValueError, match=r"from .*inf"):
            check_pixel_values(pixel_values, PATCH)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_one_nan__is_found(self, dtype: torch.dtype) -> None:
        pixel_values = batch_between(0, 1).to(dtype)
        pixel_values[1, 2, 3, 4] = float("nan")
        with pytest.raises(ValueError, match=r"pixel_values .* got NaN"):
            check_pixel_values(pixel_values, PATCH)

    def test_name__stands_in_the_error(self) -> None:
        with pytest.raises(ValueError, match=r"^the mask "):
            check_value_range(torch.tensor([0.0, 9.0]), name="the mask")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_overshoot_of_resampling__passes(self, dtype: torch.dtype) -> None:
        edge = VALUE_TOLERANCE - 0.005  # bfloat16 has steps of 0.008 near 1
        check_pixel_values(batch_between(-edge, 1 + edge).to(dtype), PATCH)

    def test_uint8__is_not_checked_for_range(self) -> None:
        check_pixel_values(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8), PATCH)

    def test_other_devices__are_checked_for_shape_alone(self) -> None:
        check_pixel_values(torch.empty(1, 3, 16, 16, device="meta"), PATCH)
        with pytest.raises(ValueError, match=r"height .* got 20"):
            check_pixel_values(torch.empty(1, 3, 20, 16, device="meta"), PATCH)

    def test_check__keeps_the_graph_and_the_values(self) -> None:
        pixel_values = batch_between(0, 1).requires_grad_()
        before = pixel_values.detach().clone()
        check_pixel_values(pixel_values, PATCH)
        torch.testing.assert_close(pixel_values.detach(), before, rtol=0, atol=0)
        assert pixel_values.grad_fn is None


class TestEncoding:
    @pytest.mark.parametrize(
        ("s_shape", "l_shape", "message"),
        [
            ((2, 4, 48), (16, 4), r"\(B, r, d\) and L \(B, n, r\)"),
            ((2, 4, 32), (2, 16, 4), r"width 48 .*, got S of shape \(2, 4, 32\)"),
            ((2, 4, 48), (3, 16, 4), r"batch size, got S of shape \(2, 4, 48\) and L of shape \(3, 16, 4\)"),
            ((2, 4, 48), (2, 16, 3), r"tokens r, got .*\(2, 16, 3\)$"),
            ((2, 4, 48), (2, 4, 16), r"tokens r, .*L.transpose\(1, 2\)"),
            ((2, 0, 48), (2, 16, 0), r"one token, got S of shape \(2, 0, 48\)"),
            ((0, 4, 48), (0, 16, 4), r"at least one image, .*got S of shape \(0, 4, 48\)"),
            ((2, 4, 48), (2, 0, 4), "at least one image, one patch"),
        ],
    )
    def test_shapes_that_do_not_fit__are_both_named(
        self, s_shape: tuple[int, ...], l_shape: tuple[int, ...], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            check_encoding(torch.zeros(s_shape), torch.zeros(l_shape), hidden_size=48)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    @pytest.mark.parametrize(
        ("value", "message"), [(torch.nan, "NaN"), (torch.inf, "infinite"), (-torch.inf, "infinite")]
    )
    def test_values_that_are_not_finite__are_an_error_of_s_or_l(
        self, dtype: torch.dtype, value: float, message: str
    ) -> None:
        semantics, localization = torch.zeros(2, 4, 48, dtype=dtype), torch.zeros(2, 16, 4, dtype=dtype)
        bad_semantics, bad_localization = semantics.clone(), localization.clone()
        bad_semantics[1, 3, 7], bad_localization[1, 15, 3] = value, value
        with pytest.raises(ValueError, match=f"S must be finite, got {message}"):
            check_encoding(bad_semantics, localization)
        with pytest.raises(ValueError, match=f"L must be finite, got {message}"):
            check_encoding(semantics, bad_localization)

    def test_rows_of_any_sum__pass(self) -> None:
        check_encoding(torch.zeros(1, 4, 48), torch.full((1, 6, 4), 7.0))

    @pytest.mark.parametrize("tokens", [1, 4, 9])
    def test_any_number_of_tokens__passes(self, tokens: int) -> None:
        check_encoding(torch.zeros(2, tokens, 48), torch.zeros(2, 6, tokens), hidden_size=48)

    @pytest.mark.parametrize(
        ("semantics", "localization", "message"),
        [
            (torch.zeros(2, 4, 48, dtype=torch.int64), torch.zeros(2, 16, 4), r"semantics \(S\) .* got torch.int64"),
            (torch.zeros(2, 4, 48), torch.zeros(2, 16, 4).bool(), r"localization \(L\) .* got torch.bool"),
            (torch.zeros(2, 4, 48), None, r"localization \(L\) .* got NoneType"),
        ],
    )
    def test_other_types__are_named(self, semantics: Tensor, localization: Tensor, message: str) -> None:
        with pytest.raises(TypeError, match=message):
            check_encoding(semantics, localization, hidden_size=48)

    @pytest.mark.parametrize(
        ("passed", "message"),
        [
            (torch.zeros(2, 4, 48), "got Tensor alone: pass the whole encoding"),
            ("codes/photo.safetensors", r"got str alone: .*StellarEncoding\.load"),
            (StellarModelOutput(torch.zeros(2, 4, 48)), r"got StellarModelOutput alone: pass out\.last_hidden_state"),
        ],
    )
    def test_one_argument_of_decode__says_what_else_is_needed(self, passed: object, message: str) -> None:
        with pytest.raises(TypeError, match=message):
            unpack_encoding(passed, None, None)


class TestGridSize:
    @pytest.mark.parametrize(("patches", "side"), [(1, 1), (196, 14)])
    def test_square__needs_no_grid_size(self, patches: int, side: int) -> None:
        assert resolve_grid_size(patches, None) == (side, side)

    @pytest.mark.parametrize("patches", [2, 195])
    def test_no_square__asks_for_grid_size(self, patches: int) -> None:
        with pytest.raises(ValueError, match=rf"{patches} patches .* grid_size=\(h, w\)"):
            resolve_grid_size(patches, None)

    @pytest.mark.parametrize("grid", [(3, 4), [2, 6], torch.Size([6, 2])])
    def test_given__is_taken_height_first(self, grid: tuple[int, int]) -> None:
        assert resolve_grid_size(12, grid) == tuple(grid)

    @pytest.mark.parametrize("grid", [(4, 4), (-3, -4), (0, 12)])
    def test_wrong_product__names_grid_and_count(self, grid: tuple[int, int]) -> None:
        message = rf"grid_size .* 12 patches .* got {re.escape(str(grid))}"
        with pytest.raises(ValueError, match=message):
            resolve_grid_size(12, grid)

    @pytest.mark.parametrize("grid", [(2, 2, 3), 12, (3.5, 4)])
    def test_no_pair_of_integers__is_said(self, grid: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="grid_size must be two integers"):
            resolve_grid_size(12, grid)
