"""PSNR of stellar-tiny on photographs it has not seen, beside that of each photograph's mean colour.

    python benchmarks/reconstruct_unseen_photographs.py

Exits with 1 if the mean is below 19.5 dB or less than 6 dB above the mean colour, which the model card promises.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from stellar_hub import StellarImageProcessor, StellarModel
from stellar_hub.measures import psnr

PHOTOGRAPHS = Path(__file__).parents[1] / "examples" / "images"
MIN_PSNR = 19.5
MIN_GAIN = 6.0


class Row(NamedTuple):
    """One photograph; decibels."""

    photograph: str
    psnr: float
    mean_color_psnr: float


def measure(model: StellarModel, processor: StellarImageProcessor, folder: Path) -> list[Row]:
    """One row per photograph: PSNR of its reconstruction, and of its mean colour."""
    rows: list[Row] = []
    for path in sorted(folder.glob("*.jpg")):
        pixel_values = processor(path, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            reconstruction = model.decode(*model.encode(pixel_values))
        mean_color = pixel_values.mean(dim=(2, 3), keepdim=True).expand_as(pixel_values)
        rows.append(Row(path.name, psnr(reconstruction, pixel_values), psnr(mean_color, pixel_values)))
    return rows


def table(rows: list[Row]) -> str:
    """The rows and their means, as Markdown."""
    lines = ["| photograph | PSNR, dB | mean colour, dB | gain, dB |", "|---|---|---|---|"]
    for row in rows:
        values = (row.psnr, row.mean_color_psnr, row.psnr - row.mean_color_psnr)
        lines.append(f"| {row.photograph} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    psnr_mean, baseline = means(rows)
    values = (psnr_mean, baseline, psnr_mean - baseline)
    lines.append(f"| **mean of {len(rows)}** | " + " | ".join(f"**{value:.2f}**" for value in values) + " |")
    return "\n".join(lines)


def means(rows: list[Row]) -> tuple[float, float]:
    """Mean PSNR of reconstruction and of mean colour."""
    return sum(row.psnr for row in rows) / len(rows), sum(row.mean_color_psnr for row in rows) / len(rows)


def update_card(card: Path, new_table: str) -> None:
    """Replace the table between the card's two markers."""
    text, changed = re.subn(
        r"(<!-- psnr -->\n).*?(<!-- /psnr -->)",
        lambda match: f"{match[1]}{new_table}\n{match[2]}",
        card.read_text(),
        flags=re.DOTALL,
    )
    if changed != 1:
        raise SystemExit(f"{card} has no <!-- psnr --> ... <!-- /psnr --> to put the table in")
    card.write_text(text)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stellar-tiny", help="name or folder (default: %(default)s)")
    parser.add_argument("--images", type=Path, default=PHOTOGRAPHS, help="folder of .jpg files")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--update-card", type=Path, help="model card whose table to replace")
    args = parser.parse_args()
    model = StellarModel.from_pretrained(args.model)
    rows = measure(model, StellarImageProcessor.from_pretrained(args.model), args.images)
    if not rows:
        raise SystemExit(f"no .jpg files in {args.images}")
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([row._asdict() for row in rows], indent=2) + "\n")
    if args.update_card:
        update_card(args.update_card, table(rows))
    mean, baseline = means(rows)
    return 0 if mean >= MIN_PSNR and mean - baseline >= MIN_GAIN else 1


if __name__ == "__main__":
    sys.exit(main())
