"""The manifest: what made a store. Two stores with the same model and preprocessing can be compared."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stellar_hub.features.identity import sha256_of_json
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.store.layout import MANIFEST, num_shards, rows_of_shard

FORMAT = 1
NOT_IDENTITY = ("counts", "source.names")  # where images lie says nothing of what they are


@dataclass(frozen=True)
class Manifest:
    """What made a store, and what is in it. There is no time in it, and nothing of the machine.

    Attributes:
        library: Name and version.
        model: `name`, `revision`, `weights_sha256` and `dtype` of the weights.
        preprocessing: `id`, and the `settings` of the image processor that it is the SHA-256 of.
        features: `shapes` for one row by name, `dtype`, `precision`, `batch_size`, `grid_size`.
        source: `fingerprint`, `names` and `num_images`.
        shard_rows: Rows of a shard; the last one may be shorter.
        counts: `ok` and `error`: rows by status; None while the store is not complete.
        format: Of the store.
    """

    library: str
    model: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    features: Mapping[str, Any]
    source: Mapping[str, Any]
    shard_rows: int
    counts: Mapping[str, int] | None = None
    format: int = FORMAT

    @property
    def num_rows(self) -> int:
        """Rows of the store, those with an error included."""
        return int(self.source["num_images"])

    @property
    def num_shards(self) -> int:
        """Shards of the store."""
        return num_shards(self.num_rows, self.shard_rows)

    def rows_of_shard(self, number: int) -> range:
        """The rows of a shard."""
        return rows_of_shard(number, self.num_rows, self.shard_rows)

    @property
    def plan(self) -> str:
        """SHA-256 of all that decides what the store's shards hold."""
        return sha256_of_json({name: value for name, value in flat(asdict(self)).items() if name not in NOT_IDENTITY})

    def with_counts(self, num_ok: int, num_errors: int) -> "Manifest":
        """The manifest of the complete store."""
        return replace(self, counts={"ok": num_ok, "error": num_errors})

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        write_atomically(folder / MANIFEST, (json.dumps(asdict(self), indent=2, sort_keys=True) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read a store's.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is damaged, or of a format this version does not know.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is no feature store: it has no {MANIFEST}")
        try:
            manifest = cls(**json.loads(path.read_bytes()))
            _ = manifest.num_shards, manifest.features["shapes"], manifest.model["weights_sha256"]
        except (ValueError, TypeError, LookupError, ZeroDivisionError) as error:
            raise ValueError(f"{path} is damaged ({error})") from error
        if manifest.format != FORMAT:
            raise ValueError(f"{path} is of format {manifest.format}, this version of stellar_hub reads {FORMAT}")
        return manifest


def differences(old: Manifest, new: Manifest) -> list[str]:
    """One line for each value that decides what is in the shards and is not the same.

    For example "features.dtype: float16 in the store, float32 now".
    """
    before, now = flat(asdict(old)), flat(asdict(new))
    names = [name for name in dict.fromkeys([*before, *now]) if name not in NOT_IDENTITY]
    return [
        f"{name}: {before.get(name)} in the store, {now.get(name)} now"
        for name in names
        if before.get(name) != now.get(name)
    ]


def incompatibilities(one: Manifest, other: Manifest) -> list[str]:
    """Why features of two stores must not be compared: another model, or other preprocessing."""
    lines = []
    if one.model["weights_sha256"] != other.model["weights_sha256"]:
        lines.append(f"model: {spell_model(one)} and {spell_model(other)}")
    if one.preprocessing["id"] != other.preprocessing["id"]:
        settings, others = one.preprocessing["settings"], other.preprocessing["settings"]
        lines += [
            f"preprocessing: {name} {settings.get(name)} and {others.get(name)}"
            for name in sorted({*settings, *others})
            if settings.get(name) != others.get(name)
        ]
    return lines


def spell_model(manifest: Manifest) -> str:
    """A model's name, and the beginning of its weights' SHA-256."""
    return f"{manifest.model['name']} (weights {manifest.model['weights_sha256'][:12]})"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with names such as "model.revision"; tuples become lists, as in JSON."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and prefix + name not in NOT_IDENTITY:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = list(value) if isinstance(value, tuple) else value
    return found
