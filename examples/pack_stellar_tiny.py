r"""Makes the checkpoint that is part of the package from a training run of its recipe.

    python examples/draw_scenes.py --count 4200 --max-objects 3 --class-cue color --size 128 --output outputs/scenes
    stellar-hub train --recipe stellar-tiny --data outputs/scenes --data examples/training_photographs \
        --set model.config.image_size=128 --set data.image_size=128 --set data.local_size=64 \
        --set batch_size=256 --set steps=1000 --set learning_rate=1.2e-3 --set teacher_momentum=0.97 \
        --output outputs/stellar-tiny
    python examples/finetune_decoder.py --model outputs/stellar-tiny/model --data outputs/scenes \
        --data examples/training_photographs --repeats 1 35 --overlap --steps 1200 --batch-size 16 \
        --learning-rate 8e-4 --output outputs/decoder
    python examples/finetune_decoder.py --model outputs/decoder/model --data outputs/scenes \
        --data examples/training_photographs --repeats 1 35 --overlap --steps 400 --batch-size 16 \
        --learning-rate 5e-4 --difference-weight 8 --output outputs/smooth
    python examples/pack_stellar_tiny.py outputs/stellar-tiny stellar_hub/checkpoints/stellar-tiny \
        --weights outputs/smooth/model

The script saves weights as float16, except for the frequencies of the position code. It leaves out code that the
package has. It records what the packed weights compute for one image, for `stellar-hub doctor`. In the card of the
checkpoint it replaces the section on training; the rest of the card stays. With `--weights` the preview in the card
shows what these weights decode, for photographs of `examples/images`.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from stellar_hub import StellarImageProcessor, StellarModel
from stellar_hub.data.sources import open_sources
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.modeling.card_sections import read_section, write_section
from stellar_hub.training.monitoring import read_journal
from stellar_hub.training.monitoring.previews import draw_preview, fixed_images

CURVES, PREVIEW = "curves.png", "reconstructions.png"
PHOTOGRAPHS = Path(__file__).parent / "images"


def pack_weights(source: Path, output: Path) -> None:
    """Saves configuration, processor and float16 weights, without code."""
    model = StellarModel.from_pretrained(source)
    weights = {
        name: tensor if "position_code" in name else tensor.half() for name, tensor in model.state_dict().items()
    }
    model.save_pretrained(output, state_dict=weights)
    StellarImageProcessor.from_config(model.config).save_pretrained(output)
    for copied in output.glob("*.py"):
        copied.unlink()
    for name in ("config.json", "preprocessor_config.json"):
        content = json.loads((output / name).read_text())
        content.pop("auto_map", None)
        write_atomically(output / name, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def record_golden_values(output: Path) -> None:
    """Saves what the packed weights compute for one image of noise."""
    model = StellarModel.from_pretrained(output)
    side = model.config.image_size
    pixel_values = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        encoding = model.encode(pixel_values)
    save_file({"pixel_values": pixel_values, **encoding._asdict()}, output / "golden.safetensors")


def draw_photographs(output: Path) -> None:
    """Draws photographs, what the packed weights decode for them, and the maps of their tokens."""
    model = StellarModel.from_pretrained(output)
    images = fixed_images(open_sources([PHOTOGRAPHS]), model.config)[:3]  # few, for the size of the package
    draw_preview(model, images).save(output / PREVIEW, optimize=True)


def update_card(run: Path, output: Path) -> None:
    """Writes the run's section on training into the card, and copies its curves."""
    section = read_section((run / "model" / "README.md").read_text(encoding="utf-8"), "training")
    if section is None:
        raise SystemExit(f"pack_stellar_tiny: the card of {run / 'model'} does not have a section on training")
    card = output / "README.md"
    write_atomically(card, write_section(card.read_text(encoding="utf-8"), "training", section, card).encode())
    shutil.copyfile(run / "model" / CURVES, output / CURVES)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="Folder of the finished run.")
    parser.add_argument("output", type=Path, help="Folder of the checkpoint, with its card.")
    parser.add_argument("--weights", type=Path, help="Folder of a model that was trained further (default: the run's).")
    args = parser.parse_args()
    if not (args.output / "README.md").is_file():
        raise SystemExit(f"pack_stellar_tiny: {args.output} has no README.md; the section on training goes there")
    try:
        pack_weights(args.weights or args.run / "model", args.output)
        record_golden_values(args.output)
        update_card(args.run, args.output)
        if args.weights:
            draw_photographs(args.output)
        else:
            shutil.copyfile(args.run / "model" / PREVIEW, args.output / PREVIEW)
    except (OSError, ValueError) as error:
        raise SystemExit(f"pack_stellar_tiny: {error}") from error
    last = read_journal(args.run / "metrics.jsonl")[-1]
    write_atomically(args.output / "training.json", (json.dumps(last, indent=2) + "\n").encode())
    print(f"packed {args.run} into {args.output}")


if __name__ == "__main__":
    main()
