"""Loading the model and its processor for a command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stellar_hub.modeling import StellarImageProcessor, StellarModel


def choose_device(device: str) -> str:
    """The device named, or for "auto" a GPU if there is one.

    Raises:
        ValueError: if it is not available.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f'the device {device!r} is not available ({reason}); use --device cpu, or "auto"') from error
    return device


def load_model(
    name: str, device: str, fit: str = "crop", decoder: bool | None = None
) -> tuple[StellarModel, StellarImageProcessor]:
    """The model on its device, in evaluation mode, and the processor that belongs to it.

    Raises:
        OSError: if there is no such model.
        ValueError: if the device is not available or the weights do not fit.
    """
    from transformers.utils import logging

    from stellar_hub.modeling import StellarImageProcessor, StellarModel

    logging.disable_progress_bar()
    target = choose_device(device)
    model = StellarModel.from_pretrained(name, decoder=decoder).to(target)
    if Path(name).is_file():  # an original checkpoint brings no processor
        return model, StellarImageProcessor.from_config(model.config, fit=fit)
    return model, StellarImageProcessor.from_pretrained(name, fit=fit)
