"""Trains classifiers on a few drawn scenes in all three modes of `stellar-hub finetune`, and prints a table.

    python benchmarks/finetune_scenes.py --output outputs/finetune-scenes

Each scene has up to three objects, and the largest one is its class. Scenes of the test are never trained on. Accuracy
is that of the last epoch. A run that is complete is not trained again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from stellar_hub.data import draw_scene, open_labelled
from stellar_hub.progress import track
from stellar_hub.training.finetuning import FinetuneSettings, finetune
from stellar_hub.training.finetuning.models import build_classifier

FIRST_SEED = {"train": 1_300_000, "test": 2_300_000}
MODES = ("frozen", "lora", "full")
SIDE, MAX_OBJECTS = 96, 3


def draw(root: Path, counts: dict[str, int]) -> None:
    """Writes scenes to folders by the class of the largest object; existing files stay."""
    for split, count in counts.items():
        for seed in track(range(FIRST_SEED[split], FIRST_SEED[split] + count), f"scenes, {split}", unit="scene"):
            if list((root / split).glob(f"*/{seed}.png")):
                continue
            scene = draw_scene(seed, SIDE, MAX_OBJECTS, class_cue="color")
            largest = scene.classes[int(scene.masks.sum(axis=(1, 2)).argmax())]
            (root / split / largest).mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene.image).save(root / split / largest / f"{seed}.png")


def measure(mode: str, args: argparse.Namespace) -> dict[str, float]:
    """Returns accuracy and number of trained parameters of a mode."""
    output = args.output / mode
    facts = output / "facts.json"
    if facts.exists():
        return dict(json.loads(facts.read_text()))
    settings = FinetuneSettings(
        model=args.model,
        mode=mode,
        epochs=args.epochs,
        batch_size=32,
        image_size=args.image_size,
        keep="last",
        num_workers=args.num_workers,
    )
    train, test = (open_labelled(args.output / "scenes" / split) for split in ("train", "test"))
    report = finetune(train, test, settings, output, resume="auto", cpu=True)
    model = build_classifier(settings, train.classes)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    found = {"accuracy": report.accuracy, "majority": report.majority_accuracy, "trained": trained}
    facts.write_text(json.dumps(found))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="Folder for scenes and runs.")
    add("--model", default="stellar-tiny", help="Name or folder of the model. Default: %(default)s.")
    add("--train", type=int, default=240, help="Number of training scenes. Default: %(default)s.")
    add("--test", type=int, default=120, help="Number of test scenes. Default: %(default)s.")
    add("--epochs", type=int, default=8, help="Number of passes over the scenes. Default: %(default)s.")
    add("--image-size", type=int, default=64, help="Side of the images in pixels. Default: %(default)s.")
    add("--num-workers", type=int, default=0, help="Number of workers that read images. Default: %(default)s.")
    args = parser.parse_args(arguments)
    draw(args.output / "scenes", {"train": args.train, "test": args.test})
    print(f"{args.train} training scenes, {args.test} test scenes, {args.epochs} epochs\n")
    print("| `--mode` | trained parameters | accuracy |\n|---|---|---|")
    for mode in MODES:
        found = measure(mode, args)
        print(f"| `{mode}` | {found['trained']:,} | {found['accuracy']:.1%} |", flush=True)
    print(f"| most frequent class | | {found['majority']:.1%} |")


if __name__ == "__main__":
    main()
