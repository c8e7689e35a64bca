"""Linear heads: all in one pass are each alone, and each is PyTorch's own layers and optimizer."""

import math
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stellar_hub.evaluation.linear_classifiers import INITIAL_STD, fit_logistic, predict, predict_logistic, train_heads

OPTIONS = {"num_epochs": 4, "batch_size": 16, "weight_decay": 0.05, "seed": 3}


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """50 features that a linear layer can tell apart, not all of the same scale."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (50,), generator=generator)
    features = torch.randn(50, 8, generator=generator) + 4 * torch.eye(8)[labels]
    return features.double() * 30, labels


def trained_by_hand(features: Tensor, labels: Tensor, rate: float) -> nn.Sequential:
    """One head, in a loop as a tutorial would write it."""
    generator = torch.Generator().manual_seed(OPTIONS["seed"])  # type: ignore[arg-type]
    head = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3)).double()
    head[1].weight.data = INITIAL_STD * torch.randn(3, 8, generator=generator, dtype=torch.float64)
    head[1].bias.data.zero_()
    others = [head[0].weight, head[0].bias, head[1].bias]
    optimizer = torch.optim.AdamW(
        [{"params": [head[1].weight], "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=rate
    )
    step = 0
    for _ in range(4):
        order = torch.randperm(50, generator=generator)
        for start in range(0, 50, 16):
            index = order[start : start + 16]
            for group in optimizer.param_groups:
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / 16))
            optimizer.zero_grad()
            F.cross_entropy(head(features[index]), labels[index]).backward()
            optimizer.step()
            step += 1
    return head


def test_heads__are_each_what_it_is_alone_and_by_hand(data: tuple[Tensor, Tensor]) -> None:
    rates = (1e-3, 1e-2, 1e-1)
    heads = train_heads(*data, 3, rates, **OPTIONS)  # type: ignore[arg-type]
    for head, rate in zip(heads, rates, strict=True):
        (alone,) = train_heads(*data, 3, (rate,), **OPTIONS)  # type: ignore[arg-type]
        by_hand = trained_by_hand(*data, rate)
        for name, tensor in head.state_dict().items():
            torch.testing.assert_close(tensor, alone.state_dict()[name], rtol=0, atol=1e-12)
            torch.testing.assert_close(tensor, by_hand.state_dict()[name], rtol=0, atol=1e-8)


def test_float32__is_float64_to_rounding(data: tuple[Tensor, Tensor]) -> None:
    features, labels = data
    exact = train_heads(features, labels, 3, (1e-2,), **OPTIONS)  # type: ignore[arg-type]
    rounded = train_heads(features.float(), labels, 3, (1e-2,), **OPTIONS)  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(rounded[0](features.float()).double(), exact[0](features), rtol=0, atol=1e-5)


def test_heads__learn(data: tuple[Tensor, Tensor]) -> None:
    features, labels = data
    counted: list[None] = []
    (head,) = train_heads(features.float(), labels, 3, (0.03,), 60, 16, 0.0, 0, on_epoch=lambda: counted.append(None))
    assert (predict(head, features.float()) == labels).double().mean() > 0.9
    assert len(counted) == 60


def test_a_head_that_diverges__says_nothing_and_leaves_the_others(data: tuple[Tensor, Tensor]) -> None:
    features, labels = data[0].float(), data[1]
    heads = train_heads(features, labels, 3, (1e-2, 1e30), **OPTIONS)  # type: ignore[arg-type]
    (alone,) = train_heads(features, labels, 3, (1e-2,), **OPTIONS)  # type: ignore[arg-type]
    assert torch.equal(predict(heads[0], features), predict(alone, features))
    assert set(predict(heads[1], features).tolist()) == {-1}


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
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"--no-logistic.*stellar_hub\[eval\]"):
        fit_logistic(torch.zeros(2, 1), torch.tensor([0, 1]), 1.0)
