"""Checkpoints a run can go on from exactly: written whole or not at all, the newest few kept."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEP_FOLDER = re.compile(r"step-(\d+)")
STATE_FILE = "run_state.json"


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
            step: Its step; an existing one is replaced.
            write: Writes this process's files into the folder it is given.
            is_main: Whether this is the process that makes and renames folders.
            barrier: Waits for all processes.
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
                if final.exists():
                    shutil.rmtree(final)
                os.replace(partial, final)
                sync(self.folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if is_main:
            self.rotate()
        barrier()
        return final

    def rotate(self) -> None:
        """Remove all but the newest."""
        for step in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(step))

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
        raise FileNotFoundError(f"{folder} is no checkpoint of a run: it has no {STATE_FILE}")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
