"""How far lower precisions drift from float32, on the photographs of examples/images.

    python benchmarks/precision.py

For each: the cosine of every token of `S` with its float32 counterpart (mean and lowest over tokens and photographs),
the share of patches whose strongest token in `L` is the same, the PSNR of the decoded photographs against the float32
decode (mean and lowest), and how their PSNR against the photographs themselves changes. The whole model is in the
dtype, but under autocast, where it stays float32, and with int8 weights (linear layers only, through torchao: the extra
`quantization`), where activations stay float32.
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
    """The model of one variant."""
    model = StellarModel.from_pretrained(source, dtype=VARIANTS[name]).to(device)
    if name == INT8:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(model, Int8WeightOnlyConfig())
    return model


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


def psnr_of_each(images: Tensor, expected: Tensor) -> Tensor:
    """Computes the PSNR of each image in dB."""
    return torch.tensor([psnr(*pair) for pair in zip(images, expected, strict=True)])


def compare(
    name: str,
    result: tuple[StellarEncoding, Tensor],
    expected: tuple[StellarEncoding, Tensor],
    photographs: Tensor,
) -> dict[str, str | float]:
    """One row of the table."""
    (encoding, images), (expected_encoding, expected_images) = result, expected
    cosine = F.cosine_similarity(encoding.semantics, expected_encoding.semantics, dim=-1)
    same = encoding.localization.argmax(dim=-1) == expected_encoding.localization.argmax(dim=-1)
    decibels = psnr_of_each(images, expected_images)
    return {
        "variant": name,
        "cosine_mean": float(cosine.mean()),
        "cosine_lowest": float(cosine.min()),
        "argmax_agreement": float(same.float().mean()),
        "psnr_mean": float(decibels.mean()),
        "psnr_lowest": float(decibels.min()),
        "psnr_change": float((psnr_of_each(images, photographs) - psnr_of_each(expected_images, photographs)).mean()),
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
    for name in VARIANTS:
        try:
            variant = prepare(name, args.model, args.device)
        except ImportError as error:
            print(f"{name} left out: pip install '.[quantization]' ({error})", file=sys.stderr)
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
