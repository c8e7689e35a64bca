"""The demo page as a Hugging Face Space. On your own machine, `stellar-hub app` opens the same page.

Copy this folder into a Space. `STELLAR_MODELS` in the Space's variables names other models, separated by commas; the
first one is opened. On ZeroGPU hardware the model runs in functions that borrow a GPU for each call.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

try:
    import spaces  # on ZeroGPU: before torch, which it changes
except ImportError:
    spaces = None

from stellar_hub.app import Desk, Models, Page, launch_options

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
SECONDS = 30  # of a GPU, for one image


def on_gpu(function: FunctionT) -> FunctionT:
    """Returns a function that borrows a GPU for each call on ZeroGPU, and otherwise the function itself."""
    return function if spaces is None else spaces.GPU(duration=SECONDS)(function)


names = os.environ.get("STELLAR_MODELS", "stellar-tiny").split(",")
models = Models([name.strip() for name in names], "auto" if spaces is None else "cuda", on_gpu)
models.load(models.names[0])
page = Page(Desk(models)).blocks

if __name__ == "__main__":
    page.launch(**launch_options())
