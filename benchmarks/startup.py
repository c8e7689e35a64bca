"""Measures the time to the first features (import, load, first encode), compared with timm and transformers.

    python benchmarks/startup.py --check

Each library loads a ViT-B/16 with random weights from a safetensors file on this disk, for features, in a new process.
The file was read before, so that it is in the system's cache. The libraries take turns. The table shows median seconds,
and the resident memory after the first encode. "import" ends when the model's class is imported. `--processor-time`
counts the processor time of the process, for machines that do other work as well.

With `--check` the exit status is 1 if stellar_hub needs more than 1.1 times the total time of the faster other library.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model

from stellar_hub.modeling import StellarConfig, StellarModel

MAX_TIME_RATIO = 1.1  # to the total time of the faster other library
PHASES = ("import", "load", "encode")
CODE = {
    "stellar_hub": """
from stellar_hub import StellarModel
done("import")
model = StellarModel.from_pretrained(FOLDER + "/stellar_hub", decoder=False)
done("load")
model.encode(images)
""",
    "timm": """
import timm
done("import")
model = timm.create_model("vit_base_patch16_224", num_classes=0, checkpoint_path=FOLDER + "/timm.safetensors").eval()
done("load")
model(images)
""",
    "transformers": """
from transformers import Dinov2Model
done("import")
model = Dinov2Model.from_pretrained(FOLDER + "/transformers")
done("load")
model(images)
""",
}
FRAME = """
import json, time
clock = time.CLOCK
start = clock()
seconds = {}
def done(phase):
    global start
    now = clock()
    seconds[phase] = now - start
    start = now
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS:")) * 1024
import torch
torch.set_num_threads(THREADS)
torch.set_grad_enabled(False)
images = torch.zeros(1, 3, 224, 224)
BODY
done("encode")
print(json.dumps({**seconds, "resident": resident()}))
"""


def write_models(folder: Path) -> None:
    """Writes one file with random weights for each library."""
    torch.manual_seed(0)
    StellarModel(StellarConfig(use_tokenizer=False)).save_pretrained(folder / "stellar_hub")
    weights = timm.create_model("vit_base_patch16_224", num_classes=0).state_dict()
    save_file(weights, folder / "timm.safetensors")
    Dinov2Model(Dinov2Config(image_size=224, patch_size=16)).save_pretrained(folder / "transformers")


def measure(name: str, folder: Path, threads: int, clock: str = "perf_counter") -> dict[str, float]:
    """Returns the seconds of each phase and the resident bytes at the end, measured in a fresh process.

    Args:
        name: The library.
        folder: Folder of the models.
        threads: Number of CPU threads.
        clock: Function of `time` that counts the seconds.
    """
    body = CODE[name].replace("FOLDER", repr(str(folder)))
    code = FRAME.replace("BODY", body).replace("THREADS", str(threads)).replace("CLOCK", clock)
    with tempfile.TemporaryDirectory() as empty:  # not the clone, whose folders would shadow the package
        done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, cwd=empty)
    return json.loads(done.stdout.splitlines()[-1])


def compare(repeats: int, threads: int, clock: str = "perf_counter") -> list[dict[str, float | str]]:
    """Returns one row for each library. A first round, which warms the caches, does not count."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CODE}
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        for _ in range(repeats + 1):
            for name in CODE:
                found[name].append(measure(name, Path(folder), threads, clock))
    rows: list[dict[str, float | str]] = []
    for name, taken in found.items():
        median = {key: statistics.median(one[key] for one in taken[1:]) for key in (*PHASES, "resident")}
        total = statistics.median(sum(one[phase] for phase in PHASES) for one in taken[1:])
        rows.append({"library": name, **median, "total": total})
    return rows


def print_table(rows: Sequence[dict[str, float | str]]) -> None:
    """Prints the rows as a table in Markdown."""
    print("| library | import, s | load, s | first encode, s | total, s | resident, MB |\n|---|---|---|---|---|---|")
    for row in rows:
        seconds = " | ".join(f"{row[phase]:.2f}" for phase in (*PHASES, "total"))
        print(f"| {row['library']} | {seconds} | {float(row['resident']) / 1e6:.0f} |")


def main() -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="Number of processes per library. Default: %(default)s.")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="Number of CPU threads. Default: torch's choice."
    )
    parser.add_argument("--processor-time", action="store_true", help="Count the processor time of the process.")
    parser.add_argument("--json", type=Path, help="File to write the rows to.")
    parser.add_argument("--check", action="store_true", help="Exit with 1 if stellar_hub is too slow.")
    args = parser.parse_args()
    rows = compare(args.repeats, args.threads, "process_time" if args.processor_time else "perf_counter")
    print_table(rows)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    total = {str(row["library"]): float(row["total"]) for row in rows}
    fast = total.pop("stellar_hub") <= MAX_TIME_RATIO * min(total.values())
    return 0 if fast or not args.check else 1


if __name__ == "__main__":
    raise SystemExit(main())
