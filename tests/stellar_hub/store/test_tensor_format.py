import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.store.tensor_format import (
    MAX_VALUE,
    check_dtype,
    dequantize_rows,
    from_stored,
    quantize_rows,
    to_stored,
)


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 40), st.floats(1e-3, 1e3))
def test_int8__is_off_by_at_most_half_a_step(seed: int, rows: int, width: int, size: float) -> None:
    values = size * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    quantized, scale = quantize_rows(values, torch.int8)
    assert (quantized.dtype, scale.dtype, scale.shape) == (torch.int8, torch.float16, (rows,))
    # A scale is rounded to float16, which may put the largest value a little beyond the last step; the smallest scales
    # are subnormal, with steps of 2**-24.
    bound = scale.float() * (0.5 + MAX_VALUE[torch.int8] * 2**-11) + MAX_VALUE[torch.int8] * 2**-25 + 1e-6
    assert ((dequantize_rows(quantized, scale) - values).abs() <= bound[:, None]).all()


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_uint8__is_off_by_at_most_half_a_step(seed: int, width: int) -> None:
    values = torch.randn(5, width, generator=torch.Generator().manual_seed(seed)).mul(4).softmax(dim=-1)
    quantized, scale = quantize_rows(values, torch.uint8)
    assert quantized.dtype == torch.uint8
    bound = scale.float() * (0.5 + MAX_VALUE[torch.uint8] * 2**-11) + 1e-6
    assert ((dequantize_rows(quantized, scale) - values).abs() <= bound[:, None]).all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_zeros__stay_zeros(dtype: torch.dtype) -> None:
    assert (dequantize_rows(*quantize_rows(torch.zeros(2, 3), dtype)) == 0).all()


def test_rows_without_features__stay_without() -> None:
    values = torch.ones(2, 3)
    values[1] = torch.nan
    again = dequantize_rows(*quantize_rows(values, torch.int8))
    torch.testing.assert_close(again[0], values[0], atol=1e-3, rtol=0)
    assert again[1].isnan().all()


FEATURES = {
    "S": torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0)),
    "L": torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)).softmax(dim=-1),
    "pooled": torch.randn(3, 8, generator=torch.Generator().manual_seed(2)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_floats__are_stored_as_such(dtype: str) -> None:
    stored = to_stored(FEATURES, dtype)
    assert set(stored) == set(FEATURES)
    assert all(torch.equal(stored[name], FEATURES[name].to(getattr(torch, dtype))) for name in FEATURES)


def test_int8__keeps_a_scale_for_each_token_and_patch() -> None:
    stored = to_stored(FEATURES, "int8")
    found = {name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in stored.items()}
    assert found == {
        "S": ("int8", (3, 4, 8)),
        "S.scale": ("float16", (3, 4)),
        "L": ("uint8", (3, 5, 4)),
        "L.scale": ("float16", (3, 5)),
        "pooled": ("float16", (3, 8)),
    }
    torch.testing.assert_close(from_stored(stored["S"], stored["S.scale"]), FEATURES["S"], atol=0.02, rtol=0)
    torch.testing.assert_close(from_stored(stored["L"], stored["L.scale"]), FEATURES["L"], atol=0.003, rtol=0)


def test_dtype__is_checked() -> None:
    with pytest.raises(ValueError, match=r"dtype must be .*int8, got 'uint8'"):
        check_dtype("uint8")
