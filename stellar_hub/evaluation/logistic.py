"""Multinomial logistic regression by L-BFGS, for small data, through scikit-learn."""

import warnings
from typing import Any

import torch
from torch import Tensor

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
