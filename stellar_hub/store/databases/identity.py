"""What a collection, a table or a file knows of the features in it: model, preprocessing, shapes, dtype."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.store.databases.outgoing import Export
from stellar_hub.store.manifest import Manifest, incompatibilities
from stellar_hub.version import __version__

KEY = "stellar_hub"  # of the identity in metadata


def identity_of(export: Export) -> dict[str, Any]:
    """Returns what identifies the features of an export, as JSON has it."""
    manifest = export.store.manifest
    model = {"name": mask_secrets(manifest.model["name"]), "weights_sha256": manifest.model["weights_sha256"]}
    identity = {
        "library": f"stellar_hub {__version__}",
        "model": model,
        "preprocessing": dict(manifest.preprocessing),
        "vectors": {name: list(export.store.shape(name)) for name in export.outputs},
        "dtype": export.dtype,
    }
    found: dict[str, Any] = json.loads(json.dumps(identity))
    return found


def check_identity(target: str, known: Any, export: Export) -> None:
    """Raises ValueError unless what is in a target may stand beside the features of an export.

    Args:
        target: What holds the features, such as "the collection photos"; it begins the message.
        known: The identity that was found there; None if there is none.
        export: What would be added.
    """
    other = f"name another {target.split()[1]}, or delete this one first"
    if known is None:
        raise ValueError(f"{target} exists, and no export of stellar_hub made it: {other}")
    try:
        lines = [*_of_models(known, export), *_of_vectors(known, export)]
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{target} has a damaged identity ({one_line(error, 80)}): {other}") from error
    if lines:
        store = one_line(export.store.path)
        raise ValueError(f"{target} and {store} cannot be mixed; they differ in {'; '.join(lines)}: {other}")


def _of_models(known: Mapping[str, Any], export: Export) -> list[str]:
    manifest = Manifest(
        library="", model=known["model"], preprocessing=known["preprocessing"], features={}, source={}, shard_rows=1
    )
    return incompatibilities(manifest, export.store.manifest)


def _of_vectors(known: Mapping[str, Any], export: Export) -> list[str]:
    own = identity_of(export)
    if known["vectors"] == own["vectors"] and known["dtype"] == own["dtype"]:
        return []
    return [one_line(f"vectors: {_spell(known)} and {_spell(own)}")]


def _spell(identity: Mapping[str, Any]) -> str:
    vectors: Mapping[str, Sequence[int]] = identity["vectors"]
    shapes = ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in sorted(vectors.items()))
    return f"{shapes} {identity['dtype']}"
