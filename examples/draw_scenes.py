"""Write drawn scenes as training images: one PNG per seed.

    python examples/draw_scenes.py --output outputs/scenes --count 20000 --size 96

A second run with the same options draws the missing scenes only. Seeds stay below 1,000,000, because the benchmarks
measure on scenes from there on.
"""

import argparse
import io
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from stellar_hub.data import default_num_workers
from stellar_hub.data.scenes import ClassCue, draw_scene
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.old_names import hint_of_new_name, old_names
from stellar_hub.progress import track

FIRST_EVALUATION_SEED = 1_000_000
SCENES_PER_TASK = 16  # a worker draws this many before it takes more


def scene_path(folder: Path, seed: int) -> Path:
    """Returns the path of a seed's image."""
    return folder / f"{seed:06d}.png"


def seed_range(start: int, count: int) -> range:
    """Returns the seeds from `start` on.

    Raises:
        ValueError: if `count` is below 1, or a seed is outside the range for training.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if start < 0 or start + count > FIRST_EVALUATION_SEED:
        raise ValueError(
            f"seeds must be within [0, {FIRST_EVALUATION_SEED - 1}], because scenes beyond are kept for evaluation, "
            f"got start {start} and count {count}, which end at {start + count - 1}"
        )
    return range(start, start + count)


def missing_seeds(folder: Path, seeds: Iterable[int], size: int) -> list[int]:
    """Returns the seeds whose images are not in the folder yet.

    Raises:
        ValueError: if an image in the folder has another size, because the folder would then mix sizes.
    """
    missing = []
    for seed in seeds:
        path = scene_path(folder, seed)
        if not path.exists():
            missing.append(seed)
            continue
        with Image.open(path) as image:  # reads the header only
            if image.size != (size, size):
                raise ValueError(
                    f"{path} has {image.height} x {image.width} pixels, not {size} x {size}; "
                    "choose another --output or the --size of the images in it"
                )
    return missing


def write_scene(seed: int, folder: Path, size: int, max_objects: int, class_cue: ClassCue) -> None:
    """Draws one scene and writes it completely or not at all."""
    buffer = io.BytesIO()
    scene = draw_scene(seed, size, max_objects, class_cue=class_cue)
    Image.fromarray(scene.image).save(buffer, format="PNG")
    write_atomically(scene_path(folder, seed), buffer.getvalue())


def write_scenes(folder: Path, seeds: list[int], num_workers: int, **options: Any) -> None:
    """Writes the scenes of all seeds and shows the progress.

    Args:
        folder: Folder for the images.
        seeds: Seeds of the scenes.
        num_workers: Number of worker processes. 0 draws in this process.
        options: Options of `write_scene`.
    """
    write = partial(write_scene, folder=folder, **options)
    progress = partial(track, description="drawing", total=len(seeds), unit="scene")
    if num_workers == 0:
        for _ in progress(map(write, seeds)):
            pass
        return
    with ProcessPoolExecutor(num_workers) as pool:
        for _ in progress(pool.map(write, seeds, chunksize=SCENES_PER_TASK)):
            pass


class RefuseOldOption(argparse.Action):
    """An action that refuses an option of earlier releases and says its new name."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Ends the program with the new name."""
        old = self.option_strings[0]
        parser.error(f"unknown option {old}{hint_of_new_name('options', old)}")


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="Folder for the images.")
    add("--count", type=int, default=20_000, help="Number of scenes. Default: %(default)s.")
    add("--start", type=int, default=0, help="First seed. Default: %(default)s.")
    add("--size", type=int, default=96, help="Height and width of a scene in pixels. Default: %(default)s.")
    add("--max-objects", type=int, default=4, help="Maximum number of objects in a scene. Default: %(default)s.")
    add(
        "--class-cue",
        choices=get_args(ClassCue),
        default="outline",
        help="What the objects of a class have in common: their outline; outline and texture; outline, texture and "
        "color. Default: %(default)s.",
    )
    add(
        "--num-workers",
        type=int,
        help="Number of worker processes that draw. Default: number of cores, at most 8. 0 draws in the main process.",
    )
    for old, new in old_names("options").items():
        if new in ("--class-cue", "--num-workers"):
            add(old, action=RefuseOldOption, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.num_workers is None:
        args.num_workers = default_num_workers()
    return args


def main() -> None:
    """Writes the scenes that are not in the folder yet."""
    args = parse_arguments()
    try:
        seeds = seed_range(args.start, args.count)
        if args.output.exists() and not args.output.is_dir():
            raise FileExistsError(f"--output {args.output} is a file; name a folder")
        args.output.mkdir(parents=True, exist_ok=True)
        missing = missing_seeds(args.output, seeds, args.size)
        options = {"size": args.size, "max_objects": args.max_objects, "class_cue": args.class_cue}
        write_scenes(args.output, missing, args.num_workers, **options)
    except (OSError, ValueError) as error:
        raise SystemExit(f"draw_scenes: {error}") from error
    print(f"{args.output}: {len(missing)} scenes drawn, {len(seeds) - len(missing)} existed")


if __name__ == "__main__":
    main()
