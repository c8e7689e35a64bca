"""Time of making the views of pretraining on one core, against the usual way and against decoding alone.

    python benchmarks/multi_crop.py
    python benchmarks/multi_crop.py --width 2000 --height 1500

Each image is a JPEG in memory, by default of 500 x 375 pixels, of which 8 views of 224 x 224 and 8 of 96 x 96 pixels
are made.
"ours" is what a data worker does: one decode, crops in uint8, parameters drawn for colours and blur, which the device
applies to whole batches; on this machine's CPU that takes what "ours: colours and blur" says. "reduced" is the same
with `data.reduced_decoding`, which needs photographs a good deal larger than the views. "device crops" is what a worker
does with `data.device_crops`: it decodes and draws. "usual" is torchvision's
chain of transforms on each view by itself: crop from the decoded image, flip, colours, grey, blur, float, normalize.
All take turns; reported are medians per image, on one thread.

With `--check` it exits with 1 unless ours is at least 6 times as fast as the usual way and takes at most 6 times as
long as decoding, device crops 1.5 times.
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

from stellar_hub.data.scenes.scene import draw_scene
from stellar_hub.data.sources import EncodedImage, read_image
from stellar_hub.data.views.crops import ViewSettings
from stellar_hub.data.views.dataset import MultiCropDataset
from stellar_hub.data.views.photometric import PhotometricSettings, apply_photometric
from stellar_hub.data.views.view_maker import collate_samples

MIN_SPEEDUP = 6.0  # of ours over the usual way
MAX_DECODES = 6.0  # of ours
MAX_DECODES_DEVICE = 1.5  # of ours, where the device cuts the views
VIEWS = ViewSettings(224, 96, 8, 8, (0.36, 1.0), (0.06, 0.36), 0.5)
COLORS = PhotometricSettings(True, 0.4, 0.4, 0.2, 0.1, 0.8, 0.2, 0.5, (0.1, 2.0), 9)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def draw_images(count: int, width: int, height: int, quality: int = 90) -> list[EncodedImage]:
    """JPEGs, drawn."""
    images = []
    for seed in range(count):
        buffer = io.BytesIO()
        Image.fromarray(draw_scene(seed, max(width, height)).image[:height, :width]).save(
            buffer, format="JPEG", quality=quality
        )
        images.append(EncodedImage(f"scene-{seed}.jpg", buffer.getvalue()))
    return images


def usual_transform(size: int, area: tuple[float, float]) -> Callable[[Image.Image], torch.Tensor]:
    """The chain of transforms for one view."""
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
    """What is timed; each takes the number of an image.

    Args:
        images: JPEGs.
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
        """The image alone."""
        return read_image(self.images[index])

    def ours(self, index: int) -> Any:
        """A worker's part."""
        self.epoch += 1
        return self.dataset[self.epoch, index]

    def reduced(self, index: int) -> Any:
        """The same with reduced decoding."""
        return self.reduced_dataset[self.epoch, index]

    def device(self, index: int) -> Any:
        """A worker's part where the device cuts the views."""
        return self.device_dataset[self.epoch, index]

    def usual(self, index: int) -> Any:
        """Every view by itself."""
        image = Image.open(io.BytesIO(self.images[index].data)).convert("RGB")
        return [[chain(image) for _ in range(count)] for count, chain in self.chains]


def interleaved_seconds(variants: Variants, repeats: int) -> dict[str, float]:
    """Median seconds per image of each variant, after one round that is not counted; they take turns."""
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
    """Median seconds per image of colours and blur, applied to batches of all images."""
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
    """Compare, print, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12, help="how many (default: %(default)s)")
    parser.add_argument("--width", type=int, default=500, help="of the images (default: %(default)s)")
    parser.add_argument("--height", type=int, default=375, help="of the images (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds over them (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("--check", action="store_true", help="exit with 1 if ours misses a bar")
    args = parser.parse_args()
    torch.set_num_threads(1)
    variants = Variants(draw_images(args.images, args.width, args.height))
    seconds = interleaved_seconds(variants, args.repeats)
    seconds["colors"] = photometric_seconds(variants, args.repeats)
    labels = {"decode": "decode alone", "ours": "ours", "reduced": "ours, reduced"}
    labels |= {"device": "ours, device crops", "usual": "usual"}
    labels["colors"] = "ours: colours and blur"
    print(f"{args.images} JPEGs of {args.width} x {args.height}; 8 views of 224, 8 of 96 pixels of each; one thread\n")
    print("| variant | time, ms | times decoding | usual takes times as long |")
    print("|---|---|---|---|")
    for name, label in labels.items():
        taken = seconds[name]
        print(f"| {label} | {1e3 * taken:.1f} | {taken / seconds['decode']:.1f} | {seconds['usual'] / taken:.1f} |")
    if args.json:
        args.json.write_text(json.dumps(seconds, indent=2) + "\n")
    fast = seconds["usual"] / seconds["ours"] >= MIN_SPEEDUP and seconds["ours"] / seconds["decode"] <= MAX_DECODES
    light = seconds["device"] / seconds["decode"] <= MAX_DECODES_DEVICE
    return 0 if (fast and light) or not args.check else 1


if __name__ == "__main__":
    raise SystemExit(main())
