"""How far bfloat16, float16 and bfloat16 autocast drift from float32, on the photographs of examples/images.

    python benchmarks/dtype_drift.py

For each: the cosine of every token of `S` with its float32 counterpart (mean and lowest over tokens and photographs),
the share of patches whose strongest token in `L` is the same, and the PSNR of the decoded photographs against the
float32 decode (mean and lowest). The whole model is in the dtype, but under autocast, where it stays float32.
"""

import argparse
import json
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub import StellarEncoding, StellarImageProcessor, StellarModel

PHOTOGRAPHS = Path(__file__).parents[1] / "examples" / "images"
VARIANTS = {
    "bfloat16": (torch.bfloat16, False),
    "float16": (torch.float16, False),
    "bfloat16 autocast": (torch.float32, True),
}


def run(model: StellarModel, pixel_values: Tensor, autocast: bool) -> tuple[StellarEncoding, Tensor]:
    """Encode and decode photographs one by one; everything returned as float32 on the CPU."""
    device = model.device.type
    context: AbstractContextManager = torch.autocast(device, dtype=torch.bfloat16) if autocast else nullcontext()
    semantics, localization, images = [], [], []
    with torch.inference_mode(), context:
        for image in pixel_values.to(model.device).split(1):
            encoding = model.encode(image)
            images.append(model.decode(*encoding).float().cpu())
            semantics.append(encoding.semantics.float().cpu())
            localization.append(encoding.localization.float().cpu())
    return StellarEncoding(torch.cat(semantics), torch.cat(localization)), torch.cat(images)


def psnr(images: Tensor, expected: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image with values in [0, 1]."""
    return -10 * torch.log10((images - expected).square().mean(dim=(1, 2, 3)))


def compare(
    name: str, result: tuple[StellarEncoding, Tensor], expected: tuple[StellarEncoding, Tensor]
) -> dict[str, str | float]:
    """One row of the table."""
    (encoding, images), (expected_encoding, expected_images) = result, expected
    cosine = F.cosine_similarity(encoding.semantics, expected_encoding.semantics, dim=-1)
    same = encoding.localization.argmax(dim=-1) == expected_encoding.localization.argmax(dim=-1)
    decibels = psnr(images, expected_images)
    return {
        "variant": name,
        "cosine_mean": float(cosine.mean()),
        "cosine_lowest": float(cosine.min()),
        "argmax_agreement": float(same.float().mean()),
        "psnr_mean": float(decibels.mean()),
        "psnr_lowest": float(decibels.min()),
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stellar-tiny", help="name or folder (default: %(default)s)")
    parser.add_argument("--images", type=Path, default=PHOTOGRAPHS, help="folder of .jpg files")
    parser.add_argument("--device", default="cpu", help="where to compute (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    args = parser.parse_args()
    paths = sorted(args.images.glob("*.jpg"))
    if not paths:
        raise SystemExit(f"no .jpg files in {args.images}")
    processor = StellarImageProcessor.from_pretrained(args.model)
    pixel_values = processor(paths, return_tensors="pt")["pixel_values"]
    model = StellarModel.from_pretrained(args.model, dtype=torch.float32).to(args.device)
    expected = run(model, pixel_values, autocast=False)
    rows = []
    for name, (dtype, autocast) in VARIANTS.items():
        variant = StellarModel.from_pretrained(args.model, dtype=dtype).to(args.device)
        rows.append(compare(name, run(variant, pixel_values, autocast), expected))
    print(f"{args.model}, {len(paths)} photographs, {args.device}, against float32\n")
    print("| variant | cosine of S, mean | lowest | same argmax of L | PSNR of the decode, dB, mean | lowest |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        cosines = f"{row['cosine_mean']:.6f} | {row['cosine_lowest']:.6f}"
        decibels = f"{row['psnr_mean']:.1f} | {row['psnr_lowest']:.1f}"
        print(f"| {row['variant']} | {cosines} | {row['argmax_agreement']:.2%} | {decibels} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
