"""Logistic regression: the optimum of the penalized likelihood."""

import builtins
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from stellar_hub.evaluation.logistic import fit_logistic, predict_logistic


def test_fit__is_at_the_minimum_of_the_penalized_likelihood() -> None:
    generator = torch.Generator().manual_seed(0)
    features = 5 + 3 * torch.randn(60, 4, generator=generator)
    labels = torch.randint(0, 3, (60,), generator=generator)
    model = fit_logistic(features, labels, inverse_penalty=0.5)
    regression = model[-1]
    standardized = features.double()
    standardized = (standardized - standardized.mean(dim=0)) / standardized.std(dim=0, correction=0)
    weight = torch.tensor(regression.coef_, requires_grad=True)
    bias = torch.tensor(regression.intercept_, requires_grad=True)
    loss = 0.5 * F.cross_entropy(standardized @ weight.T + bias, labels, reduction="sum") + 0.5 * weight.square().sum()
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() < 2e-2  # scikit-learn's tolerance, on the mean, is 1e-4
    expected = (standardized @ weight.T + bias).argmax(dim=1)
    assert torch.equal(predict_logistic(model, features), expected)


def test_missing_library__says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "sklearn":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'stellar_hub\[eval\]', or pass --no-logistic"):
        fit_logistic(torch.zeros(2, 1), torch.tensor([0, 1]), 1.0)
