"""What `retrieval_recall.py` measures on a large store: time, memory, and the share of exact MaxSim's images.

Sets of tokens are recombined from those of drawn scenes: each is the set of one scene, in which up to half of the
tokens are those of another scene, and all tokens have some noise. So they are spread as a model's features are, and no
two sets are equal.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fresh_memory import interleaved_seconds, peak_memory
from torch import Tensor

from stellar_hub.features import ImageRecord
from stellar_hub.measures import maxsim
from stellar_hub.retrieval import search_images, search_sets
from stellar_hub.store import FeatureStore
from stellar_hub.store.files import write_shard
from stellar_hub.store.fill import complete
from stellar_hub.store.manifest import shard_path
from stellar_hub.store.tensor_format import to_stored

DTYPES = ("float32", "float16", "int8")
NOISE = 0.1  # of the length of a token
K = 10
NUM_CANDIDATES = 100
NUM_QUERIES = 50  # of first stages
NUM_LARGE_QUERIES = 20  # of searches in the large store
NUM_STAGED = 20_000  # images that first stages choose from, at most
BATCH = 5  # queries that are asked together to measure time and memory
REPEATS = 2
ROWS_AT_A_TIME = 1024
ENCODINGS = ((2, 4, 48), (3, 10, 24), (3, 20, 48))  # planes, repetitions, dimensions that a token is projected to
FIRST_QUERY_SEED = 1 << 32  # shards have seeds from 0 on


def recombine(tokens: Tensor, count: int, seed: int) -> Tensor:
    """Returns sets of tokens, `(count, r, d)` float32, that are recombined from those of scenes, `(M, r, d)`."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randint(len(tokens), (2, count), generator=generator)
    exchanged = torch.rand(count, tokens.shape[1], generator=generator) < torch.rand(count, 1, generator=generator) / 2
    sets = torch.where(exchanged[..., None], tokens[second], tokens[first])
    noise = torch.randn(sets.shape, generator=generator) / sets.shape[-1] ** 0.5
    return sets + NOISE * sets.norm(dim=-1, keepdim=True) * noise


def write_stores(scenes: FeatureStore, folder: Path, num_rows: int) -> dict[str, FeatureStore]:
    """Writes a store of recombined sets and their means for each stored type."""
    tokens = scenes.read("S").float()
    shapes = {name: list(scenes.shape(name)) for name in ("S", "pooled")}
    source = dict(scenes.manifest.source) | {"num_images": num_rows}
    plans = {}
    for dtype in DTYPES:
        features = dict(scenes.manifest.features) | {"dtype": dtype, "shapes": shapes}
        plans[dtype] = dataclasses.replace(scenes.manifest, features=features, source=source, counts=None)
        (folder / dtype / "shards").mkdir(parents=True)
    for number in range(plans[DTYPES[0]].num_shards):
        rows = plans[DTYPES[0]].rows_of_shard(number)
        sets = recombine(tokens, len(rows), seed=number)
        records = [ImageRecord(row, f"{row}.jpg", (1, 1), (0.0, 0.0, 1.0, 1.0)) for row in rows]
        for dtype, plan in plans.items():
            stored = to_stored({"S": sets, "pooled": sets.mean(dim=1)}, dtype)
            write_shard(shard_path(folder / dtype, number), rows, stored, records, plan.plan)
    for dtype, plan in plans.items():
        complete(folder / dtype, plan)
    return {dtype: FeatureStore(folder / dtype) for dtype in DTYPES}


def large_store_rows(scenes: FeatureStore, folder: Path, num_rows: int) -> list[dict[str, Any]]:
    """Returns one row of the table for each search and stored type."""
    stores = write_stores(scenes, folder, num_rows)
    queries = recombine(scenes.read("S").float(), NUM_LARGE_QUERIES, FIRST_QUERY_SEED)
    ways = large_searches(stores)
    exact = search_sets(stores["float32"], queries, K).rows
    one, batch = queries[:1], queries[:BATCH]
    alone = interleaved_seconds(list(ways), lambda name: ways[name](one), REPEATS, time.process_time)
    together = interleaved_seconds(list(ways), lambda name: ways[name](batch), REPEATS, time.process_time)
    rows = []
    for name, search in ways.items():
        kind, dtype = name.split(" / ")
        rows.append(
            {
                "search": kind,
                "dtype": dtype,
                "gigabytes": stores[dtype].num_bytes / 1e9,
                "share": found_share(search(queries), exact),
                "ms_alone": 1e3 * alone[name],
                "ms_in_batch": 1e3 * together[name] / len(batch),
                "peak_mb": peak_memory(partial(search, batch)) / 1e6,
            }
        )
    return rows


def large_searches(stores: dict[str, FeatureStore]) -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns searches by "kind / stored type", each from sets of tokens to rows."""
    ways: dict[str, Callable[[Tensor], Tensor]] = {}
    for dtype, store in stores.items():
        ways[f"MaxSim / {dtype}"] = lambda sets, store=store: search_sets(store, sets, K).rows
    half = stores["float16"]
    for count in (NUM_CANDIDATES, 10 * NUM_CANDIDATES):
        ways[f"MaxSim of {count} by pooled / float16"] = lambda sets, count=count: (
            search_sets(half, sets, K, num_candidates=count).rows
        )
    ways[f"transport of {NUM_CANDIDATES} by pooled / float16"] = lambda sets: (
        search_sets(half, sets, K, "transport", num_candidates=NUM_CANDIDATES).rows
    )
    ways["pooled / float16"] = lambda sets: search_images(half, sets.mean(dim=1), K).rows
    return ways


def found_share(found: Tensor, exact: Tensor) -> float:
    """Returns the share of the exact rows `(Q, k)` that are among the found ones `(Q, n)`."""
    return (exact[:, :, None] == found[:, None, :]).any(dim=2).float().mean().item()


def first_stage_rows(scenes: FeatureStore, num_rows: int) -> list[dict[str, Any]]:
    """Returns one row of the table for each first stage: its share of the exact ten among its candidates."""
    tokens = scenes.read("S").float()
    queries = recombine(tokens, NUM_QUERIES, FIRST_QUERY_SEED)
    count = min(num_rows, NUM_STAGED)
    sizes = [min(ROWS_AT_A_TIME, count - start) for start in range(0, count, ROWS_AT_A_TIME)]
    banks: dict[str, Callable[[], Any]] = {
        "scenes": lambda: tokens.split(ROWS_AT_A_TIME),
        "recombined": lambda: (recombine(tokens, size, seed) for seed, size in enumerate(sizes)),
    }
    asked = {"scenes": tokens[:: max(1, len(tokens) // NUM_QUERIES)], "recombined": queries}
    stages = first_stages(scenes.shape("S")[1])
    shares: dict[str, dict[str, float]] = {name: {} for name in stages}
    for bank, parts in banks.items():
        exact = torch.cat([maxsim(asked[bank], part) for part in parts()], dim=1).topk(K).indices
        for name, (_, encode) in stages.items():
            encoded = encode(asked[bank], is_query=True)
            scores = torch.cat([encoded @ encode(part, is_query=False).T for part in parts()], dim=1)
            shares[name][bank] = found_share(scores.topk(min(NUM_CANDIDATES, scores.shape[1])).indices, exact)
    return [{"stage": name, "numbers": numbers} | shares[name] for name, (numbers, _) in stages.items()]


def first_stages(width: int) -> dict[str, tuple[int, Callable[..., Tensor]]]:
    """Returns how many numbers a first stage has for each image, and its encoding of sets, by its name."""
    stages: dict[str, tuple[int, Callable[..., Tensor]]] = {"pooled": (width, pooled)}
    for num_planes, repetitions, part in ENCODINGS:
        generator = torch.Generator().manual_seed(0)
        planes = torch.randn(repetitions, width, num_planes, generator=generator)
        signs = torch.randint(0, 2, (repetitions, width, part), generator=generator).float() * 2 - 1
        numbers = repetitions * 2**num_planes * part
        name = f"encoding of {2**num_planes} cells, {repetitions} times {part} dimensions"
        stages[name] = numbers, partial(fixed_dimension_encoding, planes=planes, signs=signs)
    return stages


def pooled(sets: Tensor, is_query: bool) -> Tensor:
    """Returns the mean of the tokens of each set, at length 1."""
    return F.normalize(sets.mean(dim=1), dim=1)


def fixed_dimension_encoding(sets: Tensor, is_query: bool, planes: Tensor, signs: Tensor) -> Tensor:
    """Encodes sets `(N, t, d)` as vectors whose products approximate MaxSim (MUVERA, arXiv 2405.19504).

    Random planes divide the space into cells. A query has the sum of its tokens in each cell, another set their mean.
    In a cell without tokens, it has the token whose cell differs by the fewest planes. Random signs project the tokens
    to fewer dimensions. Planes are `(R, d, k)`, signs `(R, d, p)`, and encodings `(N, R * 2^k * p)`.
    """
    units = F.normalize(sets, dim=-1)
    bits = (torch.einsum("ntd,rdk->nrtk", units, planes) > 0).float()
    num_planes, width = planes.shape[2], signs.shape[2]
    cells = torch.arange(2**num_planes)[:, None].bitwise_and(2 ** torch.arange(num_planes)).ne(0).float()  # (c, k)
    differing = torch.cdist(bits, cells.expand(*bits.shape[:2], -1, -1), p=1)  # (n, r, t, c) planes
    inside = (differing < 0.5).float()
    projected = torch.einsum("ntd,rdp->nrtp", units, signs) / width**0.5
    sums = inside.mT @ projected  # (n, r, c, p)
    if is_query:
        return sums.flatten(1)
    counts = inside.sum(dim=2)[..., None]
    nearest = differing.argmin(dim=2)[..., None].expand(-1, -1, -1, width)
    return torch.where(counts > 0, sums / counts.clamp(min=1), projected.gather(2, nearest)).flatten(1)
