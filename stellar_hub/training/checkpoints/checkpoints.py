"""The checkpoints of a run: each is written whole or not at all, and the newest ones are kept."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from stellar_hub.modeling.atomic_write import replaced_folder, restore
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.old_names import old_names
from stellar_hub.training.checkpoints.digests import check_digests, write_digests

STEP_FOLDER = re.compile(r"step-(\d+)")
STATE_FILE = "run_state.json"
WEIGHTS_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.pt"
# On a full disk, torch.save raises a RuntimeError that names its source file. Other RuntimeErrors have other causes: a
# data worker that dies raises one in the main thread, at whatever it does.
TORCH_SAVE = "inline_container"


class Checkpoints:
    """The folder of a run's checkpoints, with one folder `step-N` each.

    Args:
        folder: Path of the folder; the first checkpoint creates it.
        keep: Number of checkpoints to keep, the newest ones.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int):
        self.folder = Path(folder)
        self.keep = keep

    def path(self, step: int) -> Path:
        """Returns the folder of a step's checkpoint."""
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints that have a `run_state.json`, ascending."""
        return [step for step in self.all_steps() if (self.path(step) / STATE_FILE).is_file()]

    def all_steps(self) -> list[int]:
        """Returns the steps of all checkpoints, also of those that lack files, ascending."""
        if not self.folder.is_dir():
            return []
        folders = [path.name for path in self.folder.iterdir() if path.is_dir()]
        matches = [match for match in map(STEP_FOLDER.fullmatch, folders) if match]
        return sorted(int(match[1]) for match in matches if match[0] == self.path(int(match[1])).name)

    def latest(self) -> Path | None:
        """Returns the folder of the newest checkpoint, or None."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def newest_whole(self) -> tuple[Path | None, list[str]]:
        """Finds the newest checkpoint whose files are all there and as they were saved.

        Returns:
            Its folder, or None if the run has no checkpoint at all; and a sentence for each newer one that is damaged.

        Raises:
            ValueError: if there are checkpoints, and all of them are damaged.
        """
        damaged: list[str] = []
        for step in reversed(self.all_steps()):
            try:
                check_whole(self.path(step))
            except (ValueError, OSError) as error:
                damaged.append(one_line(error))
            else:
                return self.path(step), damaged
        if damaged:
            raise ValueError(
                f"the run has no checkpoint that is whole ({'; '.join(damaged)}): begin a new run with another "
                "--output, or remove the checkpoints to begin this one again"
            )
        return None, []

    def save(
        self,
        step: int,
        write: Callable[[Path], None],
        *,
        is_main: bool = True,
        barrier: Callable[[], None] = lambda: None,
    ) -> Path:
        """Writes a checkpoint into a hidden folder, and then renames the folder.

        If a process cannot write, the hidden folder is removed and the earlier checkpoints stay.

        Args:
            step: Step of the checkpoint. An existing one is replaced, and later ones are removed: a run that went back
                writes them again.
            write: Function that writes this process's files into the folder that it gets.
            is_main: Whether this process creates and renames the folders.
            barrier: Function that waits for all processes.

        Returns:
            The folder of the checkpoint.

        Raises:
            OSError: if the checkpoint cannot be written, for instance because the disk is full.
        """
        final = self.path(step)
        if is_main:
            self.remove_unfinished()
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._disk_errors(step), replaced_folder(final, self._unfinished(step)) as folder:
                barrier()
                write(folder)
                barrier()
                write_digests(folder)
            self._remove_old(step)
        else:
            barrier()
            with self._disk_errors(step):
                write(self._unfinished(step))
            barrier()
        barrier()
        return final

    def remove_unfinished(self) -> None:
        """Removes what a killed run left unfinished, and gives a checkpoint back that it was about to replace."""
        for path in self.folder.glob(".step-*.part") if self.folder.is_dir() else ():
            shutil.rmtree(path)
        for old in self.folder.glob(".step-*.old") if self.folder.is_dir() else ():
            restore(self.folder / old.name.removeprefix(".").removesuffix(".old"), old)

    def _unfinished(self, step: int) -> Path:
        """Returns the folder of a checkpoint that is not whole; every process knows it by the step."""
        return self.folder / f".step-{step:06d}.part"

    @contextmanager
    def _disk_errors(self, step: int) -> Iterator[None]:
        """After an error, removes the unfinished folder; an error of the disk becomes an OSError with the step."""
        try:
            yield
        except BaseException as error:
            shutil.rmtree(self._unfinished(step), ignore_errors=True)
            if isinstance(error, OSError | SafetensorError) or TORCH_SAVE in str(error):
                raise OSError(
                    f"the checkpoint of step {step} could not be written to {self.folder}: {error}"
                ) from error
            raise

    def _remove_old(self, step: int) -> None:
        """Removes the checkpoints that are later than `step`, and of the others all but the newest."""
        earlier = [other for other in self.steps() if other <= step]
        kept = earlier[-self.keep :]
        for other in self.all_steps():
            if other not in kept:
                # Under a hidden name first: half a folder would look like a whole checkpoint.
                os.replace(self.path(other), self._unfinished(other))
                shutil.rmtree(self._unfinished(other))


def check_whole(folder: Path) -> None:
    """Checks that a folder is a checkpoint of a run whose files are all there and as they were saved.

    Raises:
        FileNotFoundError: if it is not a checkpoint, or a file is missing; the message names it.
        ValueError: if a file is damaged; the message names it.
    """
    read_state(folder)
    check_digests(folder, required=(STATE_FILE, WEIGHTS_FILE, OPTIMIZER_FILE, "config.json", random_state_file(0)))


def random_state_file(process_index: int) -> str:
    """Returns the name of the file with the random states of a process."""
    return f"random_state_{process_index}.pt"


def read_state(folder: Path) -> dict[str, Any]:
    """Reads the `run_state.json` of a checkpoint; keys of an earlier release have their new names.

    Raises:
        FileNotFoundError: if the folder is not a checkpoint of a run.
        ValueError: if the file is damaged.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is not a checkpoint of a run, as it has no {STATE_FILE}; "
            "name a folder such as RUN/checkpoints/step-000100"
        )
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {one_line(error)}") from error
    if not isinstance(state, dict) or type(state.get("step")) is not int or state["step"] < 0:
        raise ValueError(f"{path} is damaged: it does not name its step")
    new_names = old_names("run_state")
    return {new_names.get(str(key), str(key)): value for key, value in state.items()}
