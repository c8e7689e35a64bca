import pytest
import torch

from stellar_hub.extraction.tensor_digest import tensors_sha256

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1.5, dtype=torch.bfloat16), "c": torch.empty(0, 4)}


def test_digest__does_not_depend_on_order_or_layout() -> None:
    again = {name: TENSORS[name].clone() for name in ("c", "b", "a")}
    again["a"] = again["a"].t().contiguous().t()
    assert tensors_sha256(again) == tensors_sha256(TENSORS)


@pytest.mark.parametrize(
    "changed",
    [
        {"a": torch.arange(6.0).view(3, 2)},
        {"a": torch.arange(6).view(2, 3)},
        {"b": torch.tensor(1.25, dtype=torch.bfloat16)},
        {"c": torch.empty(0, 5)},
        {"d": torch.ones(1)},
    ],
)
def test_digest__tells_any_change(changed: dict[str, torch.Tensor]) -> None:
    assert tensors_sha256(TENSORS | changed) != tensors_sha256(TENSORS)
