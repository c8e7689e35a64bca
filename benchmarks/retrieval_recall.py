"""Compares the ways to search a store: on drawn scenes whose objects are known, and on a large store.

    OMP_NUM_THREADS=1 python benchmarks/retrieval_recall.py

The script draws scenes of up to three objects of eight classes, by seeds that stellar-tiny was not trained on, and
extracts their features. Then it searches for each object: by the pooled vector of its image (exactly and through
faiss), by the set of all tokens (MaxSim or transport), and by the one token that the object's pixels belong to most. A
found image is right if it has an object of the same class. The first table shows recall at 1, 5 and 10 (one of the
first k images is right), and how often the first image is right and the peak of its token's map is on an object of the
class. "random images" is a search that draws images at random.

The second table is about a large store, whose sets of tokens are recombined from those of the scenes, in several stored
types. It shows which share of the ten best images of exact MaxSim, on float32, a search finds. The third table shows
the same share for first stages of a search in two stages: pooled vectors, and fixed-dimension encodings as those of
MUVERA (arXiv 2405.19504), each with 100 candidates.

All searches take turns in one process. Times are medians of CPU time, which other work on the machine changes little:
with one thread, it is the time that a search takes on a core of its own. "In a batch" is the time for each of several
queries that are asked together. Memory is the most that the searches of a batch need in addition to the
store, which lies in the system's file cache. Needs 4 GB of disk and of memory.
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
from fresh_memory import interleaved_seconds, peak_memory
from PIL import Image
from recombined_images import NUM_CANDIDATES, NUM_STAGED, first_stage_rows, large_store_rows
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
REPEATS = 3
BATCH = 10  # queries that are asked together to measure time and memory


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

    def first(self, count: int) -> "Queries":
        """Returns the first queries."""
        return Queries(*(part[:count] for part in self))


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
        "sets, MaxSim": lambda queries: Found(search_sets(store, queries.sets, k).rows),
        "sets, MaxSim of 100 by pooled": lambda queries: Found(
            search_sets(store, queries.sets, k, num_candidates=100).rows
        ),
        "sets, transport": lambda queries: Found(search_sets(store, queries.sets, k, "transport").rows),
        "sets, transport of 100 by pooled": lambda queries: Found(
            search_sets(store, queries.sets, k, "transport", num_candidates=100).rows
        ),
        "one token": by_token,
        "random images": lambda queries: Found(torch.randint(len(store), (len(queries.rows), k), generator=generator)),
    }


def measure(store: FeatureStore, scenes: list[Scene], max_queries: int) -> list[dict[str, Any]]:
    """Returns one row of the table per way to search."""
    queries = object_queries(store, scenes, max_queries)
    ways = searches(store)
    one, batch = queries.first(1), queries.first(BATCH)
    alone = interleaved_seconds(list(ways), lambda name: ways[name](one), REPEATS, time.process_time)
    together = interleaved_seconds(list(ways), lambda name: ways[name](batch), REPEATS, time.process_time)
    return [
        {
            "search": name,
            "queries": len(queries.rows),
            "ms_alone": 1e3 * alone[name],
            "ms_in_batch": 1e3 * together[name] / len(batch.rows),
            "peak_mb": peak_memory(lambda search=search: search(batch)) / 1e6,
        }
        | judge(store, scenes, queries, search(queries))
        for name, search in ways.items()
    ]


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2000, help="number of scenes (default: %(default)s)")
    parser.add_argument(
        "--queries", type=int, default=200, help="maximum number of objects to search for (default: %(default)s)"
    )
    parser.add_argument(
        "--recombined",
        type=int,
        default=100_000,
        help="number of images in the large store, 0 for none (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = draw(folder / "scenes", args.scenes)
        model = StellarModel.from_pretrained("stellar-tiny", decoder=False)
        extract_to_store(model, open_sources([folder / "scenes"]), folder / "store")
        store = FeatureStore(folder / "store")
        rows = measure(store, scenes, args.queries)
        print_recall(rows, args.scenes)
        if args.recombined:
            large = large_store_rows(store, folder, args.recombined)
            stages = first_stage_rows(store, args.recombined)
            print_large(large, stages, args.recombined)
            rows = [*rows, *large, *stages]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


def print_recall(rows: list[dict[str, Any]], num_scenes: int) -> None:
    """Prints the table of the scenes."""
    print(f"{num_scenes} scenes, {rows[0]['queries']} objects searched for, stellar-tiny\n")
    print(
        "| search | recall@1 | recall@5 | recall@10 | right, and points at it | ms, one query | ms, in a batch | MB |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        recall = " | ".join(f"{row[f'recall_at_{k}']:.3f}" for k in KS)
        pointing = "-" if row["pointing"] is None else f"{row['pointing']:.3f}"
        print(
            f"| {row['search']} | {recall} | {pointing} | {row['ms_alone']:.1f} | {row['ms_in_batch']:.2f} | "
            f"{row['peak_mb']:.0f} |"
        )


def print_large(rows: list[dict[str, Any]], stages: list[dict[str, Any]], num_images: int) -> None:
    """Prints the tables of the large store and of the first stages."""
    print(f"\n{num_images:,} recombined images\n")
    print("| search | stored as | GB | of the exact ten | ms, one query | ms, in a batch | MB |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['search']} | {row['dtype']} | {row['gigabytes']:.2f} | {row['share']:.3f} | "
            f"{row['ms_alone']:.0f} | {row['ms_in_batch']:.1f} | {row['peak_mb']:.0f} |"
        )
    print(f"\n{NUM_CANDIDATES} candidates of the scenes and of {min(num_images, NUM_STAGED):,} recombined images\n")
    print("| first stage | numbers per image | scenes | recombined images |\n|---|---|---|---|")
    for row in stages:
        print(f"| {row['stage']} | {row['numbers']} | {row['scenes']:.3f} | {row['recombined']:.3f} |")


if __name__ == "__main__":
    sys.exit(main())
