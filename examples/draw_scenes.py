"""Write drawn scenes as images to train on: one PNG per seed.

    python examples/draw_scenes.py --output outputs/scenes --count 20000 --size 96

A second run with the same options draws what is missing. Seeds stay below 1,000,000: the scenes from there on are kept
for `benchmarks/evaluate_stellar_tiny.py`.
"""

import argparse
import io
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from stellar_hub.data.scenes.scene import draw_scene
from stellar_hub.modeling.atomic_write import write_atomically

FIRST_EVALUATION_SEED = 1_000_000
CHUNK = 16  # scenes handed to a worker at a time


def scene_path(folder: Path, seed: int) -> Path:
    """Where the scene of this seed is written."""
    return folder / f"{seed:06d}.png"


def seed_range(start: int, count: int) -> range:
    """The seeds asked for.

    Raises:
        ValueError: if there are none, or they leave the range for training.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if start < 0 or start + count > FIRST_EVALUATION_SEED:
        raise ValueError(
            f"seeds must lie in [0, {FIRST_EVALUATION_SEED}), the scenes beyond are kept for evaluation; "
            f"got start {start} and count {count}, the last seed of which is {start + count - 1}"
        )
    return range(start, start + count)


def missing_seeds(folder: Path, seeds: Iterable[int], size: int) -> list[int]:
    """The seeds whose images are not in the folder yet.

    Raises:
        ValueError: if an image there has another size: the folder would hold a mixture.
    """
    missing = []
    for seed in seeds:
        path = scene_path(folder, seed)
        if not path.exists():
            missing.append(seed)
            continue
        with Image.open(path) as image:  # reads the header alone
            if image.size != (size, size):
                raise ValueError(
                    f"{path} is of {image.width} x {image.height} pixels and not of {size} x {size}: "
                    "choose another --output, or the --size of what is there"
                )
    return missing


def write_scene(seed: int, folder: Path, size: int, max_objects: int, class_cue: str) -> None:
    """Draw one scene and write it, whole or not at all."""
    buffer = io.BytesIO()
    scene = draw_scene(seed, size, max_objects, class_cue=class_cue)
    Image.fromarray(scene.image).save(buffer, format="PNG")
    write_atomically(scene_path(folder, seed), buffer.getvalue())


def write_scenes(folder: Path, seeds: list[int], size: int, max_objects: int, workers: int, class_cue: str) -> None:
    """Write the scenes of all seeds, in parallel and with a progress bar."""
    write = partial(write_scene, folder=folder, size=size, max_objects=max_objects, class_cue=class_cue)
    with ProcessPoolExecutor(workers) as pool:
        for _ in tqdm(pool.map(write, seeds, chunksize=CHUNK), total=len(seeds), desc="scenes", unit="scene"):
            pass


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the images")
    parser.add_argument("--count", type=int, default=20_000, help="number of scenes (default: %(default)s)")
    parser.add_argument("--start", type=int, default=0, help="first seed (default: %(default)s)")
    parser.add_argument("--size", type=int, default=96, help="height and width in pixels (default: %(default)s)")
    parser.add_argument("--max-objects", type=int, default=4, help="most objects in a scene (default: %(default)s)")
    parser.add_argument("--class-cue", default="outline", help="what a class has in common: outline, texture or color")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Write the scenes that are not there yet."""
    args = parse_arguments()
    try:
        seeds = seed_range(args.start, args.count)
        args.output.mkdir(parents=True, exist_ok=True)
        missing = missing_seeds(args.output, seeds, args.size)
        write_scenes(args.output, missing, args.size, args.max_objects, args.workers, args.class_cue)
    except ValueError as error:
        raise SystemExit(f"draw_scenes: {error}") from error
    print(f"{args.output}: {len(missing)} scenes drawn, {len(seeds) - len(missing)} were there")


if __name__ == "__main__":
    main()
