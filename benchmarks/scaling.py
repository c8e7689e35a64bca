"""How costs grow with the number of tokens, the number of prototypes and the size of the image.

    python benchmarks/scaling.py

For each quantity the table shows the median seconds of one call (its values take turns), the number of floating-point
operations, and for both the exponent between the smallest and the largest value: `log(ratio) / log(ratio of the
quantity)`. Time grows more slowly than the operations where a part has a fixed cost, and faster where memory limits the
speed. Encoding is that of stellar-b16 with random weights. The prototype loss and Sinkhorn are those of 1024 tokens,
forward and backward.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.training.objectives import prototype_loss, prototype_scores, sinkhorn_assign

TOKENS = (8, 16, 32, 64)
PROTOTYPES = (4096, 16384, 65536)
IMAGE_SIZES = (224, 448, 896)
NUM_ROWS = 1024
WIDTH = 256

Calls = dict[int, Callable[[], Any]]


def encoding_of_tokens(args: argparse.Namespace) -> Calls:
    """Returns an encoding for each number of sparse tokens."""
    images = torch.rand(1, 3, args.image_size, args.image_size)
    return {tokens: encode_call(args, images, num_sparse_tokens=tokens) for tokens in args.tokens}


def encoding_of_images(args: argparse.Namespace) -> Calls:
    """Returns an encoding for each image size, with a model made for it."""
    return {size: encode_call(args, torch.rand(1, 3, size, size), image_size=size) for size in args.image_sizes}


def encode_call(args: argparse.Namespace, images: torch.Tensor, **options: Any) -> Callable[[], Any]:
    """Returns a call that encodes."""
    config = StellarConfig(use_decoder=False, num_hidden_layers=args.layers, **options)
    model = StellarModel(config).eval().requires_grad_(False)
    return lambda: model.encode(images)


def losses_of_prototypes(args: argparse.Namespace) -> Calls:
    """Returns the assignment and the loss of tokens, forward and backward, for each number of prototypes."""
    embeddings = F.normalize(torch.randn(NUM_ROWS, WIDTH), dim=1)

    def call(count: int) -> Callable[[], Any]:
        prototypes = torch.randn(count, WIDTH, requires_grad=True)

        def run() -> None:
            rows = embeddings.clone().requires_grad_()
            with torch.no_grad():
                assignment = sinkhorn_assign(prototype_scores(rows, prototypes).div_(0.06))
            torch.autograd.grad(prototype_loss(rows, prototypes, assignment, temperature=0.12), [rows, prototypes])

        return run

    return {count: call(count) for count in args.prototypes}


def loss_operations(count: int) -> int:
    """Returns the operations of the scores and of both gradients, as torch's counter misses `out=`."""
    return 4 * 2 * NUM_ROWS * count * WIDTH


QUANTITIES = {
    "sparse tokens r, encode": (encoding_of_tokens, None),
    "side of the image, encode": (encoding_of_images, None),
    "prototypes K, assignment and loss": (losses_of_prototypes, loss_operations),
}


def count_operations(call: Callable[[], Any]) -> int:
    """Returns the floating-point operations of one call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def measure(calls: Calls, repeats: int, formula: Callable[[int], int] | None) -> list[dict[str, float]]:
    """Returns the median seconds and the operations for each value."""
    operations = {
        value: count_operations(call) for value, call in calls.items()
    }  # also a first round that is not timed
    if formula is not None:
        operations = {value: formula(value) for value in calls}
    seconds: dict[int, list[float]] = {value: [] for value in calls}
    for _ in range(repeats):
        for value, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[value].append(time.perf_counter() - start)
    return [
        {"value": value, "seconds": statistics.median(taken), "gflop": operations[value] / 1e9}
        for value, taken in seconds.items()
    ]


def slope(rows: Sequence[dict[str, float]], what: str) -> float:
    """Returns the exponent with which a column grows from the smallest to the largest value."""
    first, last = rows[0], rows[-1]
    return math.log(last[what] / first[what]) / math.log(last["value"] / first["value"])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=TOKENS, help="numbers of sparse tokens (default: 8 to 64)"
    )
    parser.add_argument(
        "--prototypes", type=int, nargs="+", default=PROTOTYPES, help="numbers of prototypes (default: 4096 to 65536)"
    )
    parser.add_argument(
        "--image-sizes",
        type=int,
        nargs="+",
        default=IMAGE_SIZES,
        help="sides of the images in pixels (default: 224 to 896)",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        default=224,
        help="side of the image in pixels while the tokens vary (default: %(default)s)",
    )
    parser.add_argument("--layers", type=int, default=12, help="number of the encoder's layers (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: torch's own choice)")
    parser.add_argument("--repeats", type=int, default=3, help="number of timed rounds (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="JSON file to write the numbers to")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    found = {name: measure(make(args), args.repeats, count) for name, (make, count) in QUANTITIES.items()}
    print("| quantity | values | seconds | GFLOP | exponent of time | of the count |\n|---|---|---|---|---|---|")
    for name, rows in found.items():
        columns = [
            ", ".join(f"{row[what]:.3g}" if what != "value" else f"{row[what]:.0f}" for row in rows)
            for what in ("value", "seconds", "gflop")
        ]
        print(f"| {name} | {' | '.join(columns)} | {slope(rows, 'seconds'):.2f} | {slope(rows, 'gflop'):.2f} |")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
