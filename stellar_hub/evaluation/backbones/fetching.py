"""Weights that have to be fetched, and what to say where they cannot be."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fetching(name: str, local: bool) -> Iterator[None]:
    """Turn the many ways in which fetching weights fails into one line.

    Args:
        name: The model.
        local: Whether nothing has to be fetched: then errors stay as they are.

    Raises:
        OSError: if something inside fails, saying what would work without a network.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if local:
            raise
        reason = " ".join(str(error).split())
        short = reason if len(reason) <= 160 else f"{reason[:157]}..."
        raise OSError(
            f"the weights of {name} could not be fetched ({short or type(error).__name__}); without a network name "
            f"{name}:random for random weights, or {name}:PATH for weights in a file"
        ) from error
