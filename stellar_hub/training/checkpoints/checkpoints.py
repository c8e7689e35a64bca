"""Checkpoints a run can go on from exactly: written whole or not at all, the newest few kept."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

STEP_FOLDER = re.compile(r"step-(\d+)")
STATE_FILE = "run_state.json"
# torch.save's RuntimeError for a full disk names its source file. Others are not of the disk: a data worker that dies
# raises one wherever the main thread happens to be.
TORCH_SAVE = "inline_container"


class Checkpoints:
    """The folder with a run's checkpoints, `step-N` each.

    Args:
        folder: Where they lie; created with the first.
        keep: How many are kept, the newest.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int):
        self.folder = Path(folder)
        self.keep = keep

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:06d}"

    def partial(self, step: int) -> Path:
        """Where it is written before it is whole."""
        return self.folder / f".step-{step:06d}.part"

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, ascending."""
        if not self.folder.is_dir():
            return []
        names = [STEP_FOLDER.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted(int(match[1]) for match in names if match and (self.folder / match[0] / STATE_FILE).is_file())

    def latest(self) -> Path | None:
        """The newest, or None."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def save(
        self,
        step: int,
        write: Callable[[Path], None],
        *,
        is_main: bool = True,
        barrier: Callable[[], None] = lambda: None,
    ) -> Path:
        """Write a checkpoint: into a hidden folder first, which is then renamed.

        If writing fails, what was written goes and earlier checkpoints stay as they are.

        Args:
            step: Its step; an existing one is replaced, and later ones go: a run that went back writes them anew.
            write: Writes this process's files into the folder it is given.
            is_main: Whether this is the process that makes and renames folders.
            barrier: Waits for all processes.

        Raises:
            OSError: if it cannot be written, for instance because the disk is full.
        """
        partial, final = self.partial(step), self.path(step)
        if is_main:
            self.remove_partial()
            partial.mkdir(parents=True)
        barrier()
        try:
            write(partial)
            barrier()
            if is_main:
                sync_folder(partial)
                self.put_in_place(partial, final)
                sync(self.folder)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError | SafetensorError) or TORCH_SAVE in str(error):
                raise OSError(f"no checkpoint of step {step} could be written to {self.folder}: {error}") from error
            raise
        if is_main:
            self.rotate(step)
        barrier()
        return final

    def put_in_place(self, partial: Path, final: Path) -> None:
        """Rename a whole folder to its final name; one that bears it already goes when that has worked."""
        aside = final.with_name(f".{final.name}.old.part")
        if final.exists():
            os.replace(final, aside)
        try:
            os.replace(partial, final)
        except BaseException:
            if aside.exists():
                os.replace(aside, final)
            raise
        if aside.exists():
            shutil.rmtree(aside, ignore_errors=True)

    def rotate(self, step: int) -> None:
        """Remove what is later than `step`, and of the others all but the newest."""
        earlier = [other for other in self.steps() if other <= step]
        kept = earlier[-self.keep :]
        for other in self.steps():
            if other not in kept:
                # Under a hidden name first: removed half, it would look like a whole one.
                os.replace(self.path(other), self.partial(other))
                shutil.rmtree(self.partial(other))

    def remove_partial(self) -> None:
        """Remove what a killed run left half-written."""
        for path in self.folder.glob(".step-*.part") if self.folder.is_dir() else ():
            shutil.rmtree(path)


def sync_folder(folder: Path) -> None:
    """Make sure a folder's files are on the disk before it gets its final name."""
    for path in [*folder.iterdir(), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Flush one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_state(folder: Path) -> dict[str, Any]:
    """A checkpoint's `run_state.json`.

    Raises:
        FileNotFoundError: if the folder is no checkpoint of a run.
        ValueError: if the file is damaged.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is no checkpoint of a run: it has no {STATE_FILE}; name one such as RUN/checkpoints/step-000100"
        )
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise ValueError(f"{path} is damaged: it does not say which step it is of")
    return state
