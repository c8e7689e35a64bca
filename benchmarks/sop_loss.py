"""Memory and time of `sop_loss`, compared with its formula.

    python benchmarks/sop_loss.py

The anchors are those of the paper of SOP: 4096 with 9 supports each, drawn from a memory of 65536 random unit vectors.
"formula" multiplies the softmax of the scores by the matrix of labels, `(A k, A)`. "sums" does without this matrix: it
adds the supports of each anchor, and leaves the gradient to autograd. All compute the value and the gradient for the
embeddings. They take turns, and the table shows median times. Memory is the peak resident memory (`VmHWM`, Linux) of a
fresh process above that with the operands in place and after a tiny run, or on CUDA the allocator's peak. The operands
of the formula include the labels, so neither their memory nor the time to build them counts.

With `--check` the script exits with 1 unless `sop_loss` takes at most a third of the memory of both and not more time
than either, and gives the same result as the formula.
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

from stellar_hub.training.objectives import (
    draw_sop_task,
    sop_distribution,
    sop_labels,
    sop_loss,
    sop_teacher_distribution,
)
from stellar_hub.training.objectives.sop import cross_entropy, label_parts

MAX_MEMORY = 1 / 3  # share of the other's memory
MAX_TIME = 1.0
MAX_ERROR = 1e-5  # relative error of the value and of the gradient, in norm
TEMPERATURE = 0.1
TEACHER_TEMPERATURE = 0.04
OTHERS = ("formula", "sums")
DEFAULT_ROWS = {"cpu": 1024, "cuda": 4096}


class Operands(NamedTuple):
    """The arguments of the loss: `(N, p)`, `(A k, p)`, `(A, k)`, `(N, A)`; and `(A k, A)` labels for the formula."""

    embeddings: Tensor
    supports: Tensor
    scores: Tensor
    targets: Tensor
    labels: Tensor | None


class Result(NamedTuple):
    """The loss and its gradient."""

    loss: Tensor
    gradient: Tensor


def make_operands(args: argparse.Namespace, variants: Sequence[str]) -> Operands:
    """Returns embeddings near rows of the memory, a task, and the teacher's distributions of other rows nearby."""
    generator = torch.Generator().manual_seed(0)
    memory = F.normalize(torch.randn(args.memory, args.width, generator=generator), dim=1)
    supports, scores = draw_sop_task(memory.to(args.device), args.anchors, args.supports, generator=generator)
    rows = memory[torch.randint(args.memory, (args.rows,), generator=generator)]
    student, teacher = (
        F.normalize(rows + 0.05 * torch.randn(rows.shape, generator=generator), dim=1).to(args.device) for _ in range(2)
    )
    targets = sop_teacher_distribution(teacher, supports, scores, TEACHER_TEMPERATURE)
    labels = sop_labels(scores) if "formula" in variants else None
    return Operands(student.requires_grad_(), supports, scores, targets, labels)


def formula_loss(operands: Operands) -> Tensor:
    """Returns the loss by its definition."""
    embeddings, supports, _, targets, labels = operands
    assert labels is not None
    return cross_entropy(targets, sop_distribution(embeddings, supports, labels, TEMPERATURE)).mean()


def sums_loss(operands: Operands) -> Tensor:
    """Returns the loss with sums over each anchor's supports in place of the product with the labels."""
    embeddings, supports, scores, targets, _ = operands
    own, other = label_parts(scores)
    probabilities = (embeddings @ supports.T / TEMPERATURE).softmax(dim=-1)
    sums = (probabilities.unflatten(1, scores.shape) * (own - other)).sum(dim=-1)
    return cross_entropy(targets, sums + probabilities @ other.flatten()[:, None]).mean()


def loss_function(variant: str) -> Callable[[Operands], Tensor]:
    """Returns the loss of a variant: "formula", "sums", or a chunk size of `sop_loss`, "0" for its default."""
    if variant in OTHERS:
        return {"formula": formula_loss, "sums": sums_loss}[variant]
    return lambda operands: sop_loss(*operands[:4], TEMPERATURE, chunk_size=int(variant) or None)


def run(variant: str, operands: Operands) -> Result:
    """Computes value and gradient."""
    loss = loss_function(variant)(operands)
    result = Result(loss.detach(), *torch.autograd.grad(loss, operands.embeddings))
    if loss.is_cuda:
        torch.cuda.synchronize()
    return result


def peak_memory(variant: str, args: argparse.Namespace) -> int:
    """Returns the most bytes that value and gradient take in addition to the operands."""
    tiny = argparse.Namespace(memory=32, width=8, anchors=4, supports=3, rows=4, device=args.device)
    run(variant, make_operands(tiny, [variant]))
    operands = make_operands(args, [variant])
    return added_memory(lambda: run(variant, operands), args.device)


def measure_apart(variant: str, args: argparse.Namespace) -> int:
    """Returns `peak_memory` of a fresh process."""
    names = ("rows", "memory", "anchors", "supports", "width", "device", "threads")
    return measured_apart(__file__, variant, {name: getattr(args, name) for name in names})


def compare(args: argparse.Namespace) -> list[dict[str, str | float | bool]]:
    """Returns one row for each variant, with its memory and time as shares of the formula's and of the sums'."""
    variants = [*OTHERS, *map(str, args.chunk_sizes)]
    peaks = {variant: measure_apart(variant, args) for variant in variants}
    operands = make_operands(args, variants)
    seconds = interleaved_seconds(variants, lambda variant: run(variant, operands), args.repeats)
    expected = run("formula", operands)
    rows: list[dict[str, str | float | bool]] = []
    for variant in variants:
        error = relative_error(run(variant, operands), expected)
        memory_ratios = [peaks[variant] / max(peaks[other], 1) for other in OTHERS]
        time_ratios = [seconds[variant] / seconds[other] for other in OTHERS]
        small, fast = max(memory_ratios) <= MAX_MEMORY, max(time_ratios) <= MAX_TIME
        rows.append(
            {
                "variant": variant if variant in OTHERS else {"0": "ours"}.get(variant, f"ours, chunks of {variant}"),
                "peak_mb": peaks[variant] / 1e6,
                "seconds": seconds[variant],
                "error": error,
                **{f"memory_ratio_{other}": ratio for other, ratio in zip(OTHERS, memory_ratios, strict=True)},
                **{f"time_ratio_{other}": ratio for other, ratio in zip(OTHERS, time_ratios, strict=True)},
                "meets_the_bars": variant in OTHERS or (small and fast and error <= MAX_ERROR),
            }
        )
    return rows


def print_table(rows: Sequence[dict[str, str | float | bool]], args: argparse.Namespace) -> None:
    """Prints the table in Markdown."""
    anchors = f"{args.anchors} anchors with {args.supports} supports of width {args.width}"
    print(f"{args.rows} rows, {anchors} from a memory of {args.memory}, float32, {args.device}\n")
    print(
        "| variant | peak, MB | of the formula's | of the sums' | time, s | of the formula's | of the sums' | error |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        shares = {
            kind: " | ".join(f"{row[f'{kind}_ratio_{other}']:.2f}" for other in OTHERS) for kind in ("memory", "time")
        }
        print(
            f"| {row['variant']} | {row['peak_mb']:.0f} | {shares['memory']} | {row['seconds']:.3f} | {shares['time']} "
            f"| {row['error']:.1e} |"
        )


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rows", type=int, help=f"number of embeddings (default: {DEFAULT_ROWS})")
    add("--memory", type=int, default=65536, help="number of rows of the memory (default: %(default)s)")
    add("--anchors", type=int, default=4096, help="number of anchors (default: %(default)s)")
    add("--supports", type=int, default=9, help="supports of each anchor, itself included (default: %(default)s)")
    add("--width", type=int, default=256, help="width of embeddings and supports (default: %(default)s)")
    add("--chunk-sizes", type=int, nargs="+", default=[0], help="rows per chunk; 0 for the library's default")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="(default: %(default)s)")
    add("--threads", type=int, default=torch.get_num_threads(), help="number of CPU threads (default: %(default)s)")
    add("--repeats", type=int, default=5, help="number of timed rounds (default: %(default)s)")
    add("--json", type=Path, help="JSON file to write the rows to")
    add("--check", action="store_true", help="exit with 1 if sop_loss misses a limit")
    add("--measure", metavar="VARIANT", help=argparse.SUPPRESS)  # the fresh process
    args = parser.parse_args()
    args.rows = args.rows or DEFAULT_ROWS[args.device]
    return args


def main() -> int:
    """Runs the comparison."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    if args.measure:
        print(peak_memory(args.measure, args))
        return 0
    rows = compare(args)
    print_table(rows, args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(row["meets_the_bars"] for row in rows) or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
