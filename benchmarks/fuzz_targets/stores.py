"""Damaged feature stores with a segment: changed bytes and cut files, edited manifests, shards that are exchanged.

What is read of a damaged store must be what was written, or be refused: features, records, hits of a search through
the store or through a faiss index, and decoded images.
"""

import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fuzz_targets import SilentDifference, refusal
from stellar_hub.data.sources import open_sources
from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.retrieval import ApproximateIndex, search_concepts, search_images
from stellar_hub.store import ExtractionOptions, FeatureStore, extract_to_store

NUM_IMAGES, NUM_FIRST, SHARD_ROWS = 14, 9, 4  # the first rows, and a segment
INDEX_OF_FAISS = "index.faiss"
TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "num_sparse_tokens": 2,
    "reconstruction_head": "pixel",
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
}
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**31,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "../../../etc/passwd",
    "\x1b[2J\x1b[31mred",
    "a\nb",
    "x" * 100_000,
    [],
    [[]],
    {},
    {"ok": 10**30, "error": -1},
    ["../.."],
)
_state: dict[str, Any] = {}


def model() -> StellarModel:
    """The model of all stores, the same in every process."""
    if "model" not in _state:
        torch.manual_seed(0)
        _state["model"] = StellarModel(StellarConfig(**TINY)).eval()
    return _state["model"]  # type: ignore[no-any-return]


def whole_store() -> Path:
    """An undamaged store with its faiss index and another store of other images; made once for each process."""
    if "whole" not in _state:
        _state["folder"] = tempfile.TemporaryDirectory(prefix="fuzz-stores-")  # removed when the process ends
        base = Path(_state["folder"].name)
        for name, start in (("whole", 0), ("other", 100)):
            images = base / f"{name}-images"
            images.mkdir()
            options = ExtractionOptions(("S", "L", "pooled"), "float32", batch_size=4, shard_rows=SHARD_ROWS)
            for numbers in (range(NUM_FIRST), range(NUM_FIRST, NUM_IMAGES)):
                for index in numbers:
                    path = images / f"{index:02d}.png"
                    Image.new("RGB", (16, 16), (start + 7 * index, 90, 255 - 9 * index)).save(path)
                    if index == 3:
                        path.write_text("no image")
                source, given = open_sources([images]), {"num_workers": 0, "show_progress": False}
                extract_to_store(model(), source, base / name, options, append=True, **given)  # type: ignore[arg-type]
        store = FeatureStore(base / "whole")
        ApproximateIndex.build(store, factory="Flat").save(base / "whole" / f".{INDEX_OF_FAISS}")
        _state["whole"] = base / "whole"
        _state["expected"] = read_all(base / "whole")
    return _state["whole"]  # type: ignore[no-any-return]


def prepare() -> None:
    """Makes the model and what an undamaged store gives; the files are not needed here."""
    whole_store()
    _state["folder"].cleanup()


def read_all(folder: Path) -> dict[str, Any]:
    """Everything that a user reads of a store."""
    store = FeatureStore(folder)
    queries = torch.linspace(-1, 1, TINY["hidden_size"])[None]  # type: ignore[call-overload]
    index = ApproximateIndex.load(folder / f".{INDEX_OF_FAISS}", store)
    return {
        "counts": store.counts,
        "features": {name: store[name].clone() for name in store.outputs},
        "records": [
            vars(record) | {"image": Path(record.image).name, "error": None, "roots": ()} for record in store.records()
        ],
        "ok": store.ok,
        "images": search_images(store, queries, 5).rows,
        "concepts": search_concepts(store, queries, 5).rows,
        "approximate": index.search(queries, 5).rows,
        "decoded": [image.tobytes() for image in store.decode([0, 9, 13], model())],
        "names": list(store.manifest.source["names"]),
        "model": store.manifest.model["name"],
    }


def make(rng: random.Random, folder: Path) -> Path:
    """A copy of the store with one or several damages."""
    path = folder / "store"
    shutil.copytree(whole_store(), path)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice((flip, flip, flip, cut, edit_manifest, edit_manifest, exchange))(rng, path)
    return path


def attempt(path: Path) -> str:
    """Opens the store and reads all of it, with every search and a decoder."""
    try:
        found = read_all(path)
        lines = FeatureStore(path).verify()
    except (ValueError, OSError, KeyError, IndexError) as error:
        return refusal(error)
    if lines:
        raise SilentDifference(f"verify finds {lines[0]!r}, and reading does not")
    for name, value in _state["expected"].items():
        if name not in ("names", "model") and not same(found[name], value):
            raise SilentDifference(f"{name} differs")
    return "ok" if found["model"] == _state["expected"]["model"] else "other name"


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal; NaN is equal to NaN."""
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(9e9), other.nan_to_num(9e9))
    if isinstance(one, dict):
        return set(one) == set(other) and all(same(one[name], other[name]) for name in one)
    return bool(one == other)


def any_file(rng: random.Random, path: Path) -> Path:
    """A file of the store."""
    return rng.choice(sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size))


def flip(rng: random.Random, path: Path) -> None:
    """Changes some bytes of a file; half of the time those that describe the rest, at its beginning or its end."""
    file = any_file(rng, path)
    data = bytearray(file.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 8))):
        near = min(len(data), 1500)
        place = rng.choice((rng.randrange(len(data)), rng.randrange(near), len(data) - 1 - rng.randrange(near)))
        data[place] = rng.choice((data[place] ^ (1 << rng.randrange(8)), rng.randrange(256)))
    file.write_bytes(data)


def cut(rng: random.Random, path: Path) -> None:
    """Cuts a file short, makes it longer, empties or removes it."""
    file = any_file(rng, path)
    data = file.read_bytes()
    if rng.random() < 0.2:
        file.unlink()
    else:
        file.write_bytes(rng.choice((data[: rng.randrange(len(data))], data + b"\0" * rng.randrange(1, 99), b"")))


def edit_manifest(rng: random.Random, path: Path) -> None:
    """Gives a field of the manifest another value, removes it, or adds one."""
    file = rng.choice(sorted(path.rglob("manifest.json")))
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError):
        return
    place, name = rng.choice(list(_fields(values)) or [(values, "format")])
    action = rng.random()
    if action < 0.1:
        place.pop(name, None)
    elif action < 0.15:
        place["more\x1b"] = 1
    elif action < 0.3 and isinstance(place[name], int) and not isinstance(place[name], bool):
        place[name] += rng.choice((-1, 1))
    else:
        place[name] = rng.choice(VALUES)
    file.write_text(json.dumps(values))


def _fields(values: dict[str, Any]) -> Any:
    """Yields every object of a manifest with each of its keys."""
    for name, value in values.items():
        yield values, name
        if isinstance(value, dict):
            yield from _fields(value)


def exchange(rng: random.Random, path: Path) -> None:
    """Exchanges two shards, or takes a file of another store."""
    shards = sorted(path.rglob("*.safetensors"))
    other = whole_store().parent / "other"
    if rng.random() < 0.5 and len(shards) > 1:
        one, two = rng.sample(shards, 2)
        data = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(data)
        return
    file = rng.choice(sorted(file for file in other.rglob("*") if file.is_file() and file.stat().st_size))
    (path / file.relative_to(other)).write_bytes(file.read_bytes())
