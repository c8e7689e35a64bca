"""Measures `stellar-hub serve`: agreement with `encode`, batching, mutated requests, and stopping under load.

    python benchmarks/serving.py --update-docs docs/results/serving.md
    python benchmarks/serving.py --parts batching --batching stellar-tiny:32

Each part starts servers of its own on free ports of this machine, and calls them over HTTP from threads, each of which
keeps one connection. Images are drawn with a fixed seed. The parts:

- agreement: requests from 8 clients at once, compared with `model.encode` of each image alone;
- batching: the same clients call a server that batches and one with `--max-batch-size 1`, in turn; one client alone
  calls the latter, too. Medians of the rounds;
- mutations: mutated requests of every endpoint and media type (`mutated_bodies.py`); no answer may be 5xx, and the
  server must live; with the memory of its process;
- stop: SIGTERM under load; every request that was sent on a connection that the server had accepted has its answer.

The exit status is 1 if a bar is missed. Needs the extra `serve`.
"""

import argparse
import http.client
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from mutated_bodies import Call, mutated, valid_calls

PARTS = ("agreement", "batching", "mutations", "stop")
CLIENTS = 8
MAX_DIFFERENCE = 1e-6
MIN_SPEEDUP = 2.0
MAX_GROWTH = 2 * 10**9  # bytes of memory during the mutations
ACCEPT = {"Accept": "application/safetensors"}

Answer = tuple[int, bytes]


@dataclass(frozen=True)
class Line:
    """A line of the table: what was measured, the bar, and whether it is met (None has no bar)."""

    what: str
    measured: str
    bar: str
    met: bool | None


@contextmanager
def server(model: str, *options: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Starts a server; gives its port and its process."""
    command = [sys.executable, "-m", "stellar_hub", "serve", "--port", "0", "--model", model, *options]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert ":" in line, process.stderr.read() if process.stderr else ""
        yield int(line.split(" at ")[1].split()[0].rsplit(":", 1)[1]), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def jpeg(number: int) -> bytes:
    """Returns an image, another one for each number."""
    noise = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((320, 240)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def call(connection: http.client.HTTPConnection, request: Call) -> Answer:
    """Sends a request, and returns status and body of the answer."""
    kind = {"Content-Type": request.kind.encode("latin-1").decode("latin-1")} if request.kind else {}
    connection.request("POST", request.path, request.body, {**kind, **ACCEPT} if "encode" in request.path else kind)
    answer = connection.getresponse()
    return answer.status, answer.read()


def together(port: int, requests: Sequence[Call], clients: int = CLIENTS) -> tuple[list[Answer], float]:
    """Calls a server from several threads at once; returns the answers in the order of the requests, and seconds."""
    answers: list[Any] = [None] * len(requests)

    def work(own: range) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        for number in own:
            answers[number] = call(connection, requests[number])
        connection.close()

    threads = [threading.Thread(target=work, args=(range(first, len(requests), clients),)) for first in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, time.perf_counter() - began


def agreement(model: str, count: int, options: Sequence[str] = ()) -> list[Line]:
    """Compares answers of a server under load with `model.encode` of each image alone."""
    import torch
    from safetensors.torch import load

    from stellar_hub import StellarImageProcessor, StellarModel

    files = [jpeg(number) for number in range(count)]
    with server(model, *options) as (port, _):
        answers, _ = together(port, [Call("/encode?outputs=S,L", "image/jpeg", data) for data in files])
    network = StellarModel.from_pretrained(model).eval()
    processor = StellarImageProcessor.from_pretrained(model)
    largest, wrong = 0.0, sum(status != 200 for status, _ in answers)
    for data, (status, body) in zip(files, answers, strict=True):
        if status == 200:
            with torch.inference_mode():
                expected = network.encode(processor(data, return_tensors="pt")["pixel_values"])
            found = load(body)
            for tensor, name in zip(expected, ("semantics", "localization"), strict=True):
                largest = max(largest, float((tensor - found[name]).abs().max()))
    what = f"{count} requests from {CLIENTS} clients: largest difference of S and L from `encode`"
    failed = f"; {wrong} failed" if wrong else ""
    return [Line(what, f"{largest:.1e}{failed}", f"≤ {MAX_DIFFERENCE:.0e}", largest <= MAX_DIFFERENCE and not wrong)]


def batching(model: str, count: int, rounds: int, options: Sequence[str] = (), name: str = "") -> list[Line]:
    """Compares a server that batches with one that does not; they take turns."""
    requests = [Call("/encode?outputs=pooled", "image/jpeg", jpeg(number)) for number in range(count)]
    rates: dict[str, list[float]] = {"batched": [], "unbatched": [], "alone": []}
    with server(model, *options) as (batched, _), server(model, "--max-batch-size", "1", *options) as (single, _):
        ways: dict[str, Callable[[], float]] = {
            "batched": lambda: together(batched, requests)[1],
            "unbatched": lambda: together(single, requests)[1],
            "alone": lambda: together(single, requests, 1)[1],
        }
        for way in ways.values():
            way()
        for _ in range(rounds):
            for way, work in ways.items():
                rates[way].append(count / work())
    middle = {way: statistics.median(found) for way, found in rates.items()}
    speedup = middle["batched"] / middle["unbatched"]
    what = f"{name or model}: images per second, batched / unbatched / one client alone"
    shown = f"{middle['batched']:.1f} / {middle['unbatched']:.1f} / {middle['alone']:.1f}, {speedup:.2f} x"
    return [Line(what, shown, f"≥ {MIN_SPEEDUP:g} x unbatched", speedup >= MIN_SPEEDUP)]


def random_b16(folder: Path, size: int) -> str:
    """Saves an encoder of the size of stellar-b16 with random weights; returns its folder."""
    from stellar_hub import StellarConfig, StellarImageProcessor, StellarModel

    config = StellarConfig(use_decoder=False, image_size=size)
    StellarModel(config).save_pretrained(folder)
    StellarImageProcessor.from_config(config).save_pretrained(folder)
    return str(folder)


def mutations(model: str, count: int, seed: int = 0) -> list[Line]:
    """Sends mutated requests from several clients at once."""
    statuses: Counter[int] = Counter()
    faults: list[str] = []
    with server(model, "--max-queue", "1024") as (port, process):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("GET", "/health")
        facts = json.load(connection.getresponse())
        patches = facts["image_size"][0] * facts["image_size"][1] // facts["patch_size"] ** 2
        calls = valid_calls(facts["hidden_size"], patches, facts["num_tokens"])
        before = [status for status, _ in together(port, calls)[0]]
        watched = psutil.Process(process.pid)
        start = most = watched.memory_info().rss
        for first in range(0, count, 100):
            numbers = range(first, min(first + 100, count))
            answers, _ = together(port, [mutated(seed, number, calls) for number in numbers])
            statuses.update(status for status, _ in answers)
            faults += [
                f"{number}: {status}" for number, (status, _) in zip(numbers, answers, strict=True) if status >= 500
            ]
            most = max(most, watched.memory_info().rss)
        alive = process.poll() is None
        again = [status for status, _ in together(port, calls)[0]]
    for fault in faults[:20]:
        print("fault at", fault)
    counts = ", ".join(f"{number} x {status}" for status, number in sorted(statuses.items()))
    what = f"{count} mutated requests (seed {seed}): answers by status; growth of memory"
    met = alive and not faults and before == again and most - start <= MAX_GROWTH
    return [Line(what, f"{counts}; {(most - start) / 1e6:.0f} MB", "no 5xx, no crash", met)]


def stop(model: str, seconds: float) -> list[Line]:
    """Stops a server while clients call it."""
    sent, answered, lost, refused = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    data = jpeg(0)

    def work(name: str) -> None:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            try:
                connection.connect()
            except OSError:
                refused[name] += 1
                return
            while connection.sock is not None:
                try:
                    sent[name] += 1
                    if call(connection, Call("/encode", "image/jpeg", data))[0] == 200:
                        answered[name] += 1
                except (OSError, http.client.HTTPException):
                    lost[name] += 1
                    break

    with server(model) as (port, process):
        threads = [threading.Thread(target=work, args=(str(number),)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        code = process.wait(60)
    total = [sum(each.values()) for each in (sent, answered, lost)]
    what = f"SIGTERM under the load of {CLIENTS} clients: requests sent / answered / lost; exit code"
    met = total[0] == total[1] and total[2] == 0 and code == 0
    return [Line(what, f"{total[0]} / {total[1]} / {total[2]}; {code}", "none lost", met)]


def table_of(lines: Sequence[Line]) -> str:
    """Returns the table for the page of docs."""
    verdicts = {True: "", False: ": **not met**", None: ""}
    rows = [f"| {line.what} | {line.measured} | {line.bar}{verdicts[line.met]} |" for line in lines]
    return "\n".join(["| what | measured | bar |", "|---|---|---|", *rows]) + "\n"


def main() -> int:
    """Measures and prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts to run (default: all)")
    parser.add_argument("--model", default="stellar-tiny", help="model to serve (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=500, help="requests of the agreement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the batching (default: %(default)s)")
    parser.add_argument("--per-round", type=int, default=64, help="requests of a round (default: %(default)s)")
    parser.add_argument("--mutations", type=int, default=10_000, help="mutated requests (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=5, help="seconds of load before SIGTERM (default: %(default)s)"
    )
    parser.add_argument(
        "--batching",
        nargs="+",
        default=["stellar-tiny:128", "stellar-tiny:32", "random-b16:32"],
        metavar="MODEL:SIZE",
        help="models of the batching, and sides of their images (default: %(default)s)",
    )
    parser.add_argument("--update-docs", type=Path, help="page whose table is replaced by the results")
    options = parser.parse_args()
    lines: list[Line] = []
    if "agreement" in options.parts:
        lines += agreement(options.model, options.requests)
    if "batching" in options.parts:
        for each in options.batching:
            name, _, size = each.rpartition(":")
            with tempfile.TemporaryDirectory() as folder:
                model = random_b16(Path(folder), int(size)) if name == "random-b16" else name
                extra = ("--image-size", size)
                lines += batching(model, options.per_round, options.rounds, extra, f"{name}, {size} x {size} pixels")
    if "mutations" in options.parts:
        lines += mutations(options.model, options.mutations, options.seed)
    if "stop" in options.parts:
        lines += stop(options.model, options.seconds)
    table = table_of(lines)
    print(table)
    if options.update_docs:
        from stellar_hub.modeling.card_sections import write_section

        page = options.update_docs
        page.write_text(write_section(page.read_text(), "serving", table, page))
    return 0 if all(line.met is not False for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
