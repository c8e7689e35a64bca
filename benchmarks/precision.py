"""Measures how far lower precisions differ from float32, on the photographs of examples/images.

    python benchmarks/precision.py

The table shows for each precision: the cosine of every token of `S` with the same token in float32 (mean and lowest of
all tokens and photographs), the share of patches whose strongest token in `L` is the same, the PSNR of the decoded
photographs against those of float32 (mean and lowest), and the change of their PSNR against the photographs. The whole
model has the precision's dtype. There are two exceptions: under autocast weights stay float32, and with int8 weights
(linear layers only, by torchao, the extra `quantization`) activations stay float32.
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
from stellar_hub.extras import require
from stellar_hub.measures import psnr

PHOTOGRAPHS = Path(__file__).parents[1] / "examples" / "images"
INT8 = "int8 weights"
VARIANTS = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "bfloat16 autocast": torch.float32,
    INT8: torch.float32,
}


def prepare(name: str, source: str, device: str) -> StellarModel:
    """Loads the model of one variant."""
    model = StellarModel.from_pretrained(source, dtype=VARIANTS[name]).to(device)
    if name == INT8:
        quantization = require("torchao.quantization", "quantization", INT8).quantization
        quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def run(model: StellarModel, pixel_values: Tensor, autocast: bool) -> tuple[StellarEncoding, Tensor]:
    """Encodes and decodes photographs one by one, and returns encodings and images as float32 on the CPU."""
    device = model.device.type
    context: AbstractContextManager = torch.autocast(device, dtype=torch.bfloat16) if autocast else nullcontext()
    semantics, localization, images = [], [], []
    with torch.inference_mode(), context:
        for image in pixel_values.to(model.device).split(1):
            encoding = model.encode(image)
            images.append(model.decode(encoding).float().cpu())
            semantics.append(encoding.semantics.float().cpu())
            localization.append(encoding.localization.float().cpu())
    return StellarEncoding(torch.cat(semantics), torch.cat(localization)), torch.cat(images)


def image_psnrs(images: Tensor, expected: Tensor) -> Tensor:
    """Returns the peak signal-to-noise ratio of each image in dB, for values in [0, 1]."""
    return torch.tensor([psnr(*pair) for pair in zip(images, expected, strict=True)])


def compare(
    name: str,
    result: tuple[StellarEncoding, Tensor],
    expected: tuple[StellarEncoding, Tensor],
    photographs: Tensor,
) -> dict[str, str | float]:
    """Returns one row of the table."""
    (encoding, images), (expected_encoding, expected_images) = result, expected
    cosine = F.cosine_similarity(encoding.semantics, expected_encoding.semantics, dim=-1)
    same = encoding.localization.argmax(dim=-1) == expected_encoding.localization.argmax(dim=-1)
    decibels = image_psnrs(images, expected_images)
    change = image_psnrs(images, photographs) - image_psnrs(expected_images, photographs)
    return {
        "variant": name,
        "cosine_mean": float(cosine.mean()),
        "cosine_lowest": float(cosine.min()),
        "argmax_agreement": float(same.float().mean()),
        "psnr_mean": float(decibels.mean()),
        "psnr_lowest": float(decibels.min()),
        "psnr_change": float(change.mean()),
    }


def main() -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stellar-tiny", help="Name or folder of the model. Default: %(default)s.")
    parser.add_argument(
        "--images", type=Path, default=PHOTOGRAPHS, help="Folder of .jpg files. Default: examples/images."
    )
    parser.add_argument("--device", default="cpu", help="Device that computes. Default: %(default)s.")
    parser.add_argument("--json", type=Path, help="File to write the rows to.")
    args = parser.parse_args()
    paths = sorted(args.images.glob("*.jpg"))
    if not paths:
        raise SystemExit(f"no .jpg files in {args.images}")
    processor = StellarImageProcessor.from_pretrained(args.model)
    pixel_values = processor(paths, return_tensors="pt")["pixel_values"]
    model = StellarModel.from_pretrained(args.model, dtype=torch.float32).to(args.device)
    expected = run(model, pixel_values, autocast=False)
    rows = []
    for name in VARIANTS:
        try:
            variant = prepare(name, args.model, args.device)
        except ImportError as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        result = run(variant, pixel_values, autocast="autocast" in name)
        rows.append(compare(name, result, expected, pixel_values))
    print(f"{args.model}, {len(paths)} photographs, {args.device}, against float32\n")
    print(
        "| variant | cosine of S | lowest | same argmax of L | PSNR to float32, dB, mean | lowest | PSNR change, dB |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        cosines = f"{row['cosine_mean']:.6f} | {row['cosine_lowest']:.6f}"
        decibels = f"{row['psnr_mean']:.1f} | {row['psnr_lowest']:.1f}"
        agreement, change = f"{row['argmax_agreement']:.2%}", f"{row['psnr_change']:+.4f}"
        print(f"| {row['variant']} | {cosines} | {agreement} | {decibels} | {change} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
