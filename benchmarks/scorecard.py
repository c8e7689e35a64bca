"""Writes one scorecard of stellar-tiny, of the same network with random weights, and of raw pixels.

    pip install -e '.[eval]'
    python benchmarks/scorecard.py --output outputs/scorecard --update-docs docs/results/scorecard.md

The data are drawn scenes, with seeds that training never draws and the largest object as class, and the digits of
scikit-learn (1797 handwritten digits of 8 x 8 pixels; every fifth is for the test). Features are kept in the output
folder: an interrupted run continues from them.
"""

import argparse
import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from stellar_hub.data.labelled import open_labelled, read_segmentation_folder
from stellar_hub.data.scenes import SCENE_CLASSES, draw_scene
from stellar_hub.evaluation import (
    KnnProtocol,
    Report,
    RunSettings,
    ScorecardProtocol,
    SegmentationProtocol,
    evaluate_all,
    prepare_segmentation,
    prepare_splits,
    write_report,
    write_scorecard,
)
from stellar_hub.evaluation.report import scorecard_markdown
from stellar_hub.features.backbones import open_backbone
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.modeling.card_sections import read_section, write_section
from stellar_hub.progress import track

MODELS = ("stellar-tiny", "stellar-tiny:random", "pixels")
FIRST_SEED = {"train": 1_000_000, "test": 2_000_000}  # `examples/draw_scenes.py` draws seeds below
SIDE, MAX_OBJECTS = 64, 3
EVERY = 5  # every fifth digit is for the test
BATCH_SIZE = 64  # the numbers in the docs were measured with it
SECTIONS = {"scenes": "Drawn scenes", "digits": "scikit-learn's digits"}


def png_bytes(values: np.ndarray) -> bytes:
    """Returns an image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(path: Path, values: np.ndarray) -> None:
    """Writes an image atomically, and creates its folder."""
    make_folder(path.parent)
    write_atomically(path, png_bytes(values))


def make_folder(path: Path) -> Path:
    """Creates a folder unless it exists, and returns it."""
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_scenes(root: Path, counts: dict[str, int]) -> None:
    """Writes scenes to folders by the class of the largest object, and again with masks; existing files stay."""
    for split, count in counts.items():
        masked = root / "masks" / split
        write_atomically(make_folder(masked) / "classes.txt", "\n".join(["background", *SCENE_CLASSES, ""]).encode())
        for seed in track(range(FIRST_SEED[split], FIRST_SEED[split] + count), f"scenes, {split}", unit="scene"):
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
    """Writes scikit-learn's digits to folders by class."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "test" if number % EVERY == 0 else "train"
        values = np.round(image * 255 / 16).astype(np.uint8)
        write_png(root / "classes" / split / str(label) / f"{number:04d}.png", values)


def evaluate(name: str, root: Path, output: Path) -> Iterator[Report]:
    """Runs all protocols on a data set, and yields each report."""
    run = RunSettings(batch_size=BATCH_SIZE, cache=output / "features")
    backbones = [open_backbone(each) for each in MODELS]
    train, test = (
        replace(open_labelled(root / "classes" / split), name=f"{name}, {split}") for split in ("train", "test")
    )
    masks = None
    if (root / "masks").is_dir():
        masked = (
            replace(read_segmentation_folder(root / "masks" / split), name=f"{name}, {split}")
            for split in ("train", "test")
        )
        masks = prepare_segmentation(*masked, run)
    protocol = ScorecardProtocol(knn=KnnProtocol((10, 20, 100)), segmentation=SegmentationProtocol(num_epochs=10))
    return evaluate_all(backbones, prepare_splits(train, test, run), masks, protocol, run)


def update_docs(page: Path, name: str, reports: list[Report]) -> None:
    """Writes the tables of a data set into a page."""
    without_figures = [replace(report, images={}) for report in reports]
    section = scorecard_markdown(without_figures, f"## {SECTIONS[name]}")
    text = write_section(page.read_text(encoding="utf-8"), f"scorecard {name}", section, page)
    write_atomically(page, text.encode())


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for images, features and reports")
    parser.add_argument("--scenes-train", type=int, default=800, help="scenes to learn from (default: %(default)s)")
    parser.add_argument("--scenes-test", type=int, default=300, help="scenes to measure on (default: %(default)s)")
    parser.add_argument("--only", choices=sorted(SECTIONS), help="one of the two data sets (default: both)")
    parser.add_argument("--update-docs", type=Path, help="page to write the tables into")
    args = parser.parse_args()
    if args.update_docs:
        for name in SECTIONS:
            try:
                read_section(args.update_docs.read_text(encoding="utf-8"), f"scorecard {name}", args.update_docs)
            except (OSError, ValueError) as error:
                parser.error(str(error))
    return args


def main() -> None:
    """Writes the data, measures, and writes the reports."""
    args = parse_arguments()
    for name in [args.only] if args.only else list(SECTIONS):
        root = make_folder(args.output / name)
        if name == "scenes":
            write_scenes(root, {"train": args.scenes_train, "test": args.scenes_test})
        else:
            write_digits(root)
        reports = []
        for report in evaluate(name, root, args.output):
            write_report(report, make_folder(root / "reports"), None)
            reports.append(report)
        write_scorecard(reports, root / "reports")
        print(scorecard_markdown([replace(report, images={}) for report in reports], f"# {SECTIONS[name]}"))
        if args.update_docs:
            update_docs(args.update_docs, name, reports)
            segments = root / "reports" / "segmentation-overlays.png"
            if segments.exists():
                shutil.copy(
                    segments, make_folder(args.update_docs.parent / "images") / f"scorecard-{name}-segments.png"
                )


if __name__ == "__main__":
    main()
