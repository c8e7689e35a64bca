"""STELLAR sparse visual tokens: encode an image to `(S, L)`, decode it back.

    >>> from stellar_hub import StellarImageProcessor, StellarModel
    >>> model = StellarModel.from_pretrained("stellar-tiny")
    >>> processor = StellarImageProcessor.from_pretrained("stellar-tiny")

Importing this package loads nothing heavy; torch and transformers come with the first class that is touched.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from stellar_hub.version import __version__

if TYPE_CHECKING:
    from stellar_hub.modeling import (
        StellarConfig,
        StellarEncoding,
        StellarForImageClassification,
        StellarImageProcessor,
        StellarModel,
        StellarModelOutput,
    )
    from stellar_hub.registry import list_models
    from stellar_hub.store import FeatureStore
    from stellar_hub.training import StellarForPreTraining

_HOME = {
    "FeatureStore": "stellar_hub.store",
    "StellarConfig": "stellar_hub.modeling",
    "StellarEncoding": "stellar_hub.modeling",
    "StellarForImageClassification": "stellar_hub.modeling",
    "StellarForPreTraining": "stellar_hub.training",
    "StellarImageProcessor": "stellar_hub.modeling",
    "StellarModel": "stellar_hub.modeling",
    "StellarModelOutput": "stellar_hub.modeling",
    "list_models": "stellar_hub.registry",
}

__all__ = [
    "FeatureStore",
    "StellarConfig",
    "StellarEncoding",
    "StellarForImageClassification",
    "StellarForPreTraining",
    "StellarImageProcessor",
    "StellarModel",
    "StellarModelOutput",
    "__version__",
    "list_models",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _no_collections():
        value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


@contextmanager
def _no_collections() -> Iterator[None]:
    """Pauses the search for unused objects: thousands of new classes and functions all stay, and it takes 0.4 s."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def __dir__() -> list[str]:
    return sorted(__all__)
