"""Memory and time of `prototype_loss`, compared with its plain formula.

    python benchmarks/prototype_loss.py

The formula gathers the targets for all rows, and leaves the gradients to autograd. Both compute the value and the
gradients for embeddings and prototypes. The targets are Sinkhorn assignments, each for eight embeddings. Both take
turns, and the table shows median times. Memory is the peak resident memory (`VmHWM`, Linux) of a fresh process above
that with the operands in place and after a tiny run, or on CUDA the allocator's peak. It includes the result.

With `--check` the script exits with 1 unless `prototype_loss` takes at most a third of the memory and not more time
than the formula, and gives the same result.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from fresh_memory import added_memory, interleaved_seconds, measured_apart, relative_error
from torch import Tensor

from stellar_hub.training.objectives import prototype_loss, prototype_scores, sinkhorn_assign

MAX_MEMORY = 1 / 3  # share of the formula's memory
MAX_TIME = 1.0
MAX_ERROR = 1e-5  # relative error of the value and of the gradients, in norm
TEMPERATURE = 0.12
SINKHORN_TEMPERATURE = 0.06
VIEWS = 8
DEFAULT_ROWS = {"cpu": 4096, "cuda": 18432}  # on CUDA the tokens of a published step: 128 images, 16 tokens, 9 views
FORMULA = "formula"
TF32 = "tf32"


class Operands(NamedTuple):
    """The arguments of the loss, with shapes `(N, p)`, `(K, p)`, `(M, K)` and `(N,)`."""

    embeddings: Tensor
    prototypes: Tensor
    assignment: Tensor
    target_index: Tensor


class Result(NamedTuple):
    """The loss and its gradients."""

    loss: Tensor
    embeddings: Tensor
    prototypes: Tensor


def make_operands(rows: int, num_prototypes: int, width: int, device: str) -> Operands:
    """Returns random normalized embeddings of views, and assignments of the clean ones."""
    generator = torch.Generator().manual_seed(0)
    num_targets = -(-rows // VIEWS)
    prototypes = torch.randn(num_prototypes, width, generator=generator).to(device)
    embeddings = F.normalize(torch.randn(rows + num_targets, width, generator=generator), dim=1).to(device)
    assignment = sinkhorn_assign(prototype_scores(embeddings[rows:], prototypes).div_(SINKHORN_TEMPERATURE))
    target_index = torch.randint(num_targets, (rows,), generator=generator).to(device)
    return Operands(embeddings[:rows].clone().requires_grad_(), prototypes.requires_grad_(), assignment, target_index)


def formula_loss(operands: Operands) -> Tensor:
    """Returns the loss by its definition."""
    scores = operands.embeddings @ operands.prototypes.T / TEMPERATURE
    targets = operands.assignment[operands.target_index]
    return -(targets * F.log_softmax(scores, dim=-1)).sum(dim=-1).mean()


def loss_function(variant: str) -> Callable[[Operands], Tensor]:
    """Returns the loss of a variant: "formula", "tf32", or a chunk size of `prototype_loss`, "0" for its default."""
    if variant == FORMULA:
        return formula_loss
    if variant == TF32:
        return lambda operands: prototype_loss(*operands, temperature=TEMPERATURE, precision="tf32")
    return lambda operands: prototype_loss(*operands, temperature=TEMPERATURE, chunk_size=int(variant) or None)


def run(variant: str, operands: Operands) -> Result:
    """Computes value and gradients."""
    loss = loss_function(variant)(operands)
    result = Result(loss.detach(), *torch.autograd.grad(loss, operands[:2]))
    if loss.is_cuda:
        torch.cuda.synchronize()
    return result


def peak_memory(variant: str, rows: int, num_prototypes: int, width: int, device: str) -> int:
    """Returns the most bytes that value and gradients take in addition to the operands."""
    run(variant, make_operands(4, 16, 8, device))
    operands = make_operands(rows, num_prototypes, width, device)
    return added_memory(lambda: run(variant, operands), device)


def measure_apart(variant: str, args: argparse.Namespace) -> int:
    """Returns `peak_memory` of a fresh process."""
    names = ("rows", "prototypes", "width", "device", "threads")
    return measured_apart(__file__, variant, {name: getattr(args, name) for name in names})


def compare(args: argparse.Namespace) -> list[dict[str, str | float | bool]]:
    """Returns one row for the formula, one for each chunk size and, on a GPU, one for products in TF32."""
    variants = [FORMULA, *map(str, args.chunk_sizes), *([TF32] if args.device == "cuda" else [])]
    peaks = {variant: measure_apart(variant, args) for variant in variants}
    operands = make_operands(args.rows, args.prototypes, args.width, args.device)
    seconds = interleaved_seconds(variants, lambda variant: run(variant, operands), args.repeats)
    expected = run(FORMULA, operands)
    rows: list[dict[str, str | float | bool]] = []
    for variant in variants:
        row: dict[str, str | float | bool] = {
            "variant": {FORMULA: FORMULA, "0": "ours", TF32: "ours, TF32"}.get(variant, f"ours, chunks of {variant}"),
            "peak_mb": peaks[variant] / 1e6,
            "memory_ratio": peaks[variant] / max(peaks[FORMULA], 1),
            "seconds": seconds[variant],
            "time_ratio": seconds[variant] / seconds[FORMULA],
            "error": relative_error(run(variant, operands), expected),
        }
        bars = (row["memory_ratio"], MAX_MEMORY), (row["time_ratio"], MAX_TIME), (row["error"], MAX_ERROR)
        met = all(float(value) <= bar for value, bar in bars)
        rows.append(row | {"meets_the_bars": variant in (FORMULA, TF32) or met})
    return rows


def print_table(rows: Sequence[dict[str, str | float | bool]], args: argparse.Namespace) -> None:
    """Prints the table in Markdown."""
    print(f"{args.rows} rows, {args.prototypes} prototypes of width {args.width}, float32, {args.device}\n")
    print("| variant | peak, MB | of the formula's | time, s | of the formula's | relative difference |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        memory, seconds = (f"{row['peak_mb']:.0f} | {row['memory_ratio']:.2f}", f"{row['seconds']:.3f}")
        print(f"| {row['variant']} | {memory} | {seconds} | {row['time_ratio']:.2f} | {row['error']:.1e} |")


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help=f"number of embeddings (default: {DEFAULT_ROWS})")
    parser.add_argument("--prototypes", type=int, default=16384, help="number of prototypes (default: %(default)s)")
    parser.add_argument(
        "--width", type=int, default=256, help="width of embeddings and prototypes (default: %(default)s)"
    )
    parser.add_argument(
        "--chunk-sizes", type=int, nargs="+", default=[0], help="rows per chunk; 0 for the library's default"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="number of CPU threads (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=7, help="number of timed rounds (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="JSON file to write the rows to")
    parser.add_argument("--check", action="store_true", help="exit with 1 if prototype_loss misses a limit")
    parser.add_argument("--measure", metavar="VARIANT", help=argparse.SUPPRESS)  # the fresh process
    args = parser.parse_args()
    args.rows = args.rows or DEFAULT_ROWS[args.device]
    return args


def main() -> int:
    """Runs the comparison."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    if args.measure:
        print(peak_memory(args.measure, args.rows, args.prototypes, args.width, args.device))
        return 0
    rows = compare(args)
    print_table(rows, args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(row["meets_the_bars"] for row in rows) or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
