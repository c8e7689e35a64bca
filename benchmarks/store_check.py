"""Measures what it costs to compare shards with their SHA-256 when they are first read.

    python benchmarks/store_check.py

It writes a store of random features of stellar-tiny's shapes (`S`, `L` and `pooled`, float16) and reads all of it, with
the check and without it. The files are in memory by then, so that the disk does not count. It reports the seconds of
the check for each gigabyte, and reads all rows a second time, where the check is not repeated.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from stellar_hub import StellarModel
from stellar_hub.data import open_sources
from stellar_hub.features import ImageRecord
from stellar_hub.store import ExtractionOptions, FeatureStore, extract_to_store
from stellar_hub.store.files import write_shard
from stellar_hub.store.fill import complete
from stellar_hub.store.manifest import shard_path

PHOTOGRAPHS = Path(__file__).parents[1] / "examples" / "images"


def write_store(folder: Path, num_rows: int) -> Path:
    """Writes a store of random features in the form of stellar-tiny's, and returns its folder."""
    model = StellarModel.from_pretrained("stellar-tiny", decoder=False)
    small = folder / "small"
    extract_to_store(model, open_sources([PHOTOGRAPHS]), small, ExtractionOptions(), show_progress=False)
    known = FeatureStore(small).manifest
    source = dict(known.source) | {"num_images": num_rows}
    plan = dataclasses.replace(known, source=source, counts=None)
    large = folder / "large"
    (large / "shards").mkdir(parents=True)
    for number in range(plan.num_shards):
        rows = plan.rows_of_shard(number)
        tensors = {name: torch.rand(len(rows), *shape).half() for name, shape in plan.features["shapes"].items()}
        records = [ImageRecord(row, f"{row}.jpg", (1, 1), (0.0, 0.0, 1.0, 1.0)) for row in rows]
        write_shard(shard_path(large, number), rows, tensors, records, plan.plan)
    complete(large, plan)
    return large


def seconds_to_read(store: FeatureStore) -> float:
    """Returns the seconds that it takes to read all features of a store, a shard at a time."""
    start = time.perf_counter()
    for batch in store.batches(batch_size=1024):
        for tensor in batch.features.values():
            tensor.sum(dtype=torch.float32)
    return time.perf_counter() - start


def main() -> int:
    """Writes, reads and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="number of rows (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write the row to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = write_store(Path(name), args.rows)
        gigabytes = FeatureStore(folder).num_bytes / 1e9
        seconds_to_read(FeatureStore(folder, check=False))  # now the files are in memory
        without = min(seconds_to_read(FeatureStore(folder, check=False)) for _ in range(3))
        first = seconds_to_read(FeatureStore(folder))
        again = seconds_to_read(FeatureStore(folder))
    row: dict[str, Any] = {
        "gigabytes": gigabytes,
        "without": without,
        "first": first,
        "again": again,
        "per_gigabyte": (first - without) / gigabytes,
    }
    print("| GB | seconds without the check | with it | read again | check, s per GB |")
    print("|---|---|---|---|---|")
    print(f"| {gigabytes:.2f} | {without:.2f} | {first:.2f} | {again:.2f} | {row['per_gigabyte']:.2f} |")
    if args.json:
        args.json.write_text(json.dumps([row], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
