"""Measures whether the memory of the demo page stays flat while people upload images.

    python benchmarks/app_uploads.py --update-docs docs/results/robustness.md

The benchmark starts `stellar-hub app` in a process of its own and calls it as a browser does: it uploads images of
different sizes, some of them damaged, and after each chooses a token and drops it. Each user uploads `--per-user`
images; then another comes. The table has the resident memory of the page's process (the median of some samples), and
the number of files in its folder of uploads. Images are random noise, drawn with a fixed seed. The first `--warm-up`
uploads are not counted: until then the allocator takes memory that it later uses again.

The exit status is 1 if memory grows by more than 10 % from the first quarter to the last, or a file is left.
Needs the extra `app`.
"""

import argparse
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

MAX_GROWTH = 0.10
SIZES = ((480, 640), (1200, 900), (2400, 3200), (64, 64))
DAMAGED_EVERY = 10


class Client:
    """One user of a page, without a browser: it calls what the page's scripts call.

    Args:
        address: Address of the page.
    """

    def __init__(self, address: str):
        import httpx

        self.http = httpx.Client(base_url=address, timeout=300, trust_env=False)
        self.config = self.http.get("/config").json()
        self.session = uuid.uuid4().hex

    def load(self) -> list[Any]:
        """Opens the page; returns the values of all outputs."""
        return self._join(next(each for each in self.config["dependencies"] if each["targets"][0][1] == "load"), [], {})

    def do(self, elem_id: str, event: str, data: Any = None, values: tuple[Any, ...] = ()) -> list[Any]:
        """Does something with a part of the page; returns the values of all outputs."""
        parts = self.config["components"]
        number = next(part["id"] for part in parts if part["props"].get("elem_id") == elem_id)
        wanted = next(each for each in self.config["dependencies"] if [number, event] in map(list, each["targets"]))
        return self._join(wanted, list(values), data)

    def upload(self, name: str, data: bytes) -> list[Any]:
        """Uploads a file and opens it; returns the values of all outputs."""
        answer = self.http.post("/gradio_api/upload", files={"files": (name, data)})
        answer.raise_for_status()
        return self.do("upload", "upload", {"name": name, "file": answer.json()[0]})

    def close(self) -> None:
        """Leaves the page."""
        self.http.close()

    def _join(self, wanted: dict[str, Any], values: list[Any], data: Any) -> list[Any]:
        body = {
            "data": [None, *values],
            "event_data": data,
            "fn_index": wanted["id"],
            "session_hash": self.session,
            "trigger_id": wanted["targets"][0][0],
        }
        self.http.post("/gradio_api/queue/join", json=body).raise_for_status()
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as lines:
            for line in lines.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    assert message["success"], message
                    return list(message["output"]["data"])
        raise AssertionError("the page gave no answer")


def image_file(number: int) -> bytes:
    """Returns a JPEG of noise, another one for each number; every tenth is cut short."""
    height, width = SIZES[number % len(SIZES)]
    noise = np.random.default_rng(number).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height)).save(buffer, "JPEG", quality=90)
    data = buffer.getvalue()
    return data[:500] if number % DAMAGED_EVERY == DAMAGED_EVERY - 1 else data


def measure(uploads: int, per_user: int, model: str) -> tuple[list[float], int]:
    """Uploads images to a page.

    Args:
        uploads: Number of images.
        per_user: Images of each user.
        model: Model of the page.

    Returns:
        Resident memory of the page in MB after each upload, and the number of files that were left.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TMPDIR": folder, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "stellar_hub", "app", "--port", "0", "--model", model]
        page = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert page.stdout is not None
            address = page.stdout.readline().split(" at ")[1].split()[0]
            memory = []
            client = Client(address)
            for number in range(uploads):
                if number % per_user == 0:
                    client.close()
                    client = Client(address)
                    client.load()
                client.upload(f"{number}.jpg", image_file(number))
                client.do("maps", "select", {"key": "1"})
                client.do("drop", "click")
                memory.append(psutil.Process(page.pid).memory_info().rss / 1e6)
            left = sum(path.is_file() for path in Path(folder).rglob("*"))
        finally:
            page.send_signal(signal.SIGINT)
            page.wait(60)
    return memory, left


def table_of(memory: list[float], left: int) -> tuple[str, bool]:
    """Returns the table for the page of docs, and whether memory stays flat and no file is left."""
    quarter = max(1, len(memory) // 4)
    parts = [memory[start : start + quarter] for start in range(0, quarter * 4, quarter)]
    medians = [statistics.median(part) for part in parts if part]
    cells = " | ".join(f"{median:.0f} MB" for median in medians)
    names = " | ".join(f"uploads {quarter * i + 1} to {quarter * (i + 1)}" for i in range(len(medians)))
    table = f"| {names} | files left |\n|{'---|' * (len(medians) + 1)}\n| {cells} | {left} |\n"
    return table, medians[-1] <= medians[0] * (1 + MAX_GROWTH) and left == 0


def main() -> int:
    """Measures and prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=200, help="number of images (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=100, help="images before that (default: %(default)s)")
    parser.add_argument("--per-user", type=int, default=20, help="images of each user (default: %(default)s)")
    parser.add_argument("--model", default="stellar-tiny", help="model of the page (default: %(default)s)")
    parser.add_argument("--update-docs", type=Path, help="page whose table is replaced by the results")
    arguments = parser.parse_args()
    memory, left = measure(arguments.warm_up + arguments.uploads, arguments.per_user, arguments.model)
    table, flat = table_of(memory[arguments.warm_up :], left)
    print(table)
    if arguments.update_docs:
        from stellar_hub.modeling.card_sections import write_section

        page = arguments.update_docs
        page.write_text(write_section(page.read_text(), "app_uploads", table, page))
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
