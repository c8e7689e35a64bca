"""Differences between the recipe of a run and the recipe that resumes it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from stellar_hub.modeling.safe_text import escape_control, mask_secrets
from stellar_hub.training.recipes.files import to_dict
from stellar_hub.training.recipes.sections import Recipe

# These change what a run writes or how fast it goes, but not its result, up to rounding. Folders may move: fingerprints
# of the data show whether they hold the same images.
MAY_CHANGE = frozenset(
    {
        "run.log_every",
        "run.save_every",
        "run.keep_checkpoints",
        "run.preview_every",
        "run.probe_every",
        "run.export_every",
        "run.trackers",
        "run.push_to_hub",
        "run.license",
        "run.compile",
        "run.cuda_graphs",
        "data.num_workers",
        "data.sources",
        "data.root",
        "data.probe",
    }
)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns one line for each value that differs between two nested mappings.

    A line reads "optimization.learning_rate: 0.001 in the run, 0.002 now". Lines have the order of `old`, then of
    `new`. A list and a tuple of the same values do not differ.
    """
    return [line for _, line in _differing(old, new, "")]


def refuse_other_recipe(old: Recipe, new: Recipe) -> None:
    """Refuses to resume a run with a recipe that would change its result.

    Args:
        old: Recipe that the run started with.
        new: Recipe that resumes it.

    Raises:
        ValueError: if values differ other than those in `MAY_CHANGE`; the message names each of them.
    """
    lines = [line for key, line in _differing(to_dict(old), to_dict(new), "") if key not in MAY_CHANGE]
    if lines:
        listed = "\n".join(f"  {line}" for line in lines)
        raise ValueError(
            f"this run started with another recipe:\n{listed}\n"
            "Resume with the values of the run, or start a new run with another --output; --init "
            "RUN/checkpoints/step-N starts it from the weights of this one"
        )


def _differing(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name in [*old, *(name for name in new if name not in old)]:
        key = f"{prefix}{name}"
        if name in old and name in new and isinstance(old[name], Mapping) and isinstance(new[name], Mapping):
            yield from _differing(old[name], new[name], f"{key}.")
        elif name not in old:
            yield key, f"{key}: not set in the run, {_shown(new[name])} now"
        elif name not in new:
            yield key, f"{key}: {_shown(old[name])} in the run, not set now"
        elif not _same(old[name], new[name]):
            yield key, f"{key}: {_shown(old[name])} in the run, {_shown(new[name])} now"


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return len(old) == len(new) and all(map(_same, old, new))
    return (old == new and isinstance(old, bool) == isinstance(new, bool)) or _spelled(old) == _spelled(new)


def _shown(value: Any) -> str:
    """Returns a value as errors show it: on one line, and without passwords."""
    return escape_control(mask_secrets(_spelled(value)))


def _spelled(value: Any) -> str:
    """Returns a value as it stands in a recipe; JSON is YAML too."""
    return json.dumps(value, ensure_ascii=False, default=str)
