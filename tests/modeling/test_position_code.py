import copy
import math

import pytest
import torch

from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.position_code import FourierPositionCode, fourier_position_code

WIDTH = 6


@pytest.fixture
def code() -> FourierPositionCode:
    module = FourierPositionCode(WIDTH)
    module.frequencies.copy_(torch.randn(2, WIDTH // 2, generator=torch.Generator().manual_seed(0)))
    return module


class TestFunction:
    def test_values__follow_the_formula_cell_by_cell(self, code: FourierPositionCode) -> None:
        height, width = 2, 3
        result = fourier_position_code(code.frequencies, (height, width))
        for i in range(height):
            for j in range(width):
                x, y = 2 * (j + 0.5) / width - 1, 2 * (i + 0.5) / height - 1
                for k in range(WIDTH // 2):
                    phase = 2 * math.pi * (x * code.frequencies[0, k].item() + y * code.frequencies[1, k].item())
                    pair = torch.tensor([math.sin(phase), math.cos(phase)])
                    torch.testing.assert_close(result[i * width + j, 2 * k : 2 * k + 2], pair, rtol=0, atol=1e-5)

    def test_single_cell__is_the_centre(self, code: FourierPositionCode) -> None:
        expected = torch.tensor([[0.0, 1.0] * (WIDTH // 2)])
        torch.testing.assert_close(fourier_position_code(code.frequencies, (1, 1)), expected, rtol=0, atol=0)

    def test_transposed_grid__swaps_the_axes(self, code: FourierPositionCode) -> None:
        upright = fourier_position_code(code.frequencies, (3, 5)).unflatten(0, (3, 5))
        turned = fourier_position_code(code.frequencies.flip(0), (5, 3)).unflatten(0, (5, 3))
        torch.testing.assert_close(upright, turned.transpose(0, 1), rtol=0, atol=1e-5)

    def test_float64__gives_float64(self, code: FourierPositionCode) -> None:
        exact = fourier_position_code(code.frequencies.double(), (4, 4))
        assert exact.dtype == torch.float64
        torch.testing.assert_close(fourier_position_code(code.frequencies, (4, 4)), exact.float(), rtol=0, atol=1e-5)


class TestAutocast:
    def test_autocast__does_not_coarsen_the_phases(self, code: FourierPositionCode) -> None:
        expected = code((4, 4))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = code((4, 4))
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


class TestDtype:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_model_to_half__frequencies_stay_bit_equal_in_float32(
        self, pixel_model: StellarModel, dtype: torch.dtype
    ) -> None:
        before = pixel_model.decoder.position_code.frequencies.clone()
        pixel_model.to(dtype)
        assert pixel_model.decoder.proj.weight.dtype == dtype
        assert pixel_model.decoder.position_code.frequencies.dtype == torch.float32
        torch.testing.assert_close(pixel_model.decoder.position_code.frequencies, before, rtol=0, atol=0)

    @pytest.mark.parametrize("method", ["half", "bfloat16"])
    def test_method_of_torch__frequencies_stay_float32(self, pixel_model: StellarModel, method: str) -> None:
        getattr(pixel_model, method)()
        assert pixel_model.dtype != torch.float32
        assert pixel_model.decoder.position_code.frequencies.dtype == torch.float32

    def test_double_and_back__ends_in_float32(self, code: FourierPositionCode) -> None:
        before = code.frequencies.clone()
        assert code.double().frequencies.dtype == torch.float64
        assert code.float().frequencies.dtype == torch.float32
        torch.testing.assert_close(code.frequencies, before, rtol=0, atol=0)

    def test_double_to_half__keeps_float32_precision(self, code: FourierPositionCode) -> None:
        before = code.frequencies.clone()
        code.double().half()
        torch.testing.assert_close(code.frequencies, before, rtol=0, atol=0)

    def test_code__is_the_same_in_a_half_model(self, code: FourierPositionCode) -> None:
        expected = code((3, 4))
        torch.testing.assert_close(copy.deepcopy(code).half()((3, 4)), expected, rtol=0, atol=0)


class TestDevice:
    def test_meta_half__stays_float32_on_meta(self) -> None:
        with torch.device("meta"):
            code = FourierPositionCode(WIDTH)
        code.half()
        assert code.frequencies.is_meta
        assert code.frequencies.dtype == torch.float32

    def test_to_meta_in_half__moves_and_stays_float32(self, code: FourierPositionCode) -> None:
        code.to(device="meta", dtype=torch.float16)
        assert code.frequencies.is_meta
        assert code.frequencies.dtype == torch.float32

    def test_materialized_from_meta__takes_values_in_float32(self, code: FourierPositionCode) -> None:
        with torch.device("meta"):
            empty = FourierPositionCode(WIDTH)
        empty.half().to_empty(device="cpu").load_state_dict(code.state_dict())
        torch.testing.assert_close(empty.frequencies, code.frequencies, rtol=0, atol=0)

    def test_frequencies__are_part_of_the_state_dict(self, code: FourierPositionCode) -> None:
        assert set(code.state_dict()) == {"frequencies"}
        assert not list(code.parameters())
