"""Linear classifiers of frozen features: heads trained by AdamW, one per learning rate, and logistic regression."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stellar_hub.extras import require

INITIAL_STD = 0.01
MAX_ITERATIONS = 2000  # of L-BFGS


def train_heads(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    learning_rates: Sequence[float],
    num_epochs: int,
    batch_size: int,
    weight_decay: float,
    seed: int,
    on_epoch: Callable[[], object] = lambda: None,
) -> nn.ModuleList:
    """Trains one head per learning rate: LayerNorm and a linear layer, cross-entropy, AdamW, cosine schedule to 0.

    All heads start with the same weights and see the same batches. Each becomes what it would be if it were trained
    alone: no gradient flows between heads, and a head that diverges does not change the others.

    Args:
        features: Features to learn from, `(N, d)`, float32 or float64.
        labels: Classes, `(N,)` int64 in [0, num_classes).
        num_classes: Number of classes.
        learning_rates: Highest learning rate of each head, above 0.
        num_epochs: Number of passes over the features, at least 1.
        batch_size: Number of features per step; the last batch of an epoch may be smaller.
        weight_decay: Weight decay of the linear weight; norm and bias are not decayed.
        seed: Seed of initial weights and of the order of batches.
        on_epoch: Function to call after each pass.

    Returns:
        The heads in evaluation mode, in the order of the learning rates.
    """
    generator = torch.Generator().manual_seed(seed)
    heads = nn.ModuleList(_make_head(features.shape[1], num_classes) for _ in learning_rates)
    initial = INITIAL_STD * torch.randn(num_classes, features.shape[1], generator=generator, dtype=torch.float64)
    for head in heads:
        nn.init.zeros_(head[1].bias)  # type: ignore[index]
        head[1].weight.data.copy_(initial)  # type: ignore[index]
    heads.to(features.device, features.dtype)
    groups = [
        group
        for head, rate in zip(heads, learning_rates, strict=True)
        for group in _parameter_groups(head, rate, weight_decay)
    ]
    optimizer = torch.optim.AdamW(groups)
    num_steps = num_epochs * math.ceil(len(features) / batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / num_steps))
    )
    for _ in range(num_epochs):
        order = torch.randperm(len(features), generator=generator).to(features.device)
        for index in order.split(batch_size):
            loss = torch.stack([F.cross_entropy(head(features[index]), labels[index]) for head in heads]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        on_epoch()
    return heads.eval()


def _make_head(num_features: int, num_classes: int) -> nn.Sequential:
    """Returns LayerNorm, which makes models with features of any scale comparable, and a linear layer."""
    return nn.Sequential(nn.LayerNorm(num_features), nn.Linear(num_features, num_classes))


def _parameter_groups(head: nn.Module, learning_rate: float, weight_decay: float) -> list[dict[str, object]]:
    """Returns the optimizer's groups for a head: the linear weight, and the parameters that are not decayed."""
    norm, linear = head[0], head[1]  # type: ignore[index]
    return [
        {"params": [linear.weight], "lr": learning_rate, "weight_decay": weight_decay},
        {"params": [*norm.parameters(), linear.bias], "lr": learning_rate, "weight_decay": 0.0},
    ]


@torch.no_grad()
def predict(head: nn.Module, features: Tensor, batch_size: int = 4096) -> Tensor:
    """Predicts classes `(N,)` int64 of features `(N, d)`; -1 where the head diverged and its logits are not finite."""
    logits = torch.cat([head(chunk) for chunk in features.split(batch_size)])
    return torch.where(logits.isfinite().all(dim=-1), logits.argmax(dim=-1), -1)


def fit_logistic(features: Tensor, labels: Tensor, inverse_penalty: float) -> Any:
    """Fits a logistic regression with an L2 penalty to standardized features.

    Args:
        features: Features to learn from, `(N, d)`; the model standardizes them to mean 0 and variance 1.
        labels: Classes, `(N,)` int64.
        inverse_penalty: Inverse weight of the penalty, scikit-learn's `C`, above 0.

    Returns:
        A scikit-learn pipeline with `predict` and `predict_proba`.

    Raises:
        ImportError: if scikit-learn is not installed.
    """
    scikit_learn_version()
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=MAX_ITERATIONS))
    with warnings.catch_warnings():
        # With a weak penalty and separable data the optimum is far away: measure what the iterations reach.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features.double().numpy(), labels.numpy())


def predict_logistic(model: Any, features: Tensor) -> Tensor:
    """Predicts classes `(N,)` int64 of features `(N, d)`."""
    return torch.from_numpy(model.predict(features.double().numpy())).long()


def scikit_learn_version() -> str:
    """Returns the version of scikit-learn.

    Raises:
        ImportError: if it is not installed.
    """
    return str(require("sklearn", "eval", "logistic regression (--no-logistic leaves it out)").__version__)
