"""The folder of a store: the names of its files, and its manifest."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stellar_hub.features.identity import DECODER, PILLOW, sha256_of_json, with_decoder
from stellar_hub.features.names import in_table_order
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.old_names import old_names
from stellar_hub.store.manifest_fields import check_fields, read_json

FORMAT = 1
MANIFEST = "manifest.json"
INDEX = "index.parquet"
SHARDS = "shards"
SEGMENTS = "segments"
LOCK = ".lock"
_OF_SYSTEMS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin", "lost+found")

_NOT_IDENTITY = ("counts", "source.names")  # the place of images says nothing about their content
# What a segment need not have in common with the first rows of its store, beside its images: how it was worked on.
_FREE_IN_SEGMENTS = (
    "library",
    "model.name",
    "model.revision",
    "features.batch_size",
    "source",
    "shard_rows",
    "segment",
)
_NUM_IMAGES = "num_images"
_NUM_IMAGES_ON_DISK = old_names("store_format_1")[_NUM_IMAGES]  # format 1 keeps the name it began with


def shard_path(folder: Path, number: int) -> Path:
    """Returns the file of a shard."""
    return folder / SHARDS / f"{number:06d}.safetensors"


def spell_rows(rows: range) -> str:
    """Returns rows as errors name them: "row 7" or "rows 8 to 15"."""
    return f"row {rows.start}" if len(rows) == 1 else f"rows {rows.start} to {rows.stop - 1}"


def unknown_files(folder: Path) -> list[str]:
    """Returns the names in a folder that do not belong to a store.

    Hidden files, and those that file managers and file systems leave in folders, are passed over.
    """
    own = {MANIFEST, INDEX, SHARDS, SEGMENTS}
    return sorted(name for name in os.listdir(folder) if name not in own and not is_passed_over(name))


def is_passed_over(name: str) -> bool:
    """Whether a file in a store is hidden, or one that file managers and file systems leave in folders."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def remove_unfinished(path: Path) -> None:
    """Removes what killed processes left while they wrote a file; no process may be writing it now."""
    for leftover in list(_unfinished(path)):
        leftover.unlink(missing_ok=True)


def remove_all_unfinished(folder: Path) -> None:
    """Removes what killed processes left in a store; no process may be writing into it now."""
    for place in (folder, folder / SHARDS):
        for name in os.listdir(place) if place.is_dir() else []:
            if _is_unfinished(name) and (place / name).is_file():
                (place / name).unlink(missing_ok=True)


def _is_unfinished(name: str) -> bool:
    """Whether a killed process left this file while it wrote another one (see `modeling/atomic_write.py`)."""
    return name.startswith(".") and name.endswith(".part")


def _unfinished(path: Path) -> Iterator[Path]:
    if path.parent.is_dir():
        for name in os.listdir(path.parent):
            if _is_unfinished(name) and name.startswith(f".{path.name}."):
                yield path.parent / name


class UnknownFormatError(ValueError):
    """The manifest of a store has a format that this version does not read."""


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file of a store that no other process writes, the whole file or nothing.

    Raises:
        OSError: if it cannot be written, for example because the disk is full; the message names the file.
    """
    remove_unfinished(path)
    write_atomically(path, data)


@dataclass(frozen=True)
class Manifest:
    """What made a store, and what is in it. It holds no time and nothing about the machine.

    Two stores with the same model and the same preprocessing can be compared.

    Attributes:
        library: Name and version of this library.
        model: `name`, `revision`, `weights_sha256` and `dtype` of the model; models of other libraries have their
            `kind` as well.
        preprocessing: `id`, and the `settings` that the id is the SHA-256 of.
        features: `shapes` of one row by name, `dtype`, `precision`, `batch_size` and `grid_size`.
        source: `fingerprint`, `names` and `num_images`.
        shard_rows: Number of rows in a shard; the last shard may be shorter.
        counts: Number of rows by status, `ok` and `error`; None while the store is not complete.
        format: Version of the format on disk.
        segment: Of rows that an append added: their `number`, `first_row`, and in `after` the identity of the
            extraction before. None of the first rows of a store.
    """

    library: str
    model: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    features: Mapping[str, Any]
    source: Mapping[str, Any]
    shard_rows: int
    counts: Mapping[str, int] | None = None
    format: int = FORMAT
    segment: Mapping[str, Any] | None = None

    @property
    def num_rows(self) -> int:
        """Number of rows, those with an error included."""
        return int(self.source[_NUM_IMAGES])

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_rows // self.shard_rows)

    @property
    def decoder(self) -> str:
        """What decoded the JPEGs: "pillow", "nvjpeg" or "libjpeg-turbo"."""
        return str(self.preprocessing["settings"].get(DECODER, PILLOW))

    @property
    def fit_id(self) -> str:
        """Id of the preprocessing without its decoder: the same images are fitted in the same way."""
        if self.decoder == PILLOW:
            return str(self.preprocessing["id"])
        return sha256_of_json(with_decoder(self.preprocessing, PILLOW)["settings"])

    @property
    def rows(self) -> range:
        """All rows; those of a segment go on where the rows before it end."""
        first = 0 if self.segment is None else int(self.segment["first_row"])
        return range(first, first + self.num_rows)

    def rows_of_shard(self, number: int) -> range:
        """Returns the rows of a shard."""
        return self.rows[number * self.shard_rows : (number + 1) * self.shard_rows]

    @property
    def plan(self) -> str:
        """SHA-256 of all that decides the content of the shards."""
        values = _flat(self._on_disk())
        return sha256_of_json({name: value for name, value in values.items() if name not in _NOT_IDENTITY})

    def with_counts(self, num_ok: int, num_errors: int) -> "Manifest":
        """Returns the manifest of the complete store."""
        return replace(self, counts={"ok": num_ok, "error": num_errors})

    def write(self, folder: Path) -> None:
        """Writes the manifest into a folder, the whole file or nothing."""
        text = json.dumps(self._on_disk(), indent=2, sort_keys=True) + "\n"
        write_atomically(folder / MANIFEST, text.encode())  # other processes may be writing it too

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads the manifest of a store.

        Raises:
            FileNotFoundError: if the manifest does not exist.
            ValueError: if it is damaged, or this version does not know its format.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"{one_line(folder)} is not a feature store: it has no {MANIFEST}")
        try:
            values = read_json(path)
            if isinstance(values.get("source"), dict):
                values["source"] = _renamed(values["source"], _NUM_IMAGES_ON_DISK, _NUM_IMAGES)
            found = values.get("format", FORMAT)
            if isinstance(found, int) and found > FORMAT:
                raise UnknownFormatError(
                    f"{one_line(path)} has format {one_line(found, 20)}, this version of stellar_hub reads format "
                    f"{FORMAT}"
                )
            check_fields({"format": FORMAT, **values})
            manifest = cls(**values)
        except UnknownFormatError:
            raise
        except (ValueError, TypeError, LookupError) as error:
            raise ValueError(f"{one_line(path)} is damaged ({one_line(error)})") from error
        if manifest.counts is not None and sum(manifest.counts.values()) != manifest.num_rows:
            raise ValueError(f"{one_line(path)} is damaged (counts are not those of {manifest.num_rows} rows)")
        return manifest

    def _on_disk(self) -> dict[str, Any]:
        values = asdict(self)
        if self.segment is None:  # as in stores that earlier releases wrote
            del values["segment"]
        return values | {"source": _renamed(values["source"], _NUM_IMAGES, _NUM_IMAGES_ON_DISK)}


def differences(old: Manifest, new: Manifest, but: Sequence[str] = ()) -> list[str]:
    """Returns one line for each differing value that decides the content of the shards.

    For example "features.dtype: float16 in the store, float32 now". Values that are digests are told in words.

    Args:
        old: Manifest of a store.
        new: Manifest of an extraction.
        but: Names of values, or of objects of values such as "source", that may differ.
    """
    before, now = _flat(asdict(old)), _flat(asdict(new))
    free = (*_NOT_IDENTITY, *but)
    names = [name for name in dict.fromkeys([*before, *now]) if name not in free and name.split(".")[0] not in free]
    changed = [name for name in names if before.get(name) != now.get(name)]
    outputs = [list(in_table_order(manifest.features["shapes"])) for manifest in (old, new)]
    lines = []
    if set(outputs[0]) != set(outputs[1]):
        lines.append(f"the store holds {_listed(outputs[0])}, and this extraction asks for {_listed(outputs[1])}")
        changed = [name for name in changed if not _is_of_one(name, outputs)]
    if old.decoder != new.decoder:
        lines.append(f"decoder: {old.decoder} in the store, {new.decoder} now")
        told = {f"preprocessing.settings.{DECODER}", *(("preprocessing.id",) if old.fit_id == new.fit_id else ())}
        changed = [name for name in changed if name not in told]
    for told, line in (_other_images(old, new, changed), _other_model(old, new, changed)):
        lines += [line] if line else []
        changed = [name for name in changed if name not in told]
    if any(name.startswith("preprocessing.settings.") for name in changed):
        changed.remove("preprocessing.id")
    lines += [f"{name}: {before.get(name)} in the store, {now.get(name)} now" for name in changed]
    return [one_line(line) for line in lines]


def differences_of_segment(base: Manifest, segment: Manifest) -> list[str]:
    """Returns why rows cannot follow those of a store: another model, preprocessing, features, dtype or precision."""
    return differences(base, segment, _FREE_IN_SEGMENTS)


def _other_images(old: Manifest, new: Manifest, changed: Sequence[str]) -> tuple[set[str], str]:
    """Returns the values that tell of other images, and a line about them; "" if the images are the same."""
    told = {"source.fingerprint", f"source.{_NUM_IMAGES}"}
    if not told.intersection(changed):
        return set(), ""
    names = [mask_secrets(", ".join(each.source["names"])) or "a source without a name" for each in (old, new)]
    line = f"images: {old.num_rows:,} of {names[0]} in the store, {new.num_rows:,} of {names[1]} now"
    return told, f"{line}; their names or sizes differ" if old.num_rows == new.num_rows else line


def _other_model(old: Manifest, new: Manifest, changed: Sequence[str]) -> tuple[set[str], str]:
    """Returns the values that tell of another model, and a line about them; "" if the weights are the same."""
    if "model.weights_sha256" not in changed:
        return set(), ""
    names = [str(each.model["name"] or "a model without a name") for each in (old, new)]
    told = {"model.name", "model.revision", "model.weights_sha256"}
    if names[0] == names[1]:
        return told, f"model: the weights of {names[0]} have changed since"
    return told, f"model: {names[0]} in the store, {names[1]} now"


def _listed(names: Sequence[str]) -> str:
    """Returns "S, L and pooled"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _is_of_one(name: str, outputs: list[list[str]]) -> bool:
    """Whether a value is the shape of a feature that only one of two stores has."""
    feature = name.removeprefix("features.shapes.")
    return feature != name and (feature in outputs[0]) != (feature in outputs[1])


def incompatibilities(one: Manifest, other: Manifest) -> list[str]:
    """Returns why the features of two stores cannot be compared: another model, or other preprocessing."""
    lines = []
    if one.model["weights_sha256"] != other.model["weights_sha256"]:
        lines.append(f"model: {_spell_model(one)} and {_spell_model(other)}")
    if one.preprocessing["id"] != other.preprocessing["id"]:
        settings, others = one.preprocessing["settings"], other.preprocessing["settings"]
        changed = [
            f"preprocessing: {name} {settings.get(name)} and {others.get(name)}"
            for name in sorted({*settings, *others} - {DECODER})
            if settings.get(name) != others.get(name)
        ]
        if one.decoder != other.decoder:
            changed.append(f"decoder: {one.decoder} and {other.decoder}")
        lines += changed or ["preprocessing: another id"]
    return [one_line(line) for line in lines]


def _spell_model(manifest: Manifest) -> str:
    return f"{manifest.model['name']} (weights {manifest.model['weights_sha256'][:12]})"


def _renamed(values: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if name == old else name: value for name, value in values.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings as one, with names such as "model.revision"; tuples become lists, as in JSON."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and prefix + name not in _NOT_IDENTITY:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = list(value) if isinstance(value, tuple) else value
    return found
