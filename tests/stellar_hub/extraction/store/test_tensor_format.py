import pytest
import torch

from stellar_hub.extraction.store.tensor_format import check_dtype, from_stored, to_stored

FEATURES = {
    "S": torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0)),
    "L": torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)).softmax(dim=-1),
    "pooled": torch.randn(3, 8, generator=torch.Generator().manual_seed(2)),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
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
    with pytest.raises(ValueError, match="dtype must be one of float32, float16, bfloat16, int8, got 'uint8'"):
        check_dtype("uint8")
