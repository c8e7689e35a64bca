"""Measures the memory that loading features alone takes, for a checkpoint of the size of stellar-b16.

    python benchmarks/loading_memory.py

The benchmark writes a model with random weights in this library's layout (with decoder and tokenizer) and in the
original layout. It loads each with `decoder=False` in a fresh process, which has already imported everything and used a
tiny model. The table shows how much the anonymous resident memory (`RssAnon`, Linux) grows from before the load to the
end of the first `encode` of one 224-pixel image in `torch.inference_mode()`, and its peak, sampled every 2 ms.
Pages of the checkpoint that are only mapped (`RssFile`) do not count: the system can free them.

The exit status is 1 if the growth is above 1.3 times the encoder's bytes. Needs 1.2 GB of disk and 2 GB of memory.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from stellar_hub.conversion import load_original
from stellar_hub.conversion.convert import expected_shapes
from stellar_hub.conversion.layout import HEADS, all_sources
from stellar_hub.modeling import StellarConfig, StellarModel

MAX_GROWTH = 1.3  # of the encoder's bytes
SAMPLING_INTERVAL = 0.002  # seconds
B16 = StellarConfig()  # the defaults are those of stellar-b16
TINY = StellarConfig(
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=3,
    image_size=32,
    patch_size=8,
    decoder_num_hidden_layers=1,
    tokenizer_hidden_channels=32,
    num_prototypes=64,
)


class PeakSampler(threading.Thread):
    """A thread that keeps the highest anonymous memory between `start` and `stop`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._stopped = threading.Event()

    def run(self) -> None:
        """Samples until `stop` is called."""
        while not self._stopped.wait(SAMPLING_INTERVAL):
            self.peak = max(self.peak, resident("RssAnon"))

    def stop(self) -> int:
        """Stops the thread and returns the highest value in bytes."""
        self._stopped.set()
        self.join()
        return max(self.peak, resident("RssAnon"))


def resident(kind: str) -> int:
    """Returns the bytes of this process's resident memory of a kind, `RssAnon` or `RssFile`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


def write_checkpoint(layout: str, config: StellarConfig, folder: Path) -> Path:
    """Writes a whole model with random weights: a folder ("own") or a `.safetensors` file ("original")."""
    if layout == "own":
        StellarModel(config).save_pretrained(folder)
        return folder
    config = StellarConfig.from_dict(config.to_dict() | {"use_tokenizer": False})  # as in published files
    table = all_sources(config, {f"{head}." for head in HEADS})
    shapes = expected_shapes(config, table)
    tensors: dict[str, Tensor] = {}
    for target, sources in table.items():
        parts = (0.02 * torch.randn(shapes[target])).chunk(len(sources))
        tensors |= {name: part.clone() for name, part in zip(sources, parts, strict=True)}
    save_file(tensors, folder / "original.safetensors")
    return folder / "original.safetensors"


def load_and_encode(layout: str, path: Path, image_size: int, heads: int) -> StellarModel:
    """Loads features alone and encodes one image."""
    if layout == "own":
        model = StellarModel.from_pretrained(path, decoder=False)
    else:
        model = load_original(path, decoder=False, num_attention_heads=heads)
    with torch.inference_mode():
        model.encode(torch.rand(1, 3, image_size, image_size))
    return model


def measure(layout: str, path: Path) -> dict[str, str | float]:
    """Loads one checkpoint in this process, after a tiny one, and returns sizes in MB."""
    with tempfile.TemporaryDirectory() as folder:
        tiny = write_checkpoint(layout, TINY, Path(folder))
        load_and_encode(layout, tiny, TINY.image_size, TINY.num_attention_heads)
    gc.collect()
    before, mapped = resident("RssAnon"), resident("RssFile")
    sampler = PeakSampler()
    sampler.start()
    model = load_and_encode(layout, path, 224, B16.num_attention_heads)
    growth, peak = resident("RssAnon") - before, sampler.stop() - before
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return {
        "layout": layout,
        "encoder_mb": size / 1e6,
        "growth_mb": growth / 1e6,
        "peak_mb": peak / 1e6,
        "mapped_mb": (resident("RssFile") - mapped) / 1e6,
        "ratio": growth / size,
    }


def measure_apart(layout: str) -> dict[str, str | float]:
    """Writes a checkpoint and measures it in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_checkpoint(layout, B16, Path(folder))
        command = [sys.executable, __file__, "--load", layout, str(path)]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="File to write the rows to.")
    parser.add_argument("--load", nargs=2, metavar=("LAYOUT", "PATH"), help=argparse.SUPPRESS)  # the fresh process
    args = parser.parse_args()
    if args.load:
        print(json.dumps(measure(args.load[0], Path(args.load[1]))))
        return 0
    rows = [measure_apart(layout) for layout in ("own", "original")]
    print("| layout | encoder, MB | growth, MB | peak, MB | mapped, MB | growth / encoder |\n|---|---|---|---|---|---|")
    for row in rows:
        sizes = " | ".join(f"{row[f'{name}_mb']:.1f}" for name in ("encoder", "growth", "peak", "mapped"))
        print(f"| {row['layout']} | {sizes} | {row['ratio']:.2f} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(float(row["ratio"]) <= MAX_GROWTH for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
