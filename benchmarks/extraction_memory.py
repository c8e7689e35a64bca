"""Checks that the memory of an extraction does not grow with the number of images.

    python benchmarks/extraction_memory.py

It extracts 1,000 and 20,000 images (a list that repeats 200 photographs of 160 x 120 pixels) with a small model of
random weights, each in a fresh process. Ten times a second it samples the anonymous resident memory (`RssAnon`; Linux)
of that process and its data workers, and it compares the highest values. Memory may grow during the first shards, while
the allocators fill their reserves, and not afterwards. Shards have 256 rows, so that the shorter run has several, too.

Exits with 1 if memory is more than 5 % higher with 20,000 images. Needs 1 GB of disk.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
from pathlib import Path

import psutil
from PIL import Image

PHOTOGRAPHS = Path(__file__).parents[1] / "examples" / "training_photographs"
NUM_FILES = 200
SIZE = (160, 120)
MAX_GROWTH = 1.05
SAMPLING_INTERVAL = 0.1  # seconds; one sample of all processes takes some milliseconds
SHARD_ROWS = 256


def write_images(folder: Path) -> list[Path]:
    """Writes small photographs and returns their paths."""
    folder.mkdir()
    photographs, paths = sorted(PHOTOGRAPHS.glob("*.jpg")), []
    for index in range(NUM_FILES):
        with Image.open(photographs[index % len(photographs)]) as image:
            paths.append(folder / f"{index:03d}.jpg")
            image.convert("RGB").resize(SIZE).save(paths[-1])
    return paths


def write_list(folder: Path, images: list[Path], count: int) -> Path:
    """Writes a list with `count` lines and returns its path."""
    path = folder / f"{count}.txt"
    path.write_text("".join(f"{images[index % len(images)]}\n" for index in range(count)))
    return path


def anonymous_bytes() -> int:
    """Returns the anonymous resident memory of this process and its children, in bytes."""
    process = psutil.Process()
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            lines = Path(f"/proc/{one.pid}/status").read_text().splitlines()
        except FileNotFoundError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return total


def extract_and_sample(
    source: Path, store: Path, num_workers: int, results: "multiprocessing.Queue[list[int]]"
) -> None:
    """Extracts in this process, and puts the memory samples into a queue."""
    import torch

    from stellar_hub import StellarConfig, StellarModel
    from stellar_hub.data import open_sources
    from stellar_hub.store import ExtractionOptions, extract_to_store

    torch.set_num_threads(1)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 8}
    model = StellarModel(StellarConfig(**sizes, use_decoder=False, use_tokenizer=False)).eval()
    samples: list[int] = []
    stopped = threading.Event()

    def sample() -> None:
        while not stopped.wait(SAMPLING_INTERVAL):
            samples.append(anonymous_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    options = ExtractionOptions(shard_rows=SHARD_ROWS)
    extract_to_store(model, open_sources([source]), store, options, num_workers=num_workers, show_progress=False)
    stopped.set()
    sampler.join()
    results.put(samples)


def measure(folder: Path, images: list[Path], count: int, num_workers: int) -> dict[str, float]:
    """Extracts `count` images in a fresh process, and returns the highest memory in megabytes."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (write_list(folder, images, count), folder / f"store-{count}", num_workers, results)
    process = context.Process(target=extract_and_sample, args=arguments)
    process.start()
    samples = results.get()
    process.join()
    return {"images": count, "peak_mb": max(samples) / 1e6}


def main() -> int:
    """Measures both numbers of images and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--counts", type=int, nargs=2, default=[1000, 20000], help="two numbers of images (default: %(default)s)"
    )
    parser.add_argument(
        "--num-workers", type=int, default=1, help="number of worker processes that read images (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = write_images(folder / "images")
        rows = [measure(folder, images, count, args.num_workers) for count in args.counts]
    print("| images | highest memory, MB |\n|---|---|")
    for row in rows:
        print(f"| {row['images']} | {row['peak_mb']:.0f} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    few, many = rows
    return 0 if many["peak_mb"] <= MAX_GROWTH * few["peak_mb"] else 1


if __name__ == "__main__":
    sys.exit(main())
