"""Gives mutated files to the library and counts what happens: nothing may end in a traceback, hang, or fill memory.

Each case is made from the seed and its number alone, so that a failure can be made again with `--first`. The library
runs in a process of its own, which ends after a fault; a case may take 10 seconds of a core (60 seconds by the clock,
as machines are shared) and 2 GB.

    python benchmarks/fuzz.py images --count 3000
    python benchmarks/fuzz.py --all --update-docs docs/results/robustness.md
"""

import argparse
import importlib
import json
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))

COUNTS = {"images": 3000, "tars": 2000, "configs": 1000, "recipes": 1000, "checkpoints": 2000, "stores": 1000}
MAX_SECONDS = 10.0  # of a core
MAX_CLOCK_SECONDS = 60.0
MAX_BYTES = 2 * 10**9
START_SECONDS = 300.0  # imports, on a busy machine
FAULTS = ("traceback", "silent difference", "hang", "memory", "died")


@dataclass
class Result:
    """What happened to the cases of one target.

    Attributes:
        target: Name of the target.
        seed: Seed of the cases.
        counts: Number of cases by outcome.
        faults: One line for each fault: the number of its case, and what happened.
        seconds: Seconds of the whole run.
        slowest: Seconds of the slowest case.
        largest: Bytes that the process grew by, at most.
    """

    target: str
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0
    largest: int = 0


def load_target(target: str) -> Any:
    """Returns the module of a target."""
    return importlib.import_module(f"fuzz_targets.{target}" if target in COUNTS else target)


def peak_bytes() -> int:
    """The largest resident size that this process has had, in bytes.

    `ru_maxrss` begins with the size of the process that started this one, so Linux is asked for its own number.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def serve(target: str, connection: Connection) -> None:
    """The process that runs cases: it answers each path with the outcome, its detail, and the peak of its memory."""
    import torch

    torch.set_num_threads(1)
    module = load_target(target)
    silent: type[Exception] = importlib.import_module("fuzz_targets").SilentDifference
    getattr(module, "prepare", lambda: None)()
    connection.send(("ready", "", peak_bytes()))
    while True:
        path = connection.recv()
        try:
            outcome, detail = module.attempt(path), ""
        except silent as error:
            outcome, detail = "silent difference", str(error)
        except MemoryError as error:
            outcome, detail = "memory", str(error)
        except BaseException as error:
            outcome, detail = "traceback", "".join(traceback.format_exception(error)[-3:])
        connection.send((outcome, detail, peak_bytes()))


class Runner:
    """A process that runs cases of a target, started again after a fault."""

    def __init__(self, target: str):
        self.target = target
        self.start()

    def start(self) -> None:
        """Starts the process and waits until it has imported the library."""
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(self.target, other), daemon=True)
        self.process.start()
        other.close()
        if not self.connection.poll(START_SECONDS):
            raise SystemExit(f"the process for {self.target} did not start")
        self.base = self.connection.recv()[2]

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _answers(self) -> bool:
        """Waits for the answer to a case; False if the case takes too long."""
        process, start = psutil.Process(self.process.pid), time.perf_counter()
        before = sum(process.cpu_times()[:2])
        while not self.connection.poll(0.2):
            taken = sum(process.cpu_times()[:2]) - before
            if taken > MAX_SECONDS or time.perf_counter() - start > MAX_CLOCK_SECONDS:
                return False
        return True

    def run(self, path: Path) -> tuple[str, str, int]:
        """Returns the outcome of one case, its detail, and the bytes that the process has grown by at most."""
        self.connection.send(path)
        try:
            if self._answers():
                outcome, detail, peak = self.connection.recv()
                grown = peak - self.base
                if grown <= MAX_BYTES:
                    return outcome, detail, grown
                outcome, detail = "memory", f"grew by {grown / 1e9:.1f} GB"
            else:
                outcome, detail, grown = "hang", f"more than {MAX_SECONDS:.0f} s of a core", 0
        except (EOFError, ConnectionError, psutil.NoSuchProcess):
            self.process.join(5)
            outcome, detail, grown = "died", f"exit code {self.process.exitcode}", 0
        self.stop()
        self.start()
        return outcome, detail, grown


def run_target(target: str, count: int, seed: int, first: int = 0, keep: Path | None = None) -> Result:
    """Runs cases of a target and returns what happened."""
    module = load_target(target)
    runner, result, start = Runner(target), Result(target, seed), time.perf_counter()
    try:
        for number in range(first, first + count):
            with tempfile.TemporaryDirectory() as folder:
                path = module.make(random.Random(f"{target} {seed} {number}"), Path(folder))
                case_start = time.perf_counter()
                outcome, detail, grown = runner.run(path)
                result.slowest = max(result.slowest, time.perf_counter() - case_start)
                result.largest = max(result.largest, grown)
                result.counts[outcome] += 1
                if outcome in FAULTS:
                    result.faults.append(f"{target} --seed {seed} --first {number} --count 1: {outcome}: {detail}")
                    print(result.faults[-1], flush=True)
                    if keep is not None:
                        keep.mkdir(parents=True, exist_ok=True)
                        copy = keep / f"{target}-{seed}-{number}-{path.name}"
                        shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy)
            if (number - first + 1) % 500 == 0:
                print(f"{target}: {number - first + 1} of {count}, {dict(result.counts)}", flush=True)
    finally:
        runner.stop()
    result.seconds = time.perf_counter() - start
    return result


def as_table(results: list[Result]) -> str:
    """The counts as a Markdown table."""
    lines = ["| files | cases | outcomes | faults | slowest case | most memory |", "|---|---|---|---|---|---|"]
    for result in results:
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(result.counts.items()) if name not in FAULTS)
        lines.append(
            f"| {result.target} | {sum(result.counts.values())} | {outcomes} | {len(result.faults)} "
            f"| {result.slowest:.1f} s | {result.largest / 1e6:.0f} MB |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", choices=[*COUNTS, []], help="kinds of files to attack")
    parser.add_argument("--all", action="store_true", help="attack all kinds")
    parser.add_argument("--count", type=int, help="number of cases of each kind. Default: as in the docs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--keep", type=Path, help="folder that keeps the files that lead to a fault")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--update-docs", type=Path, help="page whose table is replaced by the results")
    arguments = parser.parse_args()
    targets = list(COUNTS) if arguments.all else arguments.targets
    if not targets:
        parser.error("name a kind of files, or pass --all")
    results = [
        run_target(target, arguments.count or COUNTS[target], arguments.seed, arguments.first, arguments.keep)
        for target in targets
    ]
    print(as_table(results))
    if arguments.json:
        facts = [{**vars(result), "counts": dict(result.counts)} for result in results]
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n")
    if arguments.update_docs:
        from stellar_hub.modeling.card_sections import write_section

        page = arguments.update_docs
        page.write_text(write_section(page.read_text(), "fuzz", as_table(results), page))
    sys.exit(any(result.faults for result in results))


if __name__ == "__main__":
    main()
