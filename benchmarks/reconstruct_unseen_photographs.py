"""Measures the PSNR of stellar-tiny on photographs it has not seen, and that of each photograph's mean colour.

    python benchmarks/reconstruct_unseen_photographs.py

The last column tells whether the patches can be seen: by what factor neighbouring pixels of the decoded image differ
more across a border of patches than elsewhere. It is 1 where they cannot. The script exits with 1 unless the mean PSNR
is at least 20.8 dB and at least 6 dB above that of the mean colour, and the mean factor is at most 1.5.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stellar_hub import StellarImageProcessor, StellarModel
from stellar_hub.measures import psnr
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.modeling.card_sections import write_section

PHOTOGRAPHS = Path(__file__).parents[1] / "examples" / "images"
SECTION = "psnr"  # of the card
MIN_PSNR = 20.8  # dB
MIN_GAIN = 6.0  # dB
MAX_BORDERS = 1.5


class Row(NamedTuple):
    """The PSNR of one photograph, in dB, and how much its patches are seen."""

    photograph: str
    psnr: float
    mean_color_psnr: float
    borders: float


def measure(model: StellarModel, processor: StellarImageProcessor, folder: Path) -> list[Row]:
    """Returns the PSNR of each photograph's reconstruction and of its mean colour."""
    rows: list[Row] = []
    for path in sorted(folder.glob("*.jpg")):
        pixel_values = processor(path, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            reconstruction = model.reconstruct(pixel_values)
        mean_color = pixel_values.mean(dim=(2, 3), keepdim=True).expand_as(pixel_values)
        borders = border_factor(reconstruction, model.config.patch_size)
        rows.append(Row(path.name, psnr(reconstruction, pixel_values), psnr(mean_color, pixel_values), borders))
    return rows


def border_factor(images: Tensor, patch_size: int) -> float:
    """Returns by what factor neighbouring pixels differ more across a border of patches than elsewhere.

    Args:
        images: `(B, C, H, W)`.
        patch_size: Side of a patch in pixels, at least 2.
    """
    across, elsewhere = [], []
    for direction in (2, 3):
        steps = images.diff(dim=direction).abs().movedim(direction, 0)
        is_border = torch.arange(1, len(steps) + 1) % patch_size == 0
        across.append(steps[is_border].mean())
        elsewhere.append(steps[~is_border].mean())
    return float(sum(across) / sum(elsewhere))


def table(rows: list[Row]) -> str:
    """Returns the rows and their means as a Markdown table."""
    lines = ["| photograph | PSNR, dB | mean colour, dB | gain, dB | borders of patches |", "|---|---|---|---|---|"]
    for row in rows:
        values = (row.psnr, row.mean_color_psnr, row.psnr - row.mean_color_psnr, row.borders)
        lines.append(f"| {row.photograph} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    psnr_mean, baseline, borders = means(rows)
    values = (psnr_mean, baseline, psnr_mean - baseline, borders)
    lines.append(f"| **mean of {len(rows)}** | " + " | ".join(f"**{value:.2f}**" for value in values) + " |")
    return "\n".join(lines)


def means(rows: list[Row]) -> tuple[float, float, float]:
    """Returns the mean PSNR of reconstructions and of mean colours, and the mean factor of borders."""
    values = [(row.psnr, row.mean_color_psnr, row.borders) for row in rows]
    first, second, third = (statistics.fmean(each) for each in zip(*values, strict=True))
    return first, second, third


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
    mean, baseline, borders = means(rows)
    return 0 if mean >= MIN_PSNR and mean - baseline >= MIN_GAIN and borders <= MAX_BORDERS else 1


if __name__ == "__main__":
    sys.exit(main())
