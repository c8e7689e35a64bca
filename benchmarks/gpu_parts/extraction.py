"""Extraction of JPEGs into a store with each decoder, compared with the model alone and with each decoder alone."""

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from extraction import SIZE, write_images

from gpu_parts.inference import TINY
from gpu_parts.measure import Bench, medians, own_memory
from stellar_hub import StellarConfig, StellarImageProcessor, StellarModel
from stellar_hub.data import open_sources
from stellar_hub.data.workers import ImageLoader
from stellar_hub.features.jpeg_decoding import TORCHVISION, JpegDecoder, decoder_on
from stellar_hub.features.preparation import PreparedBatches, split_rows
from stellar_hub.store import ExtractionOptions, extract_to_store

NUM_DIFFERENT = 64  # images; the others are further names of them
NUM_IMAGES, BATCH_SIZE = 12288, 256
MODEL = "the model alone"
GROUP = f"extraction b16, JPEGs of {SIZE[0]} x {SIZE[1]}"


def extraction(bench: Bench) -> None:
    """Measures extraction with each decoder of this machine, from files to the finished store."""
    count, batch_size = (16, 4) if bench.smoke else (NUM_IMAGES, BATCH_SIZE)
    num_workers = 0 if bench.smoke else max(1, (os.cpu_count() or 2) - 1)
    torch.manual_seed(0)
    config = StellarConfig(use_decoder=False, use_tokenizer=False, **(TINY | {"image_size": 64} if bench.smoke else {}))
    model: Any = StellarModel(config).to(bench.device).eval().requires_grad_(False)
    with own_memory(bench.device), tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        write_names(images, count)
        measure_model(bench, model, batch_size)
        measure_workers(bench, images, count, num_workers, batch_size, config)
        precision = "bfloat16" if bench.device.type == "cuda" else "float32"
        for decoder in ("pillow", "torchvision"):
            store = Path(folder) / f"store-{decoder}"
            options = ExtractionOptions(batch_size=batch_size, precision=precision, decoder=decoder)
            run = partial(measure_store, bench, model, images, store, options, num_workers)
            bench.attempt(GROUP, f"extract, {decoder}", 10, run)


def write_names(folder: Path, count: int) -> None:
    """Writes a few JPEGs and gives them many names."""
    paths = [Path(path) for path in write_images(folder, min(count, NUM_DIFFERENT))]
    for index in range(len(paths), count):
        os.link(paths[index % len(paths)], folder / f"{index:06d}.jpg")


def measure_model(bench: Bench, model: Any, batch_size: int) -> None:
    """Measures the model on uint8 images that are on the device, in the precision of the extraction."""
    side = model.config.image_size
    pixel_values = torch.randint(0, 256, (batch_size, 3, side, side), dtype=torch.uint8, device=bench.device)

    @torch.inference_mode()
    def run() -> None:
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.device.type == "cuda"):
            model(pixel_values)

    seconds = medians({MODEL: run}, bench)[MODEL]
    bench.row(GROUP, MODEL, ms=1e3 * seconds, per_second=batch_size / seconds)


def measure_workers(
    bench: Bench, images: Path, count: int, num_workers: int, batch_size: int, config: StellarConfig
) -> None:
    """Measures the worker processes alone, which read, decode with Pillow and fit; and the device's decoder alone."""
    source = open_sources([images])
    processor = StellarImageProcessor.from_config(config)
    batches = split_rows(range(count // 4), 1 + batch_size // 8)  # small ones, so that all workers have some
    dataset = PreparedBatches(source, processor, batches)
    loader = ImageLoader(dataset, num_workers, batch_size=None, persistent_workers=num_workers > 0)
    seconds = medians({"workers": lambda: [None for _ in loader]}, bench, torch.device("cpu"))["workers"]
    bench.row(GROUP, "pillow alone, in the workers", per_second=count // 4 / seconds, note=f"{num_workers} workers")
    bench.attempt(GROUP, "torchvision alone", 5, lambda: measure_decoder(bench, source, processor, range(batch_size)))


def measure_decoder(bench: Bench, source: Any, processor: StellarImageProcessor, rows: range) -> bool:
    """Measures decoding and fitting on the device of JPEGs that are in memory."""
    decoder = JpegDecoder(decoder_on(TORCHVISION, bench.device), processor, bench.device)
    batch = PreparedBatches(source, processor, [rows], keep_jpegs=True)[0]
    seconds = medians({"decoder": lambda: decoder.complete(batch)}, bench)["decoder"]
    bench.row(GROUP, "torchvision alone", ms=1e3 * seconds, per_second=len(rows) / seconds)
    return True


def measure_store(
    bench: Bench, model: Any, images: Path, store: Path, options: ExtractionOptions, num_workers: int
) -> bool:
    """Measures one extraction, from files to the finished store."""
    source = open_sources([images])
    found = extract_to_store(model, source, store, options, num_workers=num_workers, show_progress=False)
    note = f"{found.rows} rows, waiting {found.waiting_share:.0%}"
    name = f"extract, {options.decoder}"
    bench.row(GROUP, name, per_second=found.rows_per_second, waiting=found.waiting_share, note=note)
    if found.errors:
        raise RuntimeError(f"{found.errors} rows have an error")
    return True
