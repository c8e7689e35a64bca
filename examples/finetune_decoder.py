"""Trains the decoder of a model with the "pixel" head further; the encoder, and with it every code, stays as it is.

    python examples/finetune_decoder.py --model outputs/run/model --data outputs/scenes --data photos --repeats 1 35 \
        --overlap --steps 2000 --output outputs/decoder

The script minimizes the mean squared error of decoded random crops. With `--overlap` the patches that the head predicts
reach half a patch into their neighbours (`pixel_head_overlap` in the configuration), which hides their borders: the
wider head starts as the old one with zeros around it, and so decodes the same at first. `--difference-weight` adds the
error of the differences between neighbouring pixels, which shows what is left of the borders. All images stay in
memory, at no more than 1.5 times the model's size. A second run with the same options goes on after the last steps that
were saved; it ends with the same weights as a run that was never stopped. The finished model is in OUTPUT/model.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as images_of_torchvision

from stellar_hub import StellarConfig, StellarImageProcessor, StellarModel
from stellar_hub.data.random_numbers import step_generator
from stellar_hub.data.sources import open_sources, read_image
from stellar_hub.data.views.crops import ViewSettings, draw_views
from stellar_hub.modeling.factorization import low_rank_product
from stellar_hub.progress import Progress, track
from stellar_hub.training.objectives import pixel_loss

WARMUP_SHARE = 0.05
ROOM = 1.5  # an image keeps this many times the side of a crop
AREA = (0.36, 1.0)  # share of an image that a crop shows


def load_model(name: str, overlap: bool) -> StellarModel:
    """Loads the model; with `overlap`, one whose head predicts patches that overlap.

    Raises:
        ValueError: if the model does not decode by a "pixel" head.
    """
    model = StellarModel.from_pretrained(name)
    if model.decoder is None or model.config.reconstruction_head != "pixel":
        raise ValueError(f"{name} has no 'pixel' head: this script trains no other")
    if not overlap or model.config.pixel_head_overlap:
        return model
    wider = StellarModel(StellarConfig(**{**model.config.to_dict(), "pixel_head_overlap": True}))
    state = model.state_dict()
    state["decoder.head.weight"] = F.pad(state["decoder.head.weight"], [model.config.patch_size // 2] * 4)
    wider.load_state_dict(state)
    return wider.eval()


def read_images(names: Sequence[str], repeats: Sequence[int], side: int) -> list[Tensor]:
    """Returns the images of all sources, `(3, H, W)` uint8, reduced to what crops of this side need."""
    kept: dict[str, Tensor] = {}  # by name, because a repeated image is kept once
    found = []
    for image in track(list(open_sources(names, repeats)), "reading", unit="image"):
        if str(image) not in kept:
            pixels = read_image(image)
            factor = ROOM * side / min(pixels.shape[1:])
            size = [max(side, round(length * factor)) for length in pixels.shape[1:]]
            kept[str(image)] = pixels if factor >= 1 else images_of_torchvision.resize(pixels, size, antialias=True)
        found.append(kept[str(image)])
    return found


def draw_batch(images: Sequence[Tensor], step: int, args: argparse.Namespace, side: int) -> Tensor:
    """Returns the crops of a step, `(batch_size, 3, side, side)` in [0, 1]; they depend on seed and step alone."""
    generator = step_generator(args.seed, step, 0)
    settings = ViewSettings(side, side, 1, 0, AREA, AREA, flip_probability=0.5)
    chosen = torch.randint(len(images), (args.batch_size,), generator=generator).tolist()
    return torch.cat([draw_views(images[index], settings, generator)[0] for index in chosen]) / 255


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Returns the learning rate of a step: it rises linearly, then falls to 0 as a cosine."""
    warmup = max(1, round(WARMUP_SHARE * args.steps))
    if step < warmup:
        return args.learning_rate * (step + 1) / warmup
    return args.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, args.steps - warmup)))


def difference_loss(prediction: Tensor, pixel_values: Tensor) -> Tensor:
    """Returns the mean squared error of the differences between pixels side by side, and one above the other."""
    error = prediction - pixel_values
    return error.diff(dim=2).square().mean() + error.diff(dim=3).square().mean()


class Run:
    """A run, which can be saved after any step and goes on from there."""

    def __init__(self, model: StellarModel, args: argparse.Namespace):
        assert model.decoder is not None
        self.model, self.decoder, self.args = model.requires_grad_(False), model.decoder, args
        self.decoder.requires_grad_(True).train()
        self.optimizer = create_optimizer_v2(self.decoder, opt="adamw", lr=args.learning_rate, weight_decay=0.05)
        self.step, self.file = 0, args.output / "state.pt"
        facts = ("model", "data", "repeats", "overlap", "steps", "batch_size", "learning_rate", "difference_weight")
        facts += ("seed", "precision")
        self.facts = {name: getattr(args, name) for name in facts}

    def save(self) -> None:
        """Saves weights, optimizer, step and options; the file is complete or not there."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        content = {"decoder": self.decoder.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**content, "step": self.step, "facts": json.dumps(self.facts)}, part)
        part.replace(self.file)

    def resume(self) -> None:
        """Goes on from a saved step, if there is one.

        Raises:
            ValueError: if the saved run had other options.
        """
        if not self.file.exists():
            return
        content: dict[str, Any] = torch.load(self.file, weights_only=True)
        if json.loads(content["facts"]) != json.loads(json.dumps(self.facts)):
            raise ValueError(
                f"{self.args.output} has a run with other options, {content['facts']}: name another --output"
            )
        self.decoder.load_state_dict(content["decoder"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step = content["step"]

    def train(self, images: Sequence[Tensor]) -> None:
        """Takes the missing steps."""
        side, smoothed = self.model.config.image_size, None
        with Progress(self.args.steps, "step", "decoder", done=self.step) as progress:
            while self.step < self.args.steps:
                loss = self.take_step(draw_batch(images, self.step, self.args, side))
                smoothed = loss if smoothed is None else 0.98 * smoothed + 0.02 * loss
                self.step += 1
                progress.update(1, f"{-10 * math.log10(smoothed):.2f} dB")
                if self.step % self.args.save_every == 0 or self.step == self.args.steps:
                    self.save()

    def take_step(self, pixel_values: Tensor) -> float:
        """Updates the decoder with one batch, and returns its mean squared error."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.args)
        grid = self.model.grid_size(*pixel_values.shape[-2:])
        with torch.autocast("cpu", torch.bfloat16, enabled=self.args.precision == "bf16"):
            with torch.no_grad():
                semantics, localization = self.model.encode(pixel_values)
                dense = low_rank_product(localization, semantics)
            prediction = self.decoder(dense, grid, predict=True)
        loss = error = pixel_loss(prediction, pixel_values)
        if self.args.difference_weight:
            loss = error + self.args.difference_weight * difference_loss(prediction, pixel_values)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.decoder.parameters(), 1.0)
        self.optimizer.step()
        return error.item()


def parse_args() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="name or folder of the model")
    parser.add_argument("--data", action="append", required=True, help="source of images; may be repeated")
    parser.add_argument(
        "--repeats", type=int, nargs="*", default=[], help="how often each source occurs (default: once)"
    )
    parser.add_argument("--overlap", action="store_true", help="let the patches of the head overlap")
    parser.add_argument("--steps", type=int, default=2000, help="number of steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="crops of a step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="highest rate (default: %(default)s)")
    parser.add_argument(
        "--difference-weight", type=float, default=0, help="weight of differences of pixels (default: %(default)s)"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the crops (default: %(default)s)")
    parser.add_argument("--save-every", type=int, default=100, help="steps between two saves (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    return parser.parse_args()


def main() -> None:
    """Runs the command line."""
    args = parse_args()
    try:
        run = Run(load_model(args.model, args.overlap), args)
        run.resume()
        run.train(read_images(args.data, args.repeats, run.model.config.image_size))
        run.model.eval().save_pretrained(args.output / "model")
        StellarImageProcessor.from_pretrained(args.model).save_pretrained(args.output / "model")
    except (OSError, ValueError) as error:
        raise SystemExit(f"finetune_decoder: {error}") from error
    print(f"the model is in {args.output / 'model'}")


if __name__ == "__main__":
    main()
