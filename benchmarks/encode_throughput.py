"""Measures how fast STELLAR encodes and decodes, compared with timm's plain ViT and transformers' DINOv2.

    python benchmarks/encode_throughput.py --check
    python benchmarks/encode_throughput.py --device cuda --sizes b16 l16 h16 --batches 128 --dtypes bfloat16 --decode

All models have random weights, and models of one size have the same width and depth. "optimized" is STELLAR after
`optimize_for_inference`, whose report is printed. The models take turns, and the table shows median times. Token counts
differ (STELLAR has 16 more tokens, DINOv2 has patches of 14 pixels), so models are compared by time per token. "of the
matrix rate" is the number of floating-point operations divided by the time, as a share of the rate that a product of
two large square matrices reaches in the same run, by torch's `@` or packed for oneDNN, whichever is faster.

`--profile` prints which operations take the time of "optimized" at the largest batch.

With `--check` the exit status is 1 unless "optimized", at the largest batch, is at least as fast per token as timm
(0.95 of its speed on CUDA) and in bfloat16 reaches 0.8 of the matrix rate (0.6 on CUDA, b16).
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2Config, Dinov2Model

from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.modeling.packed_linear import PackedLinear, can_pack

IMAGE_SIZE = 224
MATRIX_SIZE = {"cpu": 2048, "cuda": 8192}
MIN_SPEED = {"cpu": 1.0, "cuda": 0.95}  # of timm's, per token
MIN_SHARE = {"cpu": 0.8, "cuda": 0.6}  # of the matrix rate, in bfloat16


class Size(NamedTuple):
    """A model size, and the models of the other libraries that have it."""

    config: dict[str, Any]
    timm_name: str
    dinov2: dict[str, Any] | None  # None if DINOv2 does not have this size


SIZES = {
    "b16": Size({}, "vit_base_patch16_224", {}),
    "l16": Size(
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
        "vit_large_patch16_224",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    ),
    "h16": Size(
        {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "patch_size": 14},
        "vit_huge_patch14_224",
        None,
    ),
}


class Contestant(NamedTuple):
    """A model and a function that runs it.

    Attributes:
        name: Name in the table.
        run: Function that takes a batch of images.
        tokens: Number of tokens per image that go through the blocks.
        operations: Number of floating-point operations per image.
    """

    name: str
    run: Callable[[Tensor], Any]
    tokens: int
    operations: int


def build_all(size: str, dtype: torch.dtype, device: str, decode: bool) -> list[Contestant]:
    """Builds STELLAR, STELLAR optimized, timm's and transformers' model, with random weights."""
    torch.manual_seed(0)
    options, timm_name, dinov2 = SIZES[size]
    image = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE).to(device=device, dtype=dtype)
    config = StellarConfig(**options, use_decoder=decode)
    num_patches = (IMAGE_SIZE // config.patch_size) ** 2
    contestants = []
    operations: dict[str, int] = {}
    for name in (f"stellar-{size}", f"stellar-{size} optimized"):
        model = prepared(StellarModel(config), dtype, device)
        # Counted before `optimize_for_inference`: torch does not count the products of oneDNN.
        operations = operations or count_operations(model, image, decode)
        if name.endswith("optimized"):
            print(f"{name}, {dtype}:\n{model.optimize_for_inference()}\n", flush=True)
        tokens = num_patches + 1 + config.num_sparse_tokens
        contestants.append(Contestant(name, model.encode, tokens, operations["encode"]))
        if decode:
            run = lambda images, model=model: model.decode(*random_code(images, model))  # noqa: E731
            contestants.append(Contestant(f"{name}, decode", run, num_patches, operations["decode"]))
    others = [(f"timm {timm_name}", timm.create_model(timm_name, num_classes=0), num_patches + 1)]
    if dinov2 is not None:
        other = Dinov2Model(Dinov2Config(image_size=IMAGE_SIZE, **dinov2))
        others.append((f"transformers Dinov2, {size[0]}", other, (IMAGE_SIZE // 14) ** 2 + 1))
    for name, other, tokens in others:
        model = prepared(other, dtype, device)
        contestants.append(Contestant(name, model, tokens, flops(model, image)))
    return contestants


def prepared(model: nn.Module, dtype: torch.dtype, device: str) -> Any:
    """Returns a model in evaluation mode, on the device and in the dtype."""
    return model.to(device=device, dtype=dtype).eval()


def random_code(images: Tensor, model: StellarModel) -> tuple[Tensor, Tensor]:
    """Returns constant `S` and `L` of the shapes that `encode` gives."""
    num_patches = (IMAGE_SIZE // model.patch_size) ** 2
    batch, tokens = images.shape[0], model.config.num_sparse_tokens
    semantics = images.new_ones(batch, tokens, model.num_features)
    return semantics, images.new_full((batch, num_patches, tokens), 1 / tokens)


def count_operations(model: Any, image: Tensor, decode: bool) -> dict[str, int]:
    """Returns the numbers of floating-point operations to encode and to decode one image."""
    found = {"encode": flops(model.encode, image)}
    if decode:
        found["decode"] = flops(lambda images: model.decode(*random_code(images, model)), image)
    return found


@torch.inference_mode()
def flops(run: Callable[[Tensor], Any], images: Tensor) -> int:
    """Returns the number of floating-point operations of one call: two for each multiplication with addition."""
    with FlopCounterMode(display=False) as counter:
        run(images)
    return counter.get_total_flops()


def timed(function: Callable[[], Any], device: str) -> float:
    """Returns the seconds of one call."""
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matrix_products(dtype: torch.dtype, device: str) -> dict[str, Callable[[], Any]]:
    """Returns functions that compute a large matrix product, by torch and, if possible, packed for oneDNN."""
    side = MATRIX_SIZE[device]
    left = torch.randn(side, side, device=device).to(dtype)
    products: dict[str, Callable[[], Any]] = {"matrix": lambda: left @ left}
    if can_pack(left):
        packed = PackedLinear(nn.Linear(side, side).to(dtype))
        products["matrix, packed"] = lambda: packed(left)
    return products


@torch.inference_mode()
def compare(size: str, dtype: torch.dtype, batches: Sequence[int], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns one row for each model and batch size."""
    contestants = build_all(size, dtype, args.device, args.decode)
    products = matrix_products(dtype, args.device)
    rows = []
    for batch in batches:
        images = torch.rand(batch, 3, IMAGE_SIZE, IMAGE_SIZE).to(device=args.device, dtype=dtype)
        if args.profile and batch == max(batches):
            print_profile(next(one for one in contestants if one.name.endswith("optimized")), images)
        calls = {one.name: partial(one.run, images) for one in contestants}
        median = interleaved_medians(calls | products, args)
        rate = 2 * MATRIX_SIZE[args.device] ** 3 / min(median[name] for name in products)
        reference = next(one for one in contestants if one.name.startswith("timm"))
        per_token = {one.name: median[one.name] / batch / one.tokens for one in contestants}
        rows += [
            {
                "model": one.name,
                "size": size,
                "dtype": str(dtype).removeprefix("torch."),
                "batch": batch,
                "images_per_second": batch / median[one.name],
                "microseconds_per_token": 1e6 * per_token[one.name],
                "speed_per_token": per_token[reference.name] / per_token[one.name],
                "share_of_matrix_rate": one.operations * batch / median[one.name] / rate,
                "matrix_gflops": rate / 1e9,
            }
            for one in contestants
        ]
    return rows


def print_profile(one: Contestant, images: Tensor) -> None:
    """Prints the operations that take most of the time of one call, and their shares of it."""
    one.run(images)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        one.run(images)
    found = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in found)
    shares = ", ".join(f"{event.key} {event.self_cpu_time_total / total:.0%}" for event in found[:8])
    print(f"{one.name}, {images.dtype}, batch {len(images)}: {shares}\n")


def interleaved_medians(calls: dict[str, Callable[[], Any]], args: argparse.Namespace) -> dict[str, float]:
    """Returns the median seconds of calls that take turns, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.repeats + 1):
        for name, call in calls.items():
            seconds[name].append(timed(call, args.device))
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def print_table(rows: Sequence[dict[str, Any]], device: str) -> None:
    """Prints the rows as a table in Markdown."""
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


def meets_bars(rows: Sequence[dict[str, Any]], device: str) -> bool:
    """Returns whether "optimized" is fast enough at the largest batch."""
    largest = max(row["batch"] for row in rows)
    ours = [row for row in rows if row["model"].endswith("optimized") and row["batch"] == largest]
    return all(
        row["speed_per_token"] >= MIN_SPEED[device]
        and (row["dtype"] != "bfloat16" or row["size"] != "b16" or row["share_of_matrix_rate"] >= MIN_SHARE[device])
        for row in ours
    )


def main() -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["b16"], choices=list(SIZES), help="Sizes. Default: b16.")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 8, 32], help="Numbers of images per batch. Default: 1 8 32."
    )
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32", "bfloat16"], help="Dtypes. Default: float32 bfloat16."
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="Device. Default: %(default)s.")
    parser.add_argument("--decode", action="store_true", help="Measure decoding as well.")
    parser.add_argument("--profile", action="store_true", help="Print which operations take the time.")
    parser.add_argument("--threads", type=int, help="Number of CPU threads. Default: torch's choice.")
    parser.add_argument("--repeats", type=int, default=5, help="Number of measured calls. Default: %(default)s.")
    parser.add_argument("--json", type=Path, help="File to write the rows to.")
    parser.add_argument("--check", action="store_true", help="Exit with 1 if a limit is missed.")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = [
        row
        for size in args.sizes
        for dtype in args.dtypes
        for row in compare(size, getattr(torch, dtype), args.batches, args)
    ]
    print_table(rows, args.device)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if meets_bars(rows, args.device) or not args.check else 1


if __name__ == "__main__":
    raise SystemExit(main())
