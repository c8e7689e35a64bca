"""What a checkpoint holds: weights, optimizer, gradient scaler, random states, position in the data."""

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

from stellar_hub.training.checkpoints.checkpoints import STATE_FILE
from stellar_hub.training.model.modeling_pretraining import StellarForPreTraining
from stellar_hub.training.sharding import gather_optimizer, gather_weights, load_optimizer, load_weights
from stellar_hub.version import __version__

WEIGHTS_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.pt"
# What reading a file that was cut short or overwritten, or that has other contents, ends in.
DAMAGED = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError)


def random_state_file(process_index: int) -> str:
    """Name of a process's file of random states."""
    return f"random_state_{process_index}.pt"


def random_state() -> dict[str, Any]:
    """The state of every global source of random numbers of this process."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Undo everything drawn since `random_state`."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])


def write_run(
    folder: Path,
    model: StellarForPreTraining,
    optimizer: Optimizer,
    scaler: Any,
    facts: dict[str, Any],
    is_main: bool = True,
) -> None:
    """Write what all processes share; `facts` are the run's: step, fingerprint of the data, ...

    All processes call it, to gather what is sharded; the main one writes. The folder is one that
    `StellarForPreTraining.from_pretrained` loads, and the same whether the model is sharded or not.
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
    """Write what each process has for itself."""
    torch.save(random_state(), folder / random_state_file(process_index))


def load_run(folder: Path, model: StellarForPreTraining, optimizer: Optimizer, scaler: Any, process_index: int) -> None:
    """Restore everything in place.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or does not fit the model.
    """
    restore(folder / WEIGHTS_FILE, load_file, partial(load_weights, model))

    def restore_optimizer(state: dict[str, Any]) -> None:
        load_optimizer(optimizer, state["optimizer"])
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])

    restore(folder / OPTIMIZER_FILE, load_torch, restore_optimizer)
    own = folder / random_state_file(process_index)
    if own.is_file():  # else the run goes on with more processes; no draw of the objective depends on these
        restore(own, load_torch, restore_random_state)


def restore(file: Path, read: Callable[[Path], Any], take: Callable[[Any], object]) -> None:
    """Hand over what a file holds.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is damaged, or not what is expected.
    """
    try:
        take(read(file))
    except DAMAGED as error:
        raise ValueError(
            f"{file} is damaged, or does not fit the model: {error}; --resume goes on from another checkpoint too"
        ) from error


def load_torch(file: Path) -> Any:
    """What `torch.save` wrote, tensors on the CPU; nothing but data is unpickled.

    Raises:
        ValueError: if it is something else. torch's own advice, to unpickle whatever it is, is kept from the user.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("it holds other things than the tensors and numbers that torch.save wrote") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place beyond the end of a file that was cut short
            raise
        raise ValueError("it was cut short") from error
