"""One scorecard of stellar-tiny, of the same network untrained, and of raw pixels: on drawn scenes and on digits.

    pip install -e '.[eval]'
    python benchmarks/scorecard.py --output outputs/scorecard --update-docs docs/evaluation.md

Scenes are of seeds that training never draws; the class is that of the largest object. The digits are scikit-learn's
(1797 images of 8 x 8 pixels, written by hand), every fifth for the test. Features are kept in the output folder: an
interrupted run goes on from there.
"""

import argparse
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from stellar_hub.data.labelled import open_labelled
from stellar_hub.data.labelled.segmentation_folders import read_segmentation_folder
from stellar_hub.data.scenes.scene import SCENE_CLASSES, draw_scene
from stellar_hub.evaluation.computing import RunSettings
from stellar_hub.evaluation.protocols.knn import KnnProtocol
from stellar_hub.evaluation.protocols.scorecard import ScorecardProtocol, evaluate_all
from stellar_hub.evaluation.protocols.segmentation import SegmentationProtocol
from stellar_hub.evaluation.report import Report
from stellar_hub.evaluation.report.output import scorecard_markdown, write_report, write_scorecard
from stellar_hub.evaluation.splits import prepare_segmentation, prepare_splits
from stellar_hub.features.backbones import open_backbone
from stellar_hub.modeling.atomic_write import write_atomically

MODELS = ("stellar-tiny", "stellar-tiny:random", "pixels")
FIRST_SEED = {"train": 1_000_000, "test": 2_000_000}  # `examples/draw_scenes.py` stays below
SIDE, MAX_OBJECTS = 64, 3
EVERY = 5  # digits: each fifth is for the test
SECTIONS = {"scenes": "Drawn scenes", "digits": "scikit-learn's digits"}


def write_png(path: Path, values: np.ndarray) -> None:
    """An image, whole or not at all; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def write_scenes(root: Path, counts: dict[str, int]) -> None:
    """Scenes in folders by the class of the largest object, and again with masks; those that are there stay."""
    for split, count in counts.items():
        masked = root / "masks" / split
        write_atomically(folder(masked) / "classes.txt", "\n".join(["background", *SCENE_CLASSES, ""]).encode())
        for seed in tqdm(range(FIRST_SEED[split], FIRST_SEED[split] + count), desc=f"scenes, {split}", unit="scene"):
            if (masked / "masks" / f"{seed}.png").exists():
                continue
            scene = draw_scene(seed, SIDE, MAX_OBJECTS, class_cue="color")
            mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
            for each, name in zip(scene.masks, scene.classes, strict=True):
                mask[each] = 1 + SCENE_CLASSES.index(name)
            largest = scene.classes[int(scene.masks.sum(axis=(1, 2)).argmax())]
            write_png(root / "classes" / split / largest / f"{seed}.png", scene.image)
            write_png(masked / "images" / f"{seed}.png", scene.image)
            write_png(masked / "masks" / f"{seed}.png", mask)


def write_digits(root: Path) -> None:
    """scikit-learn's digits in folders by class."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "test" if number % EVERY == 0 else "train"
        values = np.round(image * 255 / 16).astype(np.uint8)
        write_png(root / "classes" / split / str(label) / f"{number:04d}.png", values)


def folder(path: Path) -> Path:
    """The folder, which exists afterwards."""
    path.mkdir(parents=True, exist_ok=True)
    return path


def reports_of(name: str, root: Path, args: argparse.Namespace) -> Iterator[Report]:
    """All reports on a data set."""
    run = RunSettings(cache=args.output / "features")
    backbones = [open_backbone(each) for each in MODELS]
    opened = (open_labelled(root / "classes" / split) for split in ("train", "test"))
    train, test = (
        replace(each, name=f"{name}, {split}") for each, split in zip(opened, ("train", "test"), strict=True)
    )
    masks = None
    if (root / "masks").is_dir():
        found = (read_segmentation_folder(root / "masks" / split) for split in ("train", "test"))
        learned, measured = (
            replace(each, name=f"{name}, {split}") for each, split in zip(found, ("train", "test"), strict=True)
        )
        masks = prepare_segmentation(learned, measured, run)
    protocol = ScorecardProtocol(knn=KnnProtocol((10, 20, 100)), segmentation=SegmentationProtocol(num_epochs=10))
    return evaluate_all(backbones, prepare_splits(train, test, run), masks, protocol, run)


def replace_between_marks(text: str, name: str, section: str) -> str:
    """A page with the section between its two marks.

    Raises:
        ValueError: if it has not one such pair.
    """
    start, end = f"<!-- scorecard {name} -->", f"<!-- /scorecard {name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"the page has not one pair of lines {start} and {end}: add them")
    pattern = re.compile(f"({re.escape(start)}\n).*?({re.escape(end)})", flags=re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}\n{section}\n{match[2]}", text)


def update_docs(page: Path, name: str, reports: list[Report]) -> None:
    """Put a data set's tables into the page."""
    shown = [replace(report, images={}) for report in reports]
    section = scorecard_markdown(shown, f"### {SECTIONS[name]}")
    text = replace_between_marks(page.read_text(encoding="utf-8"), name, section)
    write_atomically(page, text.encode())


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for images, features and reports")
    parser.add_argument("--scenes-train", type=int, default=800, help="scenes to learn from (default: %(default)s)")
    parser.add_argument("--scenes-test", type=int, default=300, help="scenes to measure on (default: %(default)s)")
    parser.add_argument("--only", choices=sorted(SECTIONS), help="one of the two data sets (default: both)")
    parser.add_argument("--update-docs", type=Path, help="page whose tables to replace")
    args = parser.parse_args()
    if args.update_docs:
        for name in SECTIONS:
            try:
                replace_between_marks(args.update_docs.read_text(encoding="utf-8"), name, "")
            except (OSError, ValueError) as error:
                parser.error(str(error))
    return args


def main() -> None:
    """Write the data, measure, and write the reports."""
    args = parse_arguments()
    for name in [args.only] if args.only else list(SECTIONS):
        root = folder(args.output / name)
        if name == "scenes":
            write_scenes(root, {"train": args.scenes_train, "test": args.scenes_test})
        else:
            write_digits(root)
        reports = []
        for report in reports_of(name, root, args):
            write_report(report, folder(root / "reports"), None)
            reports.append(report)
        write_scorecard(reports, root / "reports")
        print(scorecard_markdown([replace(report, images={}) for report in reports], f"# {SECTIONS[name]}"))
        if args.update_docs:
            update_docs(args.update_docs, name, reports)
            segments = root / "reports" / "segmentation-overlays.png"
            if segments.exists():
                shutil.copy(segments, folder(args.update_docs.parent / "images") / f"scorecard-{name}-segments.png")


if __name__ == "__main__":
    main()
