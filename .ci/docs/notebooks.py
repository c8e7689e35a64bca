"""Runs the notebooks of docs/notebooks, Python files in jupytext's percent format, and makes pages of them."""

import os
import re
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from staging import split_at_fences
from traitlets.config import Config

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "docs" / "notebooks"
SECONDS = 300  # for one cell, on a machine that is busy with other work; a whole notebook takes far less


def notebook_files() -> list[Path]:
    """Returns the notebooks, sorted by name."""
    return sorted(NOTEBOOKS.glob("*.py"))


def run_notebook(path: Path) -> Any:
    """Runs a notebook in the root of the repository, without a network, and returns it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails; the message has its traceback.
    """
    notebook = jupytext.read(path)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(ROOT)}},
        config=Config({"KernelManager": {"transport": "ipc"}}),  # files in the place of ports, which others could reach
    )
    return client.execute(env=environment)


def tidy(body: str) -> str:
    """Drops the path of the repository and empty lines from a page, and says what its images are."""
    text = re.sub(r"!\[(png|jpeg|svg)\]", "![Output of the code above]", body.replace(f"{ROOT}/", ""))
    parts = (part if is_code else re.sub(r"\n\s*\n\s*\n", "\n\n", part) for part, is_code in split_at_fences(text))
    return "".join(parts)


def write_page(notebook: Any, page: Path) -> None:
    """Writes a notebook that was run as a Markdown page, with its images in a folder beside it."""
    for cell in notebook.cells:  # progress bars and warnings are of the run, and not of the notebook
        outputs = cell.get("outputs", [])
        cell["outputs"] = [output for output in outputs if output.get("name") != "stderr"]
    exporter = MarkdownExporter()
    folder = f"{page.stem}_files"
    body, resources = exporter.from_notebook_node(notebook, {"output_files_dir": folder, "unique_key": page.stem})
    for name, content in resources["outputs"].items():
        if name in body:  # an image comes in several formats, of which the page shows one
            target = page.parent / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    title, _, rest = tidy(body).strip().partition("\n")
    source = f"docs/notebooks/{page.stem}.py"
    note = f"This page is a notebook with its outputs. Open `{source}` in Jupyter with jupytext, or run it as a script."
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{title}\n\n{note}\n{rest}\n", encoding="utf-8")
