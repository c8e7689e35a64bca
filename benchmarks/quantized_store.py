"""Measures what the dtype of a store costs: its size, the error of `S` and `L`, and the quality of decoded images.

    python benchmarks/quantized_store.py

It extracts the held-out photographs of `examples/images`, each also mirrored and in its four quarters, with
stellar-tiny into stores of every dtype. It reports the bytes of features per image (without the index), the mean cosine
of the tokens of `S` with those in float32, the largest difference of `L`, and the PSNR of the image that is decoded
from the store: with the original image, and with the image that is decoded from float32.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from stellar_hub import StellarImageProcessor, StellarModel
from stellar_hub.data import JoinedSources, open_sources
from stellar_hub.measures import psnr
from stellar_hub.store import ExtractionOptions, FeatureStore, extract_to_store
from stellar_hub.store.files import RECORDS
from stellar_hub.store.tensor_format import DTYPES

MAX_PIXELS = (256, 256)  # largest width and height of a photograph; the model sees 128 x 128
PHOTOGRAPHS = Path(__file__).parents[1] / "examples" / "images"


def write_images(folder: Path) -> JoinedSources:
    """Writes the photographs, mirrored and in quarters, and returns them as a source."""
    folder.mkdir()
    for path in sorted(PHOTOGRAPHS.glob("*.jpg")):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        image.thumbnail(MAX_PIXELS)
        width, height = image.width // 2, image.height // 2
        corners = [(left, top) for left in (0, width) for top in (0, height)]
        parts = [image.crop((left, top, left + width, top + height)) for left, top in corners]
        for index, one in enumerate([image, ImageOps.mirror(image), *parts]):
            one.save(folder / f"{path.stem}-{index}.png")
    return open_sources([folder])


def feature_bytes(store: FeatureStore) -> float:
    """Returns the number of bytes of features per row."""
    total = 0
    for number in range(store.num_shards):
        shard = store.open_shard(number)
        total += sum(shard.get_tensor(name).nbytes for name in shard.keys() if name != RECORDS)  # noqa: SIM118
    return total / len(store)


def measure(store: FeatureStore, exact: FeatureStore, model: StellarModel, images: torch.Tensor) -> dict[str, Any]:
    """Returns one row of the table."""
    rows = range(len(store))
    (tokens, maps), (exact_tokens, exact_maps) = (
        (one.read("S", rows).float(), one.read("L", rows).float()) for one in (store, exact)
    )
    with torch.inference_mode():
        decoded, exact_decoded = model.decode(tokens, maps), model.decode(exact_tokens, exact_maps)
    return {
        "dtype": store.manifest.features["dtype"],
        "bytes": feature_bytes(store),
        "cosine": F.cosine_similarity(tokens, exact_tokens, dim=-1).mean().item(),
        "maps": (maps - exact_maps).abs().max().item(),
        "psnr": mean_psnr(decoded, images),
        "psnr_of_exact": mean_psnr(decoded, exact_decoded),
    }


def mean_psnr(images: torch.Tensor, references: torch.Tensor) -> float:
    """Returns the mean PSNR of pairs of images, in dB."""
    return sum(psnr(*pair) for pair in zip(images, references, strict=True)) / len(images)


def main() -> int:
    """Extracts, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    args = parser.parse_args()
    model = StellarModel.from_pretrained("stellar-tiny")
    processor = StellarImageProcessor.from_pretrained("stellar-tiny")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_images(folder / "images")
        images = processor(list(source), return_tensors="pt")["pixel_values"]
        stores = {}
        for dtype in DTYPES:
            options = ExtractionOptions(("S", "L"), dtype)
            extract_to_store(model, source, folder / dtype, options, processor=processor, show_progress=False)
            stores[dtype] = FeatureStore(folder / dtype)
        rows = [measure(store, stores["float32"], model, images) for store in stores.values()]
    print(f"{len(images)} images, stellar-tiny, S and L\n")
    print("| dtype | bytes per image | of float32 | cosine of S | largest error of L | PSNR, dB | of exact, dB |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        share = row["bytes"] / rows[0]["bytes"]
        print(
            f"| {row['dtype']} | {row['bytes']:.0f} | {share:.2f} | {row['cosine']:.6f} | {row['maps']:.1e} | "
            f"{row['psnr']:.3f} | {row['psnr_of_exact']:.1f} |"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
