"""PSNR of stellar-tiny on photographs it has not seen, beside that of each photograph's mean colour.

    python benchmarks/reconstruct_unseen_photographs.py

Exits with 1 if the mean is below 19.5 dB or less than 6 dB above the mean colour, which the model card promises.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from stellar_hub import StellarImageProcessor, StellarModel

PHOTOGRAPHS = Path(__file__).parents[1] / "examples" / "images"
LEAST_PSNR = 19.5
LEAST_GAIN = 6.0


def psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of values in [0, 1]."""
    return float(-10 * torch.log10((first - second).square().mean()))


def measure(model: StellarModel, processor: StellarImageProcessor, folder: Path) -> list[dict[str, str | float]]:
    """One row per photograph: PSNR of its reconstruction, and of its mean colour."""
    rows: list[dict[str, str | float]] = []
    for path in sorted(folder.glob("*.jpg")):
        pixel_values = processor(path, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            reconstruction = model.decode(*model.encode(pixel_values))
        mean_color = pixel_values.mean(dim=(2, 3), keepdim=True)
        rows.append(
            {
                "photograph": path.name,
                "psnr": psnr(reconstruction, pixel_values),
                "mean_color_psnr": psnr(mean_color, pixel_values),
            }
        )
    return rows


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stellar-tiny", help="name or folder (default: %(default)s)")
    parser.add_argument("--images", type=Path, default=PHOTOGRAPHS, help="folder of .jpg files")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    args = parser.parse_args()
    model = StellarModel.from_pretrained(args.model)
    rows = measure(model, StellarImageProcessor.from_pretrained(args.model), args.images)
    if not rows:
        raise SystemExit(f"no .jpg files in {args.images}")
    print("| photograph | PSNR, dB | mean colour, dB | gain, dB |\n|---|---|---|---|")
    for row in rows:
        gain = row["psnr"] - row["mean_color_psnr"]
        print(f"| {row['photograph']} | {row['psnr']:.2f} | {row['mean_color_psnr']:.2f} | {gain:.2f} |")
    mean = sum(row["psnr"] for row in rows) / len(rows)
    baseline = sum(row["mean_color_psnr"] for row in rows) / len(rows)
    print(f"| **mean of {len(rows)}** | **{mean:.2f}** | **{baseline:.2f}** | **{mean - baseline:.2f}** |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if mean >= LEAST_PSNR and mean - baseline >= LEAST_GAIN else 1


if __name__ == "__main__":
    sys.exit(main())
