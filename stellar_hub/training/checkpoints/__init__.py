"""Checkpoints of training runs: writing and loading them, and whether a run may begin or resume in a folder.

Code belongs here if it decides what a run finds again after it was stopped or killed.
"""

from stellar_hub.training.checkpoints.checkpoints import Checkpoints, read_state
from stellar_hub.training.checkpoints.run_folder import (
    CHECKPOINTS_FOLDER,
    PREVIEWS_FOLDER,
    RECIPE_FILE,
    check_same_run,
    check_space,
    find_start,
    recipe_of_run,
)
from stellar_hub.training.checkpoints.run_state import load_run, write_random_state, write_run

__all__ = [
    "CHECKPOINTS_FOLDER",
    "PREVIEWS_FOLDER",
    "RECIPE_FILE",
    "Checkpoints",
    "check_same_run",
    "check_space",
    "find_start",
    "load_run",
    "read_state",
    "recipe_of_run",
    "write_random_state",
    "write_run",
]
