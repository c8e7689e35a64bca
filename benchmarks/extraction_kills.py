"""Checks that an extraction that is killed many times ends with the same bytes as an undisturbed one.

    python benchmarks/extraction_kills.py
    python benchmarks/extraction_kills.py --append

It extracts images (half of them in a folder, half in tar files; one in a hundred is damaged) with a small model of
random weights: once undisturbed, and once with SIGKILL at random moments, while the run starts, reads, computes or
writes. The last kill comes when all shards exist. Then it compares the stores, file by file, and the status of each row
with what was drawn. With `--append`, a store of half of the images is there before, and what is killed is the append of
the other half; at each kill, the store must be readable with its first half, or with all.

Exits with 1 if a byte or a status differs, or if the run ended before all kills were done. Needs 100 MB of disk.
"""

import argparse
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from PIL import Image

from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.store import FeatureStore

# Processes fork from one that has imported everything: a start takes one second instead of ten.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["stellar_hub.cli.main", "stellar_hub.store.command", "pyarrow.parquet"])
PAUSE = 0.002  # seconds between two checks
SHARD_ROWS = 10
NUM_TARS = 4
BAD_SHARE = 0.01
MODEL = StellarConfig(
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=3,
    image_size=32,
    patch_size=8,
    num_sparse_tokens=4,
    use_decoder=False,
    use_tokenizer=False,
)


def image(generator: np.random.Generator, bad: bool) -> bytes:
    """Returns a JPEG of noise; a bad one is cut in the middle."""
    buffer = io.BytesIO()
    values = generator.integers(0, 256, (generator.integers(36, 60), generator.integers(36, 60), 3), dtype=np.uint8)
    Image.fromarray(values).save(buffer, format="JPEG")
    data = buffer.getvalue()
    return data[: len(data) // 2] if bad else data


def draw_sources(folder: Path, count: int, seed: int) -> tuple[list[str], list[bool]]:
    """Writes images as files and in tars; returns the names of the sources, and which rows are bad."""
    generator = np.random.default_rng(seed)
    bad = (generator.permutation(count) < max(1, round(BAD_SHARE * count))).tolist()
    data = [image(generator, is_bad) for is_bad in bad]
    (folder / "files").mkdir(parents=True)
    half = count // 2
    for index, content in enumerate(data[:half]):
        (folder / "files" / f"{index:06d}.jpg").write_bytes(content)
    for number, part in enumerate(np.array_split(np.arange(half, count), NUM_TARS)):
        with tarfile.open(folder / f"shard-{number}.tar", "w") as archive:
            for index in part.tolist():
                member = tarfile.TarInfo(f"{index:06d}.jpg")
                member.size = len(data[index])
                archive.addfile(member, io.BytesIO(data[index]))
    return [str(folder / "files"), str(folder / f"shard-{{0..{NUM_TARS - 1}}}.tar")], bad


def start(arguments: list[str], num_processes: int) -> list[BaseProcess]:
    """Starts the command, in one process or in several processes of one launch."""
    processes = []
    for rank in range(num_processes):
        environment = {"OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": str(num_processes)}
        processes.append(FORKS.Process(target=run_command, args=(arguments, environment)))
    for process in processes:
        process.start()
    return processes


def run_command(arguments: list[str], environment: dict[str, str]) -> None:
    """Runs `stellar-hub extract` as the leader of a process group that its data workers belong to."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # what a data loader uses, not the fork server
    os.environ |= environment
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull if descriptor == 1 else "/dev/stderr", os.O_WRONLY), descriptor)
    import torch

    torch.set_num_threads(1)
    from stellar_hub.cli.main import app

    app(["extract", *arguments])


def run(arguments: list[str], num_processes: int) -> None:
    """Runs the command to its end.

    Raises:
        RuntimeError: if it fails.
    """
    processes = start(arguments, num_processes)
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"extract ended with {[process.exitcode for process in processes]}")


def run_and_kill(arguments: list[str], store: Path, more: int, total: int, delay: float, processes: int) -> bool:
    """Starts the command, kills it soon after `more` shards exist, and returns whether it was still running."""
    started = start(arguments, processes)
    wanted = min(num_shards(store) + more, total)
    while num_shards(store) < wanted and any(process.is_alive() for process in started):
        time.sleep(PAUSE)
    time.sleep(delay)
    alive = [process for process in started if process.is_alive()]
    for process in alive:
        # Kills the group, as the end of a container does, or one process, as the kernel does when memory is short.
        send = os.killpg if random.random() < 0.5 and group_of(process) == process.pid else os.kill
        send(process.pid or 0, signal.SIGKILL)
    for process in started:
        process.join()
    return bool(alive)


def group_of(process: BaseProcess) -> int:
    """Returns the group of a process."""
    return os.getpgid(process.pid or 0)


def num_shards(store: Path) -> int:
    """Returns the number of shards that exist, those of a segment that is not complete included."""
    return len(list(store.rglob("0*.safetensors"))) if store.exists() else 0


def files_of(store: Path) -> dict[str, bytes]:
    """Returns the content of every file of a store, by its relative name."""
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def set_aside(images: Path) -> list[tuple[Path, Path]]:
    """Moves half of the files and of the tars away; returns the places where they are and where they belong."""
    aside = images / "aside"
    aside.mkdir()
    paths = [*sorted((images / "files").iterdir()), *sorted(images.glob("*.tar"))]
    moves = [(aside / path.name, path) for path in paths[1::2]]
    for away, path in moves:
        path.rename(away)
    return moves


def kill_and_compare(
    folder: Path, count: int, kills: int, seed: int, processes: int, decoder: str = "pillow", append: bool = False
) -> dict[str, int]:
    """Draws images, extracts them undisturbed and with kills, and compares.

    Returns:
        Counts: "rows", "shards", "kills", "errors", "different_files", "wrong_statuses", and in "unreadable" how often
        the store had another number of rows after a kill of an append than before it or at the end.
    """
    random.seed(seed)
    sources, bad = draw_sources(folder / "images", count, seed)
    StellarModel(MODEL).save_pretrained(folder / "model")

    def arguments(store: Path, *more: str) -> list[str]:
        options = ["--model", str(folder / "model"), "--shard-rows", str(SHARD_ROWS), "--batch-size", "4"]
        options += ["--decoder", decoder, "--num-workers", "1", "--device", "cpu"]
        return [*sources, *options, "--output", str(store), *more]

    undisturbed, killed = folder / "undisturbed", folder / "killed"
    warm_up = FORKS.Process(target=os.getpid)
    warm_up.start()
    warm_up.join()
    more = ["--append"] if append else []
    if append:
        moves, sources[1] = set_aside(folder / "images"), str(folder / "images" / "shard-*.tar")
        run(arguments(undisturbed), processes)
        shutil.copytree(undisturbed, killed)
        for away, path in moves:
            away.rename(path)
    num_rows = len(FeatureStore(undisturbed)) if append else 0
    begin = time.perf_counter()
    run(arguments(undisturbed, *more), processes)
    total = num_shards(undisturbed)
    seconds = time.perf_counter() - begin
    print(f"undisturbed: {count} rows in {total} shards, {seconds:.1f} s", flush=True)
    done = unreadable = 0
    for kill in range(kills):
        last = kill == kills - 1
        # With no further shard, the kill hits the start.
        shards = total if last else min(random.choice((0, 1, 2, 4, 8)), max(0, total - 3 - num_shards(killed)))
        longest = seconds / total * 2 if shards else seconds / 4
        delay = random.uniform(0, 0.02 if last or (shards and append) else longest)
        done += run_and_kill(arguments(killed, *more), killed, shards, total, delay, processes)
        unreadable += append and len(FeatureStore(killed)) not in (num_rows, count)
        print(f"kill {done}: {num_shards(killed)} of {total} shards are there", flush=True)
    run(arguments(killed, *more), processes)
    expected, found = files_of(undisturbed), files_of(killed)
    different = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    rows = list(FeatureStore(killed))
    statuses = {Path(row.record.image).stem: row.record.error is not None for row in rows}
    wrong = [number for number, is_bad in enumerate(bad) if statuses.get(f"{number:06d}") != is_bad]
    print(f"files that differ: {different or 'none'}; rows with a wrong status: {wrong or 'none'}")
    return {
        "rows": len(rows),
        "shards": total,
        "kills": done,
        "errors": sum(bad),
        "different_files": len(different),
        "wrong_statuses": len(wrong),
        "unreadable": unreadable,
    }


def main() -> int:
    """Runs the check and prints what it finds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="number of images (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default: %(default)s)")
    parser.add_argument(
        "--processes", type=int, default=1, help="number of processes of one launch (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the images and of the moments (default: %(default)s)"
    )
    parser.add_argument(
        "--decoder",
        choices=("pillow", "torchvision"),
        default="pillow",
        help="what decodes the JPEGs (default: %(default)s)",
    )
    parser.add_argument("--append", action="store_true", help="kill an append to a store of half of the images")
    parser.add_argument("--json", type=Path, help="file to write the counts to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = kill_and_compare(
            Path(folder), args.images, args.kills, args.seed, args.processes, args.decoder, args.append
        )
    if args.json:
        args.json.write_text(json.dumps(counts, indent=2) + "\n")
    wrong = counts["different_files"] + counts["wrong_statuses"] + counts["unreadable"]
    return 1 if wrong or counts["kills"] < args.kills else 0


if __name__ == "__main__":
    sys.exit(main())
