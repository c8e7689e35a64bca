"""Trains stellar-tiny further, with and without nested dropout, and measures both from their first k tokens.

    python examples/draw_scenes.py --count 1500 --max-objects 3 --class-cue color --output outputs/scenes
    python benchmarks/ordered_tokens.py --data outputs/scenes --output outputs/ordered-tokens

Both runs have the same images, draws and number of steps; clustering heads start anew. PSNR is the mean of drawn scenes
that no training draws, decoded from the first k tokens. kNN (k = 20) names the largest object of a scene by the mean of
its first k tokens. The first row is stellar-tiny as it is published. A run that is complete is not trained again, and
one that was stopped goes on. `--only` trains one of the two and does not measure. `--check` exits with 1 unless PSNR
rises with k, is within 0.5 dB of the plain run with all tokens, and 2 dB above it with four.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from evaluate_stellar_tiny import MAX_OBJECTS, Scenes, classify, draw_scenes

from stellar_hub.measures import image_psnr
from stellar_hub.modeling import StellarModel
from stellar_hub.progress import track
from stellar_hub.training.exports import MODEL_FOLDER, is_exported
from stellar_hub.training.recipes import load_recipe
from stellar_hub.training.train import train

NUM_TOKENS = (1, 2, 4, 8, 16)
SETTINGS = (
    *("data.repeats=[1]", "data.num_global_views=1", "data.num_local_views=0", "model.config.teacher_momentum=null"),
    *("optimization.batch_size=16", "optimization.learning_rate=4e-4", "run.precision=fp32", "run.preview_every=0"),
)
RUNS = ("plain", "ordered")
BATCH_SIZE = 100


def trained(name: str, args: argparse.Namespace) -> Path:
    """Trains a run if it is not complete, and returns the folder of its model."""
    output = args.output / name
    rate = args.nested_dropout if name == "ordered" else 0
    if not is_exported(output, args.steps):
        own = (f"optimization.steps={args.steps}", f"model.config.nested_dropout={rate}")
        recipe = load_recipe("stellar-tiny", [*SETTINGS, *own])
        recipe = recipe.with_values("model", init="stellar-tiny").with_values("data", sources=[str(args.data)])
        train(recipe, output, resume="auto", cpu=True)
    return output / MODEL_FOLDER


@torch.inference_mode()
def measure(model: StellarModel, bank: Scenes, test: Scenes) -> list[tuple[float, float]]:
    """Returns PSNR in dB and kNN accuracy in percent for each number of tokens."""
    batches = test.pixels.split(BATCH_SIZE)
    encodings = [model.encode(batch) for batch in batches]
    tokens = torch.cat([model.encode(batch).semantics for batch in bank.pixels.split(BATCH_SIZE)])
    results = []
    for number in track(NUM_TOKENS, f"measuring {model.config.name_or_path}", unit="number of tokens"):
        few = [encoding.select(num_tokens=number) for encoding in encodings]
        psnr = [image_psnr(model.decode(one), batch / 255) for one, batch in zip(few, batches, strict=True)]
        queries = torch.cat([encoding.semantics for encoding in few]).mean(dim=1)
        accuracy = classify(tokens[:, :number].mean(dim=1), queries, bank, test)
        results.append((torch.cat(psnr).mean().item(), accuracy))
    return results


def table(results: dict[str, list[tuple[float, float]]]) -> str:
    """Returns the table in Markdown."""
    head = ["model", *(f"k = {number}" for number in NUM_TOKENS)]
    lines = [head, ["---"] * len(head)]
    for column, unit in ((0, "PSNR, dB"), (1, "kNN, %")):
        for name, values in results.items():
            digits = 2 - column
            lines.append([f"{name}, {unit}", *(f"{value[column]:.{digits}f}" for value in values)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def passes(plain: Sequence[tuple[float, float]], ordered: Sequence[tuple[float, float]]) -> bool:
    """Returns whether ordered tokens keep what the module's docstring says."""
    before, after = [value for value, _ in plain], [value for value, _ in ordered]
    four = NUM_TOKENS.index(4)
    return after == sorted(after) and after[-1] >= before[-1] - 0.5 and after[four] >= before[four] + 2


def main() -> int:
    """Trains and measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of scenes, from examples/draw_scenes.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of the two runs")
    parser.add_argument("--steps", type=int, default=150, help="steps of each run (default: %(default)s)")
    parser.add_argument("--nested-dropout", type=float, default=0.5, help="of the second run (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=500, help="scenes of bank and of test (default: %(default)s)")
    parser.add_argument("--only", choices=RUNS, help="train this run alone, and do not measure")
    parser.add_argument("--check", action="store_true", help="exit with 1 if ordered tokens do not keep the bounds")
    args = parser.parse_args()
    folders = {name: trained(name, args) for name in ([args.only] if args.only else RUNS)}
    if args.only:
        return 0
    models = {"stellar-tiny": "stellar-tiny"} | {name: str(folder) for name, folder in folders.items()}
    bank, test = (draw_scenes(split, args.scenes, 64, "color") for split in ("train", "test"))
    results = {name: measure(StellarModel.from_pretrained(path).eval(), bank, test) for name, path in models.items()}
    print(f"{args.scenes} scenes with at most {MAX_OBJECTS} objects, {args.steps} steps\n\n{table(results)}")
    return 0 if not args.check or passes(results["plain"], results["ordered"]) else 1


if __name__ == "__main__":
    sys.exit(main())
