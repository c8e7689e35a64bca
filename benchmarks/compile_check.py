"""Checks that `torch.compile` compiles encode and decode without graph breaks, and measures its speed.

    python benchmarks/compile_check.py

`fullgraph=True` turns a graph break into an error. For each image size the table shows the number of graphs compiled so
far, the largest difference from eager, and the median time of one batch, eager and compiled, measured in turns. The
default backend needs a C compiler; `--backend eager` does not.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch._dynamo.testing import CompileCounterWithBackend

from stellar_hub import StellarModel

ROUNDS = 15


def timed(work: Callable[[], object]) -> float:
    """Returns the milliseconds of one call."""
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def interleaved(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Returns the median milliseconds of two calls that take turns."""
    pairs = [(timed(first), timed(second)) for _ in range(ROUNDS)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def main() -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stellar-tiny", help="Name or folder of the model. Default: %(default)s.")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[64, 96, 128], help="Sides of the images in pixels. Default: 64 96 128."
    )
    parser.add_argument("--batch-size", type=int, default=8, help="Number of images per batch. Default: %(default)s.")
    parser.add_argument("--backend", default="inductor", help="Backend of torch.compile. Default: %(default)s.")
    args = parser.parse_args()
    model = StellarModel.from_pretrained(args.model)
    encodes, decodes = (CompileCounterWithBackend(args.backend) for _ in range(2))
    encode = torch.compile(model.encode, backend=encodes, fullgraph=True)
    decode = torch.compile(model.decode, backend=decodes, fullgraph=True)
    setting = f"{args.backend}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{args.model}, batch {args.batch_size}, {setting}")
    print("| | side | graphs so far | largest difference | eager, ms | compiled, ms |\n|---|---|---|---|---|---|")
    worst = 0.0
    with torch.inference_mode():
        for side in args.sizes:
            images = torch.rand(args.batch_size, 3, side, side, generator=torch.Generator().manual_seed(side))
            expected = model.encode(images)
            rows = [
                ("encode", encodes, lambda f, x=images: f(x).semantics, model.encode, encode),
                ("decode", decodes, lambda f, x=expected: f(x), model.decode, decode),
            ]
            for name, counter, call, eager, compiled in rows:
                reference = call(eager)
                difference = float((call(compiled) - reference).abs().max() / reference.abs().max())
                worst = max(worst, difference)
                slow, fast = interleaved(lambda c=call, e=eager: c(e), lambda c=call, e=compiled: c(e))
                print(f"| {name} | {side} | {counter.frame_count} | {difference:.1e} | {slow:.1f} | {fast:.1f} |")
    return 0 if worst < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
