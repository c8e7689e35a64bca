"""Measures the PSNR of stellar-tiny on photographs it has not seen, and that of each photograph's mean colour.

    python benchmarks/reconstruct_unseen_photographs.py

Exits with 1 unless the mean is at least 19.5 dB and at least 6 dB above the mean colour, as the model card promises.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from stellar_hub import StellarImageProcessor, StellarModel
from stellar_hub.measures import psnr
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.modeling.card_sections import write_section

PHOTOGRAPHS = Path(__file__).parents[1] / "examples" / "images"
SECTION = "psnr"  # of the card
MIN_PSNR = 19.5  # dB
MIN_GAIN = 6.0  # dB


class Row(NamedTuple):
    """The PSNR of one photograph, in dB."""

    photograph: str
    psnr: float
    mean_color_psnr: float


def measure(model: StellarModel, processor: StellarImageProcessor, folder: Path) -> list[Row]:
    """Returns the PSNR of each photograph's reconstruction and of its mean colour."""
    rows: list[Row] = []
    for path in sorted(folder.glob("*.jpg")):
        pixel_values = processor(path, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            reconstruction = model.reconstruct(pixel_values)
        mean_color = pixel_values.mean(dim=(2, 3), keepdim=True).expand_as(pixel_values)
        rows.append(Row(path.name, psnr(reconstruction, pixel_values), psnr(mean_color, pixel_values)))
    return rows


def table(rows: list[Row]) -> str:
    """Returns the rows and their means as a Markdown table."""
    lines = ["| photograph | PSNR, dB | mean colour, dB | gain, dB |", "|---|---|---|---|"]
    for row in rows:
        values = (row.psnr, row.mean_color_psnr, row.psnr - row.mean_color_psnr)
        lines.append(f"| {row.photograph} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    psnr_mean, baseline = means(rows)
    values = (psnr_mean, baseline, psnr_mean - baseline)
    lines.append(f"| **mean of {len(rows)}** | " + " | ".join(f"**{value:.2f}**" for value in values) + " |")
    return "\n".join(lines)


def means(rows: list[Row]) -> tuple[float, float]:
    """Returns the mean PSNR of reconstructions and of mean colours."""
    return sum(row.psnr for row in rows) / len(rows), sum(row.mean_color_psnr for row in rows) / len(rows)


def main() -> int:
    """Runs the measurement; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stellar-tiny", help="name or folder of the model (default: %(default)s)")
    parser.add_argument("--images", type=Path, default=PHOTOGRAPHS, help="folder of .jpg files")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--update-card", type=Path, help="model card to write the table into")
    args = parser.parse_args()
    model = StellarModel.from_pretrained(args.model)
    rows = measure(model, StellarImageProcessor.from_pretrained(args.model), args.images)
    if not rows:
        parser.error(f"--images {args.images} has no .jpg files")
    print(table(rows))
    if args.json:
        write_atomically(args.json, (json.dumps([row._asdict() for row in rows], indent=2) + "\n").encode())
    if args.update_card:
        card = args.update_card.read_text(encoding="utf-8")
        write_atomically(args.update_card, write_section(card, SECTION, table(rows), args.update_card).encode())
    mean, baseline = means(rows)
    return 0 if mean >= MIN_PSNR and mean - baseline >= MIN_GAIN else 1


if __name__ == "__main__":
    sys.exit(main())
