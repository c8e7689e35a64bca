"""Trains a classifier from Python, loads it, and names the class of an image.

    python examples/finetune_classification.py TRAIN IMAGE --output runs/classifier

TRAIN has one folder of images per class. `stellar-hub finetune` does the same on the command line, with all options.
"""

import argparse

from stellar_hub import StellarForImageClassification, StellarImageProcessor
from stellar_hub.data import open_labelled
from stellar_hub.training.finetuning import FinetuneSettings, finetune


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="Folder of the training images, with one folder per class.")
    parser.add_argument("image", help="Image to classify at the end.")
    parser.add_argument("--output", default="runs/classifier", help="Folder of the run. Default: %(default)s.")
    parser.add_argument("--model", default="stellar-tiny", help="Name or folder of the model. Default: %(default)s.")
    parser.add_argument("--epochs", type=int, default=20, help="Number of passes over TRAIN. Default: %(default)s.")
    args = parser.parse_args()

    settings = FinetuneSettings(model=args.model, mode="frozen", epochs=args.epochs)
    report = finetune(open_labelled(args.train), None, settings, args.output)  # None holds a fifth of TRAIN out
    print(f"accuracy on {len(report.answers.labels)} images that were held out: {report.accuracy:.1%}")

    classifier = StellarForImageClassification.from_pretrained(f"{args.output}/model")
    processor = StellarImageProcessor.from_pretrained(f"{args.output}/model")
    logits = classifier(**processor(args.image, return_tensors="pt")).logits
    print(f"{args.image}: {classifier.config.id2label[int(logits.argmax())]}")


if __name__ == "__main__":
    main()
