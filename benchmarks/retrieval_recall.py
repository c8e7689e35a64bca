"""Compares the ways to search a store on drawn scenes whose objects are known.

    python benchmarks/retrieval_recall.py

The script draws scenes of up to three objects of eight classes, by seeds that stellar-tiny was not trained on, and
extracts their features. Then it searches for each object: by the pooled vector of its image (exactly and through
faiss), by the set of all tokens, and by the one token that the object's pixels belong to most. A found image is right
if it has an object of the same class. The table shows recall at 1, 5 and 10 (one of the first k images is right), how
often the first image is right and the peak of its token's map is on an object of the class, and the time per query.
"random images" is a search that draws images at random.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from stellar_hub import StellarModel
from stellar_hub.data.scenes.scene import Scene, draw_scene
from stellar_hub.data.sources import open_sources
from stellar_hub.modeling.localization_maps import resample_maps
from stellar_hub.retrieval import ApproximateIndex, search_concepts, search_images, search_sets
from stellar_hub.store import FeatureStore, extract_to_store

FIRST_SEED = 1_000_000  # training uses smaller seeds
SIZE = 96
MAX_OBJECTS = 3
KS = (1, 5, 10)


class Found(NamedTuple):
    """The result of a search: rows, the best first, and the token of each row if the search was by token."""

    rows: Tensor  # (Q, k)
    tokens: Tensor | None = None  # (Q, k)


Search = Callable[["Queries"], Found]


class Queries(NamedTuple):
    """Queries, one per object: the row of its image, its class, its token, and the features of its image."""

    rows: Tensor
    labels: list[str]
    tokens: Tensor  # (Q, d)
    pooled: Tensor  # (Q, d)
    sets: Tensor  # (Q, r, d)


def draw(folder: Path, count: int) -> list[Scene]:
    """Draws scenes and writes their images into a folder."""
    folder.mkdir()
    scenes = [draw_scene(FIRST_SEED + index, SIZE, MAX_OBJECTS, class_cue="color") for index in range(count)]
    for index, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(folder / f"{index:06d}.png")
    return scenes


def maps_in_pixels(store: FeatureStore, row: int) -> Tensor:
    """Returns the maps `L` of a row over its image, `(r, H, W)`."""
    record = store.records([row])[0]
    assert record.original_size is not None
    assert record.crop_box is not None
    grid_size = tuple(store.manifest.features["grid_size"])
    return resample_maps(store.read("L", [row])[0].float(), record.original_size, record.crop_box, grid_size)


def object_queries(store: FeatureStore, scenes: list[Scene], max_queries: int) -> Queries:
    """Returns queries for the objects of the first scenes that the model sees a part of."""
    rows, labels, tokens = [], [], []
    for row, scene in enumerate(scenes):
        maps, semantics = maps_in_pixels(store, row), store.read("S", [row])[0].float()
        for mask, label in zip(torch.from_numpy(scene.masks), scene.classes, strict=True):
            share = maps[:, mask].mean(dim=1)
            if len(rows) < max_queries and share.max() > 0:
                rows.append(row)
                labels.append(label)
                tokens.append(semantics[share.argmax()])
    images = torch.tensor(rows)
    return Queries(
        images, labels, torch.stack(tokens), store.read("pooled", images).float(), store.read("S", images).float()
    )


def judge(store: FeatureStore, scenes: list[Scene], queries: Queries, found: Found) -> dict[str, float | None]:
    """Computes recall at each k and, for a search by token, how often the first token points at the object."""
    right, pointing = [], []
    for query, label in enumerate(queries.labels):
        rows = found.rows[query].tolist()
        # Without the query itself, and without -1, by which faiss marks a missing hit.
        places = [place for place, row in enumerate(rows) if row not in (-1, int(queries.rows[query]))][: max(KS)]
        hits = [label in scenes[rows[place]].classes for place in places]
        right.append(hits + [False] * (max(KS) - len(hits)))
        if found.tokens is not None:
            first = rows[places[0]]
            pointing.append(points_at(store, scenes[first], first, int(found.tokens[query, places[0]]), label))
    judged = torch.tensor(right)
    recall: dict[str, float | None] = {f"recall_at_{k}": judged[:, :k].any(dim=1).float().mean().item() for k in KS}
    return recall | {"pointing": sum(pointing) / len(pointing) if pointing else None}


def points_at(store: FeatureStore, scene: Scene, row: int, token: int, label: str) -> bool:
    """Returns whether the peak of a token's map is on an object of a class."""
    row_of_peak, column = divmod(int(maps_in_pixels(store, row)[token].argmax()), SIZE)
    masks = [mask for mask, name in zip(scene.masks, scene.classes, strict=True) if name == label]
    return any(bool(mask[row_of_peak, column]) for mask in masks)


def searches(store: FeatureStore) -> dict[str, Search]:
    """Returns each way to search, by name."""
    k = max(KS) + 1  # a query also finds itself
    index = ApproximateIndex.build(store, factory="HNSW32")
    generator = torch.Generator().manual_seed(0)

    def by_token(queries: Queries) -> Found:
        hits = search_concepts(store, queries.tokens, k)
        return Found(hits.rows, hits.tokens)

    return {
        "pooled, exact": lambda queries: Found(search_images(store, queries.pooled, k).rows),
        "pooled, faiss HNSW32": lambda queries: Found(index.search(queries.pooled, k).rows),
        "sets, all": lambda queries: Found(search_sets(store, queries.sets, k).rows),
        "sets, of 100 by pooled": lambda queries: Found(search_sets(store, queries.sets, k, 100).rows),
        "one token": by_token,
        "random images": lambda queries: Found(torch.randint(len(store), (len(queries.rows), k), generator=generator)),
    }


def measure(store: FeatureStore, scenes: list[Scene], max_queries: int) -> list[dict[str, Any]]:
    """Returns one row of the table per way to search."""
    queries = object_queries(store, scenes, max_queries)
    rows = []
    for name, search in searches(store).items():
        start = time.perf_counter()
        found = search(queries)
        seconds = time.perf_counter() - start
        rows.append(
            {"search": name, "queries": len(queries.rows), "ms_per_query": 1e3 * seconds / len(queries.rows)}
            | judge(store, scenes, queries, found)
        )
    return rows


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2000, help="number of scenes (default: %(default)s)")
    parser.add_argument(
        "--queries", type=int, default=500, help="maximum number of objects to search for (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = draw(folder / "scenes", args.scenes)
        model = StellarModel.from_pretrained("stellar-tiny", decoder=False)
        extract_to_store(model, open_sources([folder / "scenes"]), folder / "store")
        rows = measure(FeatureStore(folder / "store"), scenes, args.queries)
    print(f"{args.scenes} scenes, {rows[0]['queries']} objects searched for, stellar-tiny\n")
    print("| search | recall@1 | recall@5 | recall@10 | right, and points at it | ms per query |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        recall = " | ".join(f"{row[f'recall_at_{k}']:.3f}" for k in KS)
        pointing = "-" if row["pointing"] is None else f"{row['pointing']:.3f}"
        print(f"| {row['search']} | {recall} | {pointing} | {row['ms_per_query']:.2f} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
