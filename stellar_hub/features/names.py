"""What can be extracted, by name, and its shape."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

# Names of features to fields of `StellarModelOutput`.
OUTPUTS = {
    "S": "last_hidden_state",
    "L": "localization",
    "pooled": "pooler_output",
    "cls": "cls_token",
    "patches": "patch_features",
}
DEFAULT_OUTPUTS = ("S", "L", "pooled")


def check_outputs(names: Iterable[str]) -> tuple[str, ...]:
    """The names, in the order of `OUTPUTS`.

    Raises:
        ValueError: if there is none, one is unknown or one is given twice.
    """
    given = [names] if isinstance(names, str) else list(names)
    unknown = sorted(set(given) - set(OUTPUTS))
    if unknown or not given or len(set(given)) < len(given):
        raise ValueError(f"outputs must be some of {', '.join(OUTPUTS)}, each once, got {', '.join(given) or 'none'}")
    return tuple(name for name in OUTPUTS if name in given)


def output_shapes(config: Any, grid_size: tuple[int, int], names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Shapes for one image.

    Args:
        config: A `StellarConfig`.
        grid_size: Patches `(h, w)` of what the model sees.
        names: Of `OUTPUTS`.
    """
    num_patches = grid_size[0] * grid_size[1]
    shapes = {
        "S": (config.num_sparse_tokens, config.hidden_size),
        "L": (num_patches, config.num_sparse_tokens),
        "pooled": (config.hidden_size,),
        "cls": (config.hidden_size,),
        "patches": (num_patches, config.hidden_size),
    }
    return {name: shapes[name] for name in names}


def select_outputs(output: Any, names: Iterable[str]) -> dict[str, Tensor]:
    """The features named, each `(B, ...)`, out of a `StellarModelOutput`."""
    return {name: getattr(output, OUTPUTS[name]) for name in names}
