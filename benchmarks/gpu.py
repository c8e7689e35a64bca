"""Measures everything that is fast on a GPU, in one run of at most six minutes on an H100.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --update-docs docs/results/gpu.md --json gpu.json

It measures the rates of the machine, the authors' numbers on this device, encoding and decoding (as it is, optimized,
each variant alone, timm and DINOv2), training steps and extraction. Ways of one kind take turns. All weights are random
and nothing is downloaded. Rows are printed as they come, and the JSON file is written after each part. The last table
says which bars of `gpu_parts/bars.py` are met.

Parts run in another process. A part that fails or takes too long is one line with the reason, and the others go on.

`--device cpu --smoke` runs every part with tiny models. Its numbers mean nothing.
"""

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from gpu_parts.bars import BARS
from gpu_parts.supervisor import Results, supervise
from gpu_parts.tables import SECTION, bars_table, line_of, measured_table, merged, reports, section

SECONDS = 330.0  # of a whole run; six minutes, if the last part has to be ended
PACKAGES = ("torch", "torchvision", "timm", "transformers", "accelerate", "torchao")


class Part(NamedTuple):
    """A part of the run.

    Attributes:
        seconds: Its limit on a GPU.
        run: Runs it; it imports what it needs.
    """

    seconds: float
    run: Callable[[Any], None]


def _machine(bench: Any) -> None:
    from gpu_parts.measure import machine_rates

    machine_rates(bench)


def _golden(bench: Any) -> None:
    from gpu_parts.golden import golden

    golden(bench)


def _encode(size: str, *batches: int) -> Callable[[Any], None]:
    def run(bench: Any) -> None:
        from gpu_parts.inference import encode

        encode(bench, size, [min(batch, 2) for batch in batches[:1]] if bench.smoke else batches)

    return run


def _decode(bench: Any) -> None:
    from gpu_parts.inference import decode

    decode(bench, "b16", 2 if bench.smoke else 64)


def _training_step(recipe: str, images: int) -> Callable[[Any], None]:
    def run(bench: Any) -> None:
        from gpu_parts.training import training_step

        training_step(bench, recipe, images)

    return run


def _extraction(bench: Any) -> None:
    from gpu_parts.extraction import extraction

    extraction(bench)


PARTS = {
    "machine": Part(5, _machine),
    "golden": Part(10, _golden),
    "encode-small": Part(40, _encode("b16", 1, 8, 32)),
    "train-b16": Part(50, _training_step("b16", 96)),
    "train-tiny": Part(30, _training_step("stellar-tiny", 256)),
    "extraction": Part(35, _extraction),
    "decode": Part(20, _decode),
    "encode-b16": Part(60, _encode("b16", 256)),
    "encode-l16": Part(40, _encode("l16", 256)),
    "encode-h16": Part(40, _encode("h16", 256)),
}


def deadline_of(name: str, waiting: Sequence[str], until: float) -> float:
    """Returns the time at which a part should end: it may also take what earlier parts did not need.

    Args:
        name: The part.
        waiting: It and the parts after it.
        until: The time at which all should have ended.
    """
    later = sum(PARTS[other].seconds for other in waiting if other != name)
    return min(max(time.time() + PARTS[name].seconds, until - later), until)


def run_parts(names: Sequence[str], device: str, smoke: bool, until: float) -> None:
    """Runs parts in this process, and prints an event a line for the process that supervises it."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to stderr, between no events

    def emit(**event: Any) -> None:
        events.write(json.dumps(event, ensure_ascii=False) + "\n")

    import torch
    from gpu_parts.measure import Bench, first_line, free_memory, is_fatal

    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device: use --device cpu --smoke to try the script")
    emit(environment=environment(device, smoke))
    for index, name in enumerate(names):
        deadline = until if smoke else deadline_of(name, names[index:], until)
        emit(begin=name, deadline=deadline)
        bench = Bench(torch.device(device), smoke, deadline, lambda row: emit(row=row))
        problem = None
        try:
            PARTS[name].run(bench)
        except Exception as error:  # the other parts go on
            problem = f"failed: {first_line(error)}"
            emit(end=name, problem=problem)
            if is_fatal(error):
                raise
        else:
            emit(end=name, problem=None)
        free_memory(bench.device)


def environment(device: str, smoke: bool) -> dict[str, Any]:
    """Returns what the numbers depend on: device, versions, day."""
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": name,
        "device_type": device,
        "smoke": smoke,
        "cores": cores,
        "versions": versions,
        "date": today,
    }


def measure(args: argparse.Namespace) -> int:
    """Runs the chosen parts, and prints what they find; returns the exit status."""
    names = [name for name in PARTS if not args.only or name in args.only]
    until = time.time() + args.seconds
    results = Results(names, args.json)

    def command(waiting: Sequence[str]) -> list[str]:
        options = ["--device", args.device, "--until", str(until), *(["--smoke"] if args.smoke else [])]
        return [sys.executable, str(Path(__file__)), *options, "--child", "--only", *waiting]

    def show(line: str) -> None:
        print(f"[{args.seconds - until + time.time():5.0f} s] {line}", flush=True)

    seen: set[tuple[str, str]] = set()

    def show_row(row: dict[str, Any]) -> None:
        key = row["group"], row["name"]
        if key not in seen or "ms" not in row:  # it is measured again with each new contestant, for the last table
            print(f"  {line_of(row)}", flush=True)
        seen.add(key)

    supervise(names, command, until, results, show, show_row)
    rows = merged(results.rows)
    print(f"\n{measured_table(rows)}\n\n{reports(rows)}\n", flush=True)
    print("a smoke run: no number means anything" if args.smoke else bars_table(rows), flush=True)
    results.write()
    failed = [name for name, part in results.parts.items() if part["problem"]]
    missed = [bar for bar in BARS if bar.met(rows) is False]
    return 1 if failed or (args.check and missed) else 0


def update_docs(page: Path, path: Path | None) -> None:
    """Writes the section of a page."""
    from stellar_hub.modeling.card_sections import write_section

    page.write_text(write_section(page.read_text(), SECTION, section(path), page))


def main() -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="device (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="run every part with tiny models")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help=f"parts: {', '.join(PARTS)}")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="seconds of the whole run (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="file to write the rows to; with --update-docs, to read them from")
    parser.add_argument(
        "--update-docs", type=Path, metavar="PAGE", help="write the section of a page, and measure nothing"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 also if a bar is missed")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_parts(args.only, args.device, args.smoke, args.until)
        return 0
    if args.update_docs:
        update_docs(args.update_docs, args.json)
        return 0
    if args.device == "cpu" and not args.smoke:
        parser.error("--device cpu needs --smoke: whole models take hours on a CPU")
    return measure(args)


if __name__ == "__main__":
    sys.exit(main())
