"""Checks of values that several protocols have."""

import math
from collections.abc import Sequence

MAX_SEED = 2**32 - 1  # of scikit-learn


def check_positive(name: str, values: Sequence[float]) -> None:
    """Raises ValueError unless there are values, and each of them is finite and above 0."""
    if not values or not all(value > 0 and math.isfinite(value) for value in values):
        shown = ", ".join(map(str, values)) or "none"
        raise ValueError(f"{name} must be one or more finite numbers above 0, got {shown}")


def check_seed(seed: int) -> None:
    """Raises ValueError unless all libraries take the number as a seed."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be between 0 and {MAX_SEED}, got {seed}")
