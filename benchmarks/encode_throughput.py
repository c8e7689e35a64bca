"""How fast stellar-b16 encodes, beside a plain ViT of timm's and DINOv2 of transformers'.

    python benchmarks/encode_throughput.py --check

All have random weights and the same width and depth. They take turns; reported are median times. As the token counts
differ (16 sparse tokens here, patches of 14 pixels there), they are compared by time per token. "of the matrix rate" is
the counted floating-point operations over the time, as a share of what a product of two large square matrices reaches
in the same run.

With `--check` it exits with 1 unless ours is at least as fast as timm's per token, and in bfloat16 reaches 0.8 of the
matrix rate, each at the largest batch.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from stellar_hub.modeling import StellarConfig, StellarModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2Config, Dinov2Model

IMAGE_SIZE = 224
MATRIX_SIZE = 2048
LEAST_SPEED = 1.0  # of timm's, per token
LEAST_SHARE = 0.8  # of the matrix rate, in bfloat16


class Contestant(NamedTuple):
    """A model and how it is called."""

    name: str
    run: Callable[[Tensor], Any]
    tokens: int  # that go through the blocks


def build(name: str, dtype: torch.dtype, device: str) -> Contestant:
    """One of "stellar-b16", "timm" and "dinov2", with random weights."""
    torch.manual_seed(0)
    if name == "stellar-b16":
        config = StellarConfig(use_decoder=False, use_tokenizer=False)
        stellar = prepared(StellarModel(config), dtype, device)
        return Contestant(name, stellar.encode, 196 + 1 + config.num_sparse_tokens)
    if name == "timm":
        return Contestant(
            "timm vit_base_patch16_224",
            prepared(timm.create_model("vit_base_patch16_224", num_classes=0), dtype, device),
            197,
        )
    return Contestant(
        "transformers Dinov2-base", prepared(Dinov2Model(Dinov2Config(image_size=IMAGE_SIZE)), dtype, device), 257
    )


def prepared(model: nn.Module, dtype: torch.dtype, device: str) -> Any:
    """For inference."""
    return model.to(device=device, dtype=dtype).eval()


def timed(function: Callable[[], Any], device: str) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def count_operations(run: Callable[[Tensor], Any], images: Tensor) -> int:
    """Floating-point operations of one call: two for each product that is added up."""
    with FlopCounterMode(display=False) as counter:
        run(images)
    return counter.get_total_flops()


def compare(dtype: torch.dtype, batch: int, repeats: int, device: str) -> list[dict[str, Any]]:
    """One row for each model."""
    images = torch.rand(batch, 3, IMAGE_SIZE, IMAGE_SIZE).to(device=device, dtype=dtype)
    contestants = [build(name, dtype, device) for name in ("stellar-b16", "timm", "dinov2")]
    left = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device).to(dtype)
    calls: dict[str, Callable[[], Any]] = {one.name: lambda one=one: one.run(images) for one in contestants}
    calls["matrix"] = lambda: left @ left
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        operations = {one.name: count_operations(one.run, images[:1]) * batch for one in contestants}
        for _ in range(repeats + 1):
            for name, call in calls.items():
                seconds[name].append(timed(call, device))
    median = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
    rate = 2 * MATRIX_SIZE**3 / median["matrix"]
    per_token = {one.name: median[one.name] / batch / one.tokens for one in contestants}
    reference = per_token[contestants[1].name]
    return [
        {
            "model": one.name,
            "dtype": str(dtype).removeprefix("torch."),
            "batch": batch,
            "images_per_second": batch / median[one.name],
            "microseconds_per_token": 1e6 * per_token[one.name],
            "speed_per_token": reference / per_token[one.name],
            "share_of_matrix_rate": operations[one.name] / median[one.name] / rate,
            "matrix_gflops": rate / 1e9,
        }
        for one in contestants
    ]


def print_table(rows: Sequence[dict[str, Any]], device: str) -> None:
    """Markdown."""
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    print(
        f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, {IMAGE_SIZE} x {IMAGE_SIZE} pixels\n"
    )
    print("| model | dtype | batch | images/s | us per token | of timm's per token | of the matrix rate (GFLOP/s) |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        share = f"{row['share_of_matrix_rate']:.2f} ({row['matrix_gflops']:.0f})"
        speed = f"{row['images_per_second']:.2f} | {row['microseconds_per_token']:.1f} | {row['speed_per_token']:.2f}"
        print(f"| {row['model']} | {row['dtype']} | {row['batch']} | {speed} | {share} |", flush=True)


def meets_bars(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether ours is fast enough at the largest batch."""
    largest = max(row["batch"] for row in rows)
    ours = [row for row in rows if row["model"] == "stellar-b16" and row["batch"] == largest]
    return all(
        row["speed_per_token"] >= LEAST_SPEED
        and (row["dtype"] != "bfloat16" or row["share_of_matrix_rate"] >= LEAST_SHARE)
        for row in ours
    )


def main() -> int:
    """Compare, print, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="images (default: %(default)s)")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="(default: %(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of the timing (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--check", action="store_true", help="exit with 1 if ours misses a bar")
    args = parser.parse_args()
    rows = [
        row
        for dtype in args.dtypes
        for batch in args.batches
        for row in compare(getattr(torch, dtype), batch, args.repeats, args.device)
    ]
    print_table(rows, args.device)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if meets_bars(rows) or not args.check else 1


if __name__ == "__main__":
    raise SystemExit(main())
