"""What a checkpoint holds: weights, optimizer, gradient scaler, random states, position in the data."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim import Optimizer

from stellar_hub.training.checkpoints import STATE_FILE
from stellar_hub.training.modeling_pretraining import StellarForPreTraining
from stellar_hub.version import __version__

WEIGHTS_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.pt"


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
    folder: Path, model: StellarForPreTraining, optimizer: Optimizer, scaler: Any, facts: dict[str, Any]
) -> None:
    """Write what all processes share; `facts` are the run's: step, fingerprint of the data, ...

    The folder is one that `StellarForPreTraining.from_pretrained` loads.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    state = {"optimizer": optimizer.state_dict(), "scaler": None if scaler is None else scaler.state_dict()}
    torch.save(state, folder / OPTIMIZER_FILE)
    text = json.dumps({"library_version": __version__, "torch_version": torch.__version__, **facts}, indent=2)
    (folder / STATE_FILE).write_text(text + "\n")


def write_random_state(folder: Path, process_index: int) -> None:
    """Write what each process has for itself."""
    torch.save(random_state(), folder / random_state_file(process_index))


def load_run(
    folder: Path, model: StellarForPreTraining, optimizer: Optimizer, scaler: Any, process_index: int
) -> None:
    """Restore everything in place.

    Raises:
        ValueError: if a file is damaged, or the weights do not fit.
    """
    try:
        incompatible = model.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=False)
        state = torch.load(folder / OPTIMIZER_FILE, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"the checkpoint {folder} is damaged or does not fit the model: {error}") from error
    wrong = [*incompatible.missing_keys, *incompatible.unexpected_keys]
    if wrong:
        raise ValueError(f"the checkpoint {folder} does not fit the model: {', '.join(wrong[:5])}")
    optimizer.load_state_dict(state["optimizer"])
    if scaler is not None and state["scaler"] is not None:
        scaler.load_state_dict(state["scaler"])
    own = folder / random_state_file(process_index)
    if own.is_file():  # else the run goes on with more processes; no draw of the objective depends on these
        restore_random_state(torch.load(own, map_location="cpu", weights_only=True))
