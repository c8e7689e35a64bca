"""The table of features: one name for each, in Python, on the command line, in stores, in reports and in the docs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stellar_hub.modeling.factorization import low_rank_product
from stellar_hub.old_names import hint_of_new_name


@dataclass(frozen=True)
class Feature:
    """A feature of an image.

    Attributes:
        kind: "vector" for one vector per image, "dense" for one vector per patch, or "set" for a set of vectors, which
            is compared with another set by matching (`stellar_hub.measures.set_similarity`).
        shape: Shape of one row, in words: `d` is the hidden size, `n` the number of patches, `r` the number of tokens.
        meaning: What the feature is.
        field: Field of `StellarModelOutput` that holds it; None for a feature that is derived or not a STELLAR model's.
        made_of: Names of the features that it is derived from, in the order that `derive` takes them.
        derive: Function from these features, with a batch dimension, to this one.
    """

    kind: str
    shape: str
    meaning: str
    field: str | None = None
    made_of: tuple[str, ...] = ()
    derive: Callable[..., Tensor] | None = None


FEATURES: dict[str, Feature] = {
    "S": Feature("set", "(r, d)", "sparse tokens", field="last_hidden_state"),
    "L": Feature("dense", "(n, r)", "localization of the tokens: one map per token", field="localization"),
    "pooled": Feature("vector", "(d,)", "mean of S over its tokens", field="pooler_output"),
    "cls": Feature("vector", "(d,)", "cls token", field="cls_token"),
    "patches": Feature("dense", "(n, d)", "patch features before the factorization", field="patch_features"),
    "patches_mean": Feature(
        "vector",
        "(d,)",
        "mean of the patch features",
        made_of=("patches",),
        derive=lambda patches: patches.mean(dim=1),
    ),
    "Z": Feature("dense", "(n, d)", "low-rank product L S", made_of=("L", "S"), derive=low_rank_product),
    "pixels": Feature("vector", "(768,)", "the image itself, averaged to 16 x 16 pixels"),
}

# The features of a STELLAR model that `extract` writes, and those it writes unless others are named.
OUTPUTS = tuple(name for name, feature in FEATURES.items() if feature.field is not None)
DEFAULT_OUTPUTS = ("S", "L", "pooled")

# The features that evaluation compares images by, and those that it compares patches by; the usual one first.
POOLINGS = ("pooled", "cls", "patches_mean", "S", "pixels")
DENSE = ("patches", "Z", "L")


def check_names(what: str, names: Iterable[str], allowed: Sequence[str]) -> None:
    """Raises ValueError if a name is not one of those allowed; for a name of an earlier release, it has the new name.

    Args:
        what: What the names are, such as "outputs".
        names: The names to check.
        allowed: The names that exist.
    """
    unknown = sorted(set(names) - set(allowed))
    if unknown:
        hints = "".join(hint_of_new_name("features", name) for name in unknown)
        raise ValueError(f"{what} must be one of {', '.join(allowed)}, got {', '.join(unknown)}{hints}")


def check_outputs(names: str | Iterable[str], allowed: Sequence[str] = OUTPUTS) -> tuple[str, ...]:
    """Returns the names of outputs in the order of the table.

    Args:
        names: The names to check.
        allowed: The names that exist.

    Raises:
        ValueError: if there are none, one is unknown or one is given twice.
    """
    given = [names] if isinstance(names, str) else list(names)
    check_names("outputs", given, allowed)
    if not given or len(set(given)) < len(given):
        raise ValueError(f"outputs must be some of {', '.join(allowed)}, each once, got {', '.join(given) or 'none'}")
    return in_table_order(given)


def in_table_order(names: Iterable[str]) -> tuple[str, ...]:
    """Returns names in the order of the table; names that are not in the table come last, in their own order."""
    given = list(names)
    return tuple([name for name in FEATURES if name in given] + [name for name in given if name not in FEATURES])


def needed_for(name: str) -> tuple[str, ...]:
    """Returns the features that a feature is made of: itself, unless the table derives it from others."""
    feature = FEATURES.get(name)
    return feature.made_of if feature is not None and feature.made_of else (name,)


def make_feature(name: str, parts: Mapping[str, Tensor]) -> Tensor:
    """Returns a feature `(B, ...)`, out of `parts` or derived from them.

    Args:
        name: Name of the feature.
        parts: Features `(B, ...)` by name; they hold the feature itself or all that `needed_for` names.
    """
    if name in parts:
        return parts[name]
    derive = FEATURES[name].derive
    assert derive is not None, f"{name} is not derived"
    return derive(*(parts[part] for part in needed_for(name)))


def select_features(output: Any, names: Iterable[str]) -> dict[str, Tensor]:
    """Returns features `(B, ...)` by name out of a `StellarModelOutput`."""
    fields = {name: FEATURES[name].field for name in OUTPUTS}
    found = {}
    for name in names:
        parts = {part: getattr(output, fields[part] or "") for part in needed_for(name)}
        found[name] = make_feature(name, parts)
    return found


def feature_shapes(config: Any, grid_size: tuple[int, int], names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a STELLAR model's features for one image.

    Args:
        config: A `StellarConfig`.
        grid_size: Height and width of the model's input, in patches.
        names: Names of features.
    """
    sizes = {"n": grid_size[0] * grid_size[1], "r": config.num_sparse_tokens, "d": config.hidden_size}
    return {name: tuple(sizes[part] for part in FEATURES[name].shape.strip("(,)").split(", ")) for name in names}


def table_of_features() -> str:
    """Returns the table in Markdown, as the docs show it."""
    lines = ["| name | kind | shape of a row | what it is | of a STELLAR model |", "|---|---|---|---|---|"]
    for name, feature in FEATURES.items():
        origin = f"`{feature.field}`" if feature.field else ", ".join(f"`{part}`" for part in feature.made_of) or "-"
        origin = f"from {origin}" if feature.made_of else origin
        lines.append(f"| `{name}` | {feature.kind} | `{feature.shape}` | {feature.meaning} | {origin} |")
    return "\n".join(lines)
