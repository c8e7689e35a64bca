"""Time of a run's whole step, computed in the plain way and as a run chooses at its start.

    python benchmarks/trainer_step.py --recipe stellar-tiny --images 256 --device cuda

A step is what `stellar-hub train` does between two batches: the batch goes to the device, which changes its colours;
forward, backward, clipping, the optimizer's update and the teacher's. Weights are random, and images are noise. "plain"
computes one operation after the other, prototype scores in float32, and updates without the fused kernel. "chosen" is
what the recipe's open choices give on this device; the last lines say what the run says of them.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor
from training_step import timed

from stellar_hub.modeling import StellarConfig
from stellar_hub.training import StellarForPreTraining
from stellar_hub.training.recipes.files import load_recipe
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.run import build_stepper
from stellar_hub.training.start import build_accelerator, resolve_recipe
from stellar_hub.training.step import Stepper, build_optimizer
from stellar_hub.training.step_choices import choose_by_device, choose_step, noise_batch

PLAIN = ("run.compile=false", "run.cuda_graphs=false", "optimization.prototype_precision=fp32")
WARM_UP_STEPS = 2


def build(recipe: Recipe, device: str, plain: bool) -> tuple[Recipe, Stepper, list[str]]:
    """Returns the recipe with its choices made, the stepper, and what a run says of the choices."""
    set_seed(0)
    model = StellarForPreTraining(StellarConfig(**recipe.model.config)).train()
    accelerator = build_accelerator(recipe.run, Path(), cpu=device == "cpu")
    recipe = choose_by_device(resolve_recipe(recipe, model.config), accelerator)
    stepper = build_stepper(recipe, accelerator, model, None)
    if plain:
        stepper.optimizer = build_optimizer(model, recipe.optimization)
        return recipe, stepper, []
    recipe, notes = choose_step(recipe, stepper)
    return recipe, stepper, notes


def measure(args: argparse.Namespace, plain: bool) -> dict[str, Any]:
    """Measures one way to do a step."""
    sets = [f"optimization.batch_size={args.images}", "optimization.steps=1000", *args.set]
    recipe, stepper, notes = build(load_recipe(args.recipe, [*sets, *(PLAIN if plain else ())]), args.device, plain)
    batch = noise_batch(recipe, stepper)
    if args.device == "cuda":
        batch = {name: value.pin_memory() if isinstance(value, Tensor) else value for name, value in batch.items()}
    seconds = [timed(lambda: stepper.step(1, [batch]), args.device) for _ in range(args.repeats + WARM_UP_STEPS)]
    median = statistics.median(seconds[WARM_UP_STEPS:])
    row = {
        "way": "plain" if plain else "chosen",
        "ms_per_step": 1e3 * median,
        "images_per_second": args.images / median,
    }
    chosen = {"compile": recipe.run.compile, "cuda_graphs": recipe.run.cuda_graphs}
    return {**row, **chosen, "prototype_precision": recipe.optimization.prototype_precision, "notes": notes}


def main() -> int:
    """Measures and prints both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipe", default="stellar-tiny", help="name of a recipe, or a YAML file (default: %(default)s)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replaces a value of the recipe"
    )
    parser.add_argument("--images", type=int, default=32, help="number of images in the batch (default: %(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=10, help="number of timed steps (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="JSON file to write the numbers to")
    args = parser.parse_args()
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"recipe {args.recipe}, {args.images} images, {where}, torch {torch.__version__}\n")
    print("| step | ms | images per second |\n|---|---|---|")
    rows = []
    for plain in (True, False):
        rows.append(row := measure(args, plain))
        print(f"| {row['way']} | {row['ms_per_step']:.1f} | {row['images_per_second']:.0f} |", flush=True)
    for note in rows[1]["notes"]:
        print(f"\n{note}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
