"""The files of a checkpoint: weights, optimizer, gradient scaler, random states, position in the data."""

import errno
import json
import pickle
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim import Optimizer

from stellar_hub.modeling import StellarPreTrainedModel
from stellar_hub.modeling.safe_paths import utf8_name
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.training.checkpoints.checkpoints import (
    OPTIMIZER_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    random_state_file,
)
from stellar_hub.training.sharding import gather_optimizer, gather_weights, load_optimizer, load_weights
from stellar_hub.version import __version__

# Errors of reading a file that was cut short or overwritten, or that has other contents.
DAMAGED = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError)


def random_state() -> dict[str, Any]:
    """Returns the state of every global random number generator of this process."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Sets every global random number generator back to a state from `random_state`."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])


def write_run(
    folder: Path,
    model: StellarPreTrainedModel,
    optimizer: Optimizer,
    scaler: Any,
    facts: dict[str, Any],
    is_main: bool = True,
) -> None:
    """Writes the files that all processes share.

    All processes call it, as sharded tensors are gathered; the main one writes. `from_pretrained` of the model's class
    loads the folder. A sharded model gives the same files as one that is not.

    Args:
        folder: Folder of the checkpoint.
        model: Model, unwrapped.
        optimizer: Optimizer of its parameters.
        scaler: Gradient scaler of fp16, or None.
        facts: Values for `run_state.json`: "step", "fingerprint" of the data, ...
        is_main: Whether this process writes.
    """
    weights, optimizer_state = gather_weights(model, is_main), gather_optimizer(optimizer, is_main)
    if not is_main:
        return
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    state = {"optimizer": optimizer_state, "scaler": None if scaler is None else scaler.state_dict()}
    torch.save(state, folder / OPTIMIZER_FILE)
    text = json.dumps({"library_version": __version__, "torch_version": torch.__version__, **facts}, indent=2)
    (folder / STATE_FILE).write_text(text + "\n")


def write_random_state(folder: Path, process_index: int) -> None:
    """Writes the random states of this process."""
    torch.save(random_state(), folder / random_state_file(process_index))


def load_run(
    folder: Path, model: StellarPreTrainedModel, optimizer: Optimizer, scaler: Any, process_index: int
) -> None:
    """Loads a checkpoint into a model, its optimizer, the scaler and the random number generators.

    Args:
        folder: Folder of the checkpoint.
        model: Model, unwrapped.
        optimizer: Optimizer of its parameters.
        scaler: Gradient scaler of fp16, or None.
        process_index: Index of this process.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or does not fit the model.
    """
    _load_file(folder / WEIGHTS_FILE, load_file, partial(load_weights, model))

    def restore_optimizer(state: dict[str, Any]) -> None:
        load_optimizer(optimizer, state["optimizer"])
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])

    _load_file(folder / OPTIMIZER_FILE, _load_torch, restore_optimizer)
    own = folder / random_state_file(process_index)
    if own.is_file():  # else the run resumes with more processes; the objective draws nothing from these states
        _load_file(own, _load_torch, restore_random_state)


def _load_file(file: Path, read: Callable[[Path], Any], take: Callable[[Any], object]) -> None:
    """Reads a file and hands its contents to `take`; raises ValueError if it is damaged or does not fit."""
    try:
        with utf8_name(file) as name:
            take(read(Path(name)))
    except DAMAGED as error:
        raise ValueError(
            f"{file} is damaged or does not fit the model: {one_line(error)}; --resume takes the path of another "
            "checkpoint, too"
        ) from error


def _load_torch(file: Path) -> Any:
    """Reads what `torch.save` wrote, with tensors on the CPU; it unpickles tensors and plain data only.

    Raises:
        ValueError: if the file holds something else. torch's own message, which advises to unpickle anything, is not
            shown.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("it holds other things than tensors and numbers") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # torch reads beyond the end of a file that was cut short
            raise
        raise ValueError("it was cut short") from error
