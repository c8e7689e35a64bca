"""Recall of each way to search a store, side by side, on drawn scenes whose objects are known.

    python benchmarks/retrieval_recall.py

Scenes of up to three objects of eight classes are drawn (seeds that stellar-tiny was not trained on) and extracted.
Each object in turn is looked for: by the pooled vector of its image (exactly, and through faiss), by the set of all
tokens, and by the one token that its pixels belong to most. A found image is right if it has an object of that class.
Reported is recall at 1, 5 and 10 (is one of the first k right?), how often the first image is right *and* the peak of
its token's map lies on an object of the class, and the time for a query. "any images" are drawn at random.
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
from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.to_store import extract_to_store

FIRST_SEED = 1_000_000  # not used for training
SIZE = 96
MAX_OBJECTS = 3
KS = (1, 5, 10)


class Found(NamedTuple):
    """Rows, best first, and for each the token that was found, where a token was looked for."""

    rows: Tensor
    tokens: Tensor | None = None


Search = Callable[["Queries"], Found]


class Queries(NamedTuple):
    """One query for each object: its row, its class, its token, and the features of its image."""

    rows: Tensor
    labels: list[str]
    tokens: Tensor  # (Q, d)
    pooled: Tensor  # (Q, d)
    sets: Tensor  # (Q, r, d)


def draw(folder: Path, count: int) -> list[Scene]:
    """Draw scenes and write them."""
    folder.mkdir()
    scenes = [draw_scene(FIRST_SEED + index, SIZE, MAX_OBJECTS, class_cue="color") for index in range(count)]
    for index, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(folder / f"{index:06d}.png")
    return scenes


def maps_in_pixels(store: FeatureStore, row: int) -> Tensor:
    """`L` of a row over its image, `(r, H, W)`."""
    record = store.records([row])[0]
    assert record.original_size is not None
    assert record.crop_box is not None
    grid_size = tuple(store.manifest.features["grid_size"])
    return resample_maps(store.read("L", [row])[0].float(), record.original_size, record.crop_box, grid_size)


def queries_of(store: FeatureStore, scenes: list[Scene], most: int) -> Queries:
    """The objects of the first scenes that the model sees a part of, at most so many."""
    rows, labels, tokens = [], [], []
    for row, scene in enumerate(scenes):
        maps, semantics = maps_in_pixels(store, row), store.read("S", [row])[0].float()
        for mask, label in zip(torch.from_numpy(scene.masks), scene.classes, strict=True):
            share = maps[:, mask].mean(dim=1)
            if len(rows) < most and share.max() > 0:
                rows.append(row)
                labels.append(label)
                tokens.append(semantics[share.argmax()])
    images = torch.tensor(rows)
    return Queries(
        images, labels, torch.stack(tokens), store.read("pooled", images).float(), store.read("S", images).float()
    )


def judge(store: FeatureStore, scenes: list[Scene], queries: Queries, found: Found) -> dict[str, float | None]:
    """Recall at each k and, where tokens were found, how often the first one points at the object."""
    right, pointing = [], []
    for query, label in enumerate(queries.labels):
        rows = found.rows[query].tolist()
        # Without itself, and without what faiss marks as not found.
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
    """Whether the peak of a token's map lies on an object of a class."""
    row_of_peak, column = divmod(int(maps_in_pixels(store, row)[token].argmax()), SIZE)
    masks = [mask for mask, name in zip(scene.masks, scene.classes, strict=True) if name == label]
    return any(bool(mask[row_of_peak, column]) for mask in masks)


def searches(store: FeatureStore) -> dict[str, Search]:
    """Each way to search, for one more than is judged: a query finds itself."""
    k = max(KS) + 1
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
        "any images": lambda queries: Found(torch.randint(len(store), (len(queries.rows), k), generator=generator)),
    }


def measure(store: FeatureStore, scenes: list[Scene], most: int) -> list[dict[str, Any]]:
    """One row of the table for each way to search."""
    queries = queries_of(store, scenes, most)
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
    """Draw, extract, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2000, help="(default: %(default)s)")
    parser.add_argument("--queries", type=int, default=500, help="at most (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = draw(folder / "scenes", args.scenes)
        model = StellarModel.from_pretrained("stellar-tiny", decoder=False)
        extract_to_store(model, open_sources([folder / "scenes"]), folder / "store")
        rows = measure(FeatureStore(folder / "store"), scenes, args.queries)
    print(f"{args.scenes} scenes, {rows[0]['queries']} objects looked for, stellar-tiny\n")
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
