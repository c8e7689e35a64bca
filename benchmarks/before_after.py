"""Compares the numbers of a benchmark in two checkouts, which take turns.

    git worktree add /tmp/before main
    python benchmarks/before_after.py /tmp/before startup.py --repeats 1
    python benchmarks/before_after.py /tmp/before encode_throughput.py --threads 1 --batches 8 --repeats 3
    python benchmarks/before_after.py /tmp/before training_step.py --threads 1 --repeats 1
    python benchmarks/before_after.py /tmp/before extraction.py --num-workers 0 --repeats 1

The first argument is the checkout of the code as it was, the second a script of `benchmarks/` that has `--json`, and
the others are its options. Each round runs the script of one checkout with the code of that checkout, and then the
other one. The table shows the median of each number in the JSON files, and the ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]


def numbers(found: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yields the numbers of a JSON value, named by their keys and by the words of the rows that they stand in."""
    if isinstance(found, dict):
        words = [value for value in found.values() if isinstance(value, str)]
        for key, value in found.items():
            yield from numbers(value, " ".join(filter(None, [name, *words, key])))
    elif isinstance(found, list):
        for index, value in enumerate(found):
            yield from numbers(value, name if has_words(value) else f"{name} {index}".strip())
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield name, float(found)


def has_words(value: Any) -> bool:
    """Returns whether a value is a row with a name of its own."""
    return isinstance(value, dict) and any(isinstance(each, str) for each in value.values())


def run(checkout: Path, script: str, options: Sequence[str]) -> list[tuple[str, float]]:
    """Runs a script of a checkout with the code of that checkout, and returns its numbers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        command = [sys.executable, str(checkout / "benchmarks" / script), *options, "--json", str(path)]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=folder)
        return list(numbers(json.loads(path.read_text())))


def compare(
    before: Path, after: Path, script: str, options: Sequence[str], rounds: int
) -> list[tuple[str, float, float]]:
    """Returns each number's name and its medians before and after."""
    checkouts = before, after
    found: tuple[dict[str, list[float]], ...] = {}, {}
    for number in range(rounds):
        for place in (0, 1) if number % 2 == 0 else (1, 0):  # so that neither is always the first
            print(f"round {number + 1} of {rounds}: {checkouts[place]}", file=sys.stderr, flush=True)
            for name, value in run(checkouts[place], script, options):
                found[place].setdefault(name, []).append(value)
    common = [name for name in found[0] if name in found[1]]
    return [(name, statistics.median(found[0][name]), statistics.median(found[1][name])) for name in common]


def main() -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="number of runs of each checkout (default: %(default)s)")
    parser.add_argument("before", type=Path, help="checkout of the code as it was")
    parser.add_argument("script", help="name of a script in benchmarks/ that has --json")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="its options")
    args = parser.parse_args()
    rows = compare(args.before.resolve(), HERE, args.script, args.options, args.rounds)
    print("| number | before | after | after / before |\n|---|---|---|---|")
    for name, before, after in rows:
        ratio = f"{after / before:.3f}" if before else ""
        print(f"| {name} | {before:.4g} | {after:.4g} | {ratio} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
