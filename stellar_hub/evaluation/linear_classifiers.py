"""Linear classifiers of frozen features: by AdamW, one for each learning rate, and by L-BFGS."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_STD = 0.01


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
    """Train a head for each learning rate: LayerNorm and a linear layer, cross-entropy, AdamW, cosine to 0.

    All heads begin alike and see the same batches. A head is as if it had been trained alone: its gradients know
    nothing of the others, not even where one of them diverges.

    Args:
        features: `(N, d)`, float32 or float64.
        labels: `(N,)` int64 in [0, num_classes).
        num_classes: Number of classes.
        learning_rates: The highest of each head, above 0.
        num_epochs: Passes over the features, at least 1.
        batch_size: Samples of a step; the last batch of an epoch may be smaller.
        weight_decay: Of the linear layer's weight; norm and bias have none.
        seed: Of initial weights and batches.
        on_epoch: Called after each pass.

    Returns:
        The heads, in the order of learning rates, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    heads = nn.ModuleList(make_head(features.shape[1], num_classes) for _ in learning_rates)
    initial = INITIAL_STD * torch.randn(num_classes, features.shape[1], generator=generator, dtype=torch.float64)
    for head in heads:
        nn.init.zeros_(head[1].bias)  # type: ignore[index]
        head[1].weight.data.copy_(initial)  # type: ignore[index]
    heads.to(features.device, features.dtype)
    groups = [
        group for head, rate in zip(heads, learning_rates, strict=True) for group in groups_of(head, rate, weight_decay)
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


def make_head(num_features: int, num_classes: int) -> nn.Sequential:
    """LayerNorm, which makes models of any scale comparable, and a linear layer."""
    return nn.Sequential(nn.LayerNorm(num_features), nn.Linear(num_features, num_classes))


def groups_of(head: nn.Module, learning_rate: float, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups of a head: its linear weight, and what is not decayed."""
    norm, linear = head[0], head[1]  # type: ignore[index]
    return [
        {"params": [linear.weight], "lr": learning_rate, "weight_decay": weight_decay},
        {"params": [*norm.parameters(), linear.bias], "lr": learning_rate, "weight_decay": 0.0},
    ]


@torch.no_grad()
def predict(head: nn.Module, features: Tensor, batch_size: int = 4096) -> Tensor:
    """Classes `(N,)` int64 of features `(N, d)`; -1, which is no class, where a head that diverged says nothing."""
    logits = torch.cat([head(chunk) for chunk in features.split(batch_size)])
    return torch.where(logits.isfinite().all(dim=-1), logits.argmax(dim=-1), -1)


INSTALL = "logistic regression is scikit-learn's: pip install 'stellar_hub[eval]', or pass --no-logistic"
MAX_ITERATIONS = 2000


def fit_logistic(features: Tensor, labels: Tensor, inverse_penalty: float) -> Any:
    """Fit on features of mean 0 and variance 1, with an L2 penalty.

    Args:
        features: `(N, d)`; standardized here.
        labels: `(N,)` int64.
        inverse_penalty: scikit-learn's `C`, above 0.

    Returns:
        A pipeline with `predict` and `predict_proba`.

    Raises:
        ImportError: if scikit-learn is not installed.
    """
    check_logistic()
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=MAX_ITERATIONS))
    with warnings.catch_warnings():
        # A weak penalty on separable data has its optimum far away; what is reached by then is what is measured.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features.double().numpy(), labels.numpy())


def predict_logistic(model: Any, features: Tensor) -> Tensor:
    """Classes `(N,)` int64 of features `(N, d)`."""
    return torch.from_numpy(model.predict(features.double().numpy())).long()


def check_logistic() -> str:
    """scikit-learn's version.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import sklearn
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return str(sklearn.__version__)
