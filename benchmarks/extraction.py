"""Compares the speed of `extract` with the model alone and with transformers' `pipeline("image-feature-extraction")`.

    python benchmarks/extraction.py --check

There are two cases, on JPEGs of 500 x 375 pixels made from `examples/training_photographs`:

- The model is the limit: stellar-b16 with random weights. `extract`, from files to the finished store, is compared with
  the model alone, which reads pixels in memory in batches of the same size.
- Reading images is the limit: stellar-tiny. `extract` is compared with the pipeline at its defaults, one image at a
  time, and with batches of the same size. The pipeline gives nested lists of `S`; `extract` writes `S`, `L` and pooled
  vectors.

On a CPU, `extract` and "the model alone" have packed linear layers, as the command packs them.

All contestants take turns, and the medians are reported. `--processor-time` counts the processor time of this process,
for machines that do other work as well. It would not count data workers, and therefore needs none. With `--check`, the
exit code is 1 unless `extract` reaches 0.9 of the model alone, 2 times the pipeline at its defaults, and the pipeline
with batches of the same size.
"""

import argparse
import copy
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import pipeline

from stellar_hub import StellarConfig, StellarImageProcessor, StellarModel
from stellar_hub.data import default_num_workers, open_sources
from stellar_hub.store import ExtractionOptions, ExtractionReport, extract_to_store
from stellar_hub.store.command import packed_on_cpu

PHOTOGRAPHS = Path(__file__).parents[1] / "examples" / "training_photographs"
SIZE = (500, 375)
MIN_OF_MODEL = 0.9
MIN_OF_PIPELINE = 2.0
MIN_OF_BATCHED_PIPELINE = 1.0


def write_images(folder: Path, count: int) -> list[str]:
    """Writes JPEGs, each one a resized photograph, and returns their paths."""
    folder.mkdir(parents=True)
    photographs = sorted(PHOTOGRAPHS.glob("*.jpg"))
    paths = []
    for index in range(count):
        with Image.open(photographs[index % len(photographs)]) as image:
            path = folder / f"{index:06d}.jpg"
            image.convert("RGB").resize(SIZE).save(path, quality=90)
            paths.append(str(path))
    return paths


def extraction(
    model: StellarModel, images: Path, batch_size: int, num_workers: int, decoder: str = "pillow"
) -> Callable[[], ExtractionReport]:
    """Returns a function that extracts a folder into a store; each call removes the store of the call before."""
    store = images.with_name(f"{images.name}-store")

    def run() -> ExtractionReport:
        shutil.rmtree(store, ignore_errors=True)
        options = ExtractionOptions(batch_size=batch_size, decoder=decoder)
        source = open_sources([images])
        return extract_to_store(model, source, store, options, num_workers=num_workers, show_progress=False)

    return run


def model_alone(model: StellarModel, count: int, batch_size: int) -> Callable[[], None]:
    """Returns a function that runs the model on `count` images in memory."""
    side = model.config.image_size
    pixel_values = torch.randint(0, 256, (batch_size, 3, side, side), dtype=torch.uint8).to(model.device)

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, count, batch_size):
                model(pixel_values[: count - start])
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    return run


def piped(model: StellarModel, paths: list[str], batch_size: int | None) -> Callable[[], None]:
    """Returns a function that runs transformers' pipeline on files; None is its default, one image at a time."""
    processor = StellarImageProcessor.from_config(model.config)
    extractor: Any = pipeline("image-feature-extraction", model=model, image_processor=processor, device=model.device)
    options = {} if batch_size is None else {"batch_size": batch_size}

    def run() -> None:
        features = extractor(paths, **options)
        if len(features) != len(paths):
            raise RuntimeError(f"the pipeline gave {len(features)} rows of {len(paths)}")

    return run


def rates(
    contestants: dict[str, Callable[[], Any]], count: int, repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Returns images per second of a clock: medians of runs that take turns, after one run to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats + 1):
        for name, run in contestants.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return {name: count / statistics.median(taken[1:]) for name, taken in seconds.items()}


def compare(folder: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns images per second in both cases."""
    found = {}
    clock = time.process_time if args.processor_time else time.perf_counter
    images = folder / "b16"
    write_images(images, args.b16_images)
    torch.manual_seed(0)
    b16 = packed_on_cpu(StellarModel(StellarConfig(use_decoder=False, use_tokenizer=False)).to(args.device))
    contestants = {
        "the model alone": model_alone(b16, args.b16_images, args.b16_batch),
        "extract": extraction(b16, images, args.b16_batch, args.num_workers),
    }
    found["stellar-b16"] = rates(contestants, args.b16_images, args.repeats, clock)
    images = folder / "tiny"
    paths = write_images(images, args.tiny_images)
    tiny = StellarModel.from_pretrained("stellar-tiny", decoder=False).to(args.device)
    packed = packed_on_cpu(copy.deepcopy(tiny))
    contestants = {
        "the model alone": model_alone(packed, args.tiny_images, args.tiny_batch),
        "extract": extraction(packed, images, args.tiny_batch, args.num_workers),
        "pipeline": piped(tiny, paths, None),
        f"pipeline, batches of {args.tiny_batch}": piped(tiny, paths, args.tiny_batch),
    }
    found["stellar-tiny"] = rates(contestants, args.tiny_images, args.repeats, clock)
    return found


def meets_bars(found: dict[str, dict[str, float]]) -> bool:
    """Whether `extract` is fast enough."""
    b16, tiny = found["stellar-b16"], found["stellar-tiny"]
    batched = next(rate for name, rate in tiny.items() if name.startswith("pipeline,"))
    return (
        b16["extract"] >= MIN_OF_MODEL * b16["the model alone"]
        and tiny["extract"] >= MIN_OF_PIPELINE * tiny["pipeline"]
        and tiny["extract"] >= MIN_OF_BATCHED_PIPELINE * batched
    )


def main() -> int:
    """Compares, prints and checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--b16-images", type=int, default=64, help="number of images for stellar-b16 (default: %(default)s)"
    )
    parser.add_argument("--b16-batch", type=int, default=8, help="batch size for stellar-b16 (default: %(default)s)")
    parser.add_argument(
        "--tiny-images", type=int, default=512, help="number of images for stellar-tiny (default: %(default)s)"
    )
    parser.add_argument("--tiny-batch", type=int, default=32, help="batch size for stellar-tiny (default: %(default)s)")
    parser.add_argument(
        "--num-workers",
        type=int,
        default=default_num_workers(),
        help="number of worker processes that read images (default: %(default)s)",
    )
    parser.add_argument("--processor-time", action="store_true", help="count processor time; needs --num-workers 0")
    parser.add_argument("--device", default="cpu", help="device of the models (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="number of timed runs (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write the rates to")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    args = parser.parse_args()
    if args.processor_time and (args.num_workers or args.device != "cpu"):
        parser.error("--processor-time counts this process alone: it needs --num-workers 0 and --device cpu")
    with tempfile.TemporaryDirectory() as folder:
        found = compare(Path(folder), args)
    threads = f"{torch.get_num_threads()} threads, {args.num_workers} workers, torch {torch.__version__}"
    unit = "images per second of processor time" if args.processor_time else "images/s"
    print(f"{args.device}, {threads}; JPEGs of {SIZE[0]} x {SIZE[1]}\n")
    print(f"| model | | {unit} | extract is |\n|---|---|---|---|")
    for model, by_name in found.items():
        for name, rate in by_name.items():
            print(f"| {model} | {name} | {rate:.1f} | {by_name['extract'] / rate:.2f} x |")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if meets_bars(found) or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
