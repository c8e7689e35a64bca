"""Measure the time to make the views of pretraining on one core, compared with torchvision and with decoding.

    python benchmarks/multi_crop.py
    python benchmarks/multi_crop.py --width 2000 --height 1500

Each image is a JPEG in memory, by default of 500 x 375 pixels (width x height). 8 views of 224 x 224 and 8 views of
96 x 96 pixels are made of it.

- "ours": what a data worker does. It decodes the image once, crops in uint8 and draws the parameters of colours and
  blur. The device applies these to batches; "ours: colours and blur" is the time of that step on the CPU.
- "ours, reduced": a data worker with `data.reduced_decoding`. It is faster if images are much larger than the views.
- "ours, device crops": a data worker with `data.device_crops`. It decodes the image and draws the crops.
- "usual": torchvision's transforms on each view: crop, flip, colours, grey, blur, float, normalize.

The variants take turns on one thread. The table has medians per image.

With `--check` the script exits with 1 unless "ours" is at least 6 times as fast as "usual", "ours" takes at most 6
times as long as decoding, and "ours, device crops" at most 1.5 times as long.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import v2

from stellar_hub.data import (
    EncodedImage,
    MultiCropDataset,
    PhotometricSettings,
    ViewSettings,
    apply_photometric,
    collate_samples,
    draw_scene,
    read_image,
)

MIN_SPEEDUP = 6.0  # "usual" divided by "ours"
MAX_DECODES = 6.0  # "ours" divided by decoding
MAX_DECODES_DEVICE = 1.5  # "ours, device crops" divided by decoding
LABELS = {
    "decode": "decode alone",
    "ours": "ours",
    "reduced": "ours, reduced",
    "device": "ours, device crops",
    "usual": "usual",
    "colors": "ours: colours and blur",
}
VIEWS = ViewSettings(224, 96, 8, 8, (0.36, 1.0), (0.06, 0.36), 0.5)
COLORS = PhotometricSettings(True, 0.4, 0.4, 0.2, 0.1, 0.8, 0.2, 0.5, (0.1, 2.0), 9)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def draw_images(count: int, width: int, height: int, quality: int = 90) -> list[EncodedImage]:
    """Draws scenes and encodes them as JPEGs."""
    images = []
    for seed in range(count):
        buffer = io.BytesIO()
        Image.fromarray(draw_scene(seed, max(width, height)).image[:height, :width]).save(
            buffer, format="JPEG", quality=quality
        )
        images.append(EncodedImage(f"scene-{seed}.jpg", buffer.getvalue()))
    return images


def usual_transform(size: int, area: tuple[float, float]) -> Callable[[Image.Image], torch.Tensor]:
    """Returns torchvision's transforms for one view."""
    colors = v2.ColorJitter(COLORS.brightness, COLORS.contrast, COLORS.saturation, COLORS.hue)
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=area, interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(VIEWS.flip_probability),
            v2.RandomApply([colors], COLORS.jitter_probability),
            v2.RandomGrayscale(COLORS.grayscale_probability),
            v2.RandomApply([v2.GaussianBlur(COLORS.blur_kernel_size, COLORS.blur_sigma)], COLORS.blur_probability),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


class Variants:
    """The variants that are timed. Each method takes the index of an image.

    Args:
        images: Encoded images.
    """

    def __init__(self, images: Sequence[EncodedImage]):
        self.images = images
        self.dataset = MultiCropDataset(images, VIEWS, COLORS, seed=0)
        self.reduced_dataset = MultiCropDataset(images, replace(VIEWS, reduced_decoding=True), COLORS, seed=0)
        self.device_dataset = MultiCropDataset(images, replace(VIEWS, device_crops=True), COLORS, seed=0)
        self.chains = [
            (VIEWS.num_global_views, usual_transform(VIEWS.image_size, VIEWS.global_area)),
            (VIEWS.num_local_views, usual_transform(VIEWS.local_size, VIEWS.local_area)),
        ]
        self.epoch = 0

    def decode(self, index: int) -> Any:
        """Decodes the image."""
        return read_image(self.images[index])

    def ours(self, index: int) -> Any:
        """Makes a sample as a data worker does."""
        self.epoch += 1
        return self.dataset[self.epoch, index]

    def reduced(self, index: int) -> Any:
        """Makes a sample with reduced decoding."""
        return self.reduced_dataset[self.epoch, index]

    def device(self, index: int) -> Any:
        """Makes a sample whose views the device cuts."""
        return self.device_dataset[self.epoch, index]

    def usual(self, index: int) -> Any:
        """Makes every view with torchvision."""
        image = Image.open(io.BytesIO(self.images[index].data)).convert("RGB")
        return [[chain(image) for _ in range(count)] for count, chain in self.chains]


def interleaved_seconds(variants: Variants, repeats: int) -> dict[str, float]:
    """Times the variants in turn and returns median seconds per image, without the first round."""
    timed: dict[str, Callable[[int], Any]] = {
        name: getattr(variants, name) for name in ("decode", "ours", "reduced", "device", "usual")
    }
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for round_ in range(repeats + 1):
        for index in range(len(variants.images)):
            for name, make in timed.items():
                start = time.perf_counter()
                make(index)
                if round_:
                    seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def photometric_seconds(variants: Variants, repeats: int) -> float:
    """Times colours and blur on batches of all images and returns median seconds per image."""
    batch = collate_samples([variants.ours(index) for index in range(len(variants.images))])
    parameters = batch["photometric"].split([VIEWS.num_global_views, VIEWS.num_local_views], dim=1)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for name, drawn in zip(("global_views", "local_views"), parameters, strict=True):
            views = batch[name].flatten(0, 1).float() / 255
            apply_photometric(views, drawn.flatten(0, 1), COLORS.blur_kernel_size)
        seconds.append((time.perf_counter() - start) / len(variants.images))
    return statistics.median(seconds[1:])


def main() -> int:
    """Times all variants, prints the table and checks the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12, help="Number of images. Default: %(default)s.")
    parser.add_argument("--width", type=int, default=500, help="Width of the images in pixels. Default: %(default)s.")
    parser.add_argument("--height", type=int, default=375, help="Height of the images in pixels. Default: %(default)s.")
    parser.add_argument("--repeats", type=int, default=5, help="Rounds over the images. Default: %(default)s.")
    parser.add_argument("--json", type=Path, help="File for the seconds per image.")
    parser.add_argument("--check", action="store_true", help="Exit with 1 if a limit is missed.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    variants = Variants(draw_images(args.images, args.width, args.height))
    seconds = interleaved_seconds(variants, args.repeats)
    seconds["colors"] = photometric_seconds(variants, args.repeats)
    print(f"{args.images} JPEGs of {args.width} x {args.height}; 8 views of 224 and 8 of 96 pixels each; one thread\n")
    print("| variant | time, ms | divided by decoding | usual divided by it |")
    print("|---|---|---|---|")
    for name, label in LABELS.items():
        taken = seconds[name]
        print(f"| {label} | {1e3 * taken:.1f} | {taken / seconds['decode']:.1f} | {seconds['usual'] / taken:.1f} |")
    if args.json:
        args.json.write_text(json.dumps(seconds, indent=2) + "\n")
    fast = seconds["usual"] / seconds["ours"] >= MIN_SPEEDUP and seconds["ours"] / seconds["decode"] <= MAX_DECODES
    light = seconds["device"] / seconds["decode"] <= MAX_DECODES_DEVICE
    return 0 if (fast and light) or not args.check else 1


if __name__ == "__main__":
    raise SystemExit(main())
