"""Saving a model into a folder: whole files or none, and nothing left of an earlier model that would be loaded."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .atomic_write import clear_leftovers, errors_name, sync, unfinished_path
from .config_checks import OPTIONS_OF_SAVING, read_json_object
from .safe_paths import refuse_file
from .safe_text import one_line, refuse_keywords

# Weights in the forms that transformers looks for. `{variant}` is "" or ".fp16" and the like.
_WEIGHTS = (
    r"model{variant}(-\d{{5}}-of-\d{{5}})?\.safetensors",
    r"model\.safetensors\.index{variant}\.json",
    r"pytorch_model{variant}(-\d{{5}}-of-\d{{5}})?\.bin",
    r"pytorch_model\.bin\.index{variant}\.json",
    r"shard-\d{{5}}-model{variant}-\d{{5}}-of-\d{{5}}\.safetensors",
)
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
SAVE_OPTIONS = ("license", "name", "base_model", "metrics")
# Keywords of transformers. Code for earlier releases passes those of the second line, which have no effect now.
SAVE_OPTIONS_OF_TRANSFORMERS = (
    *("is_main_process", "state_dict", "max_shard_size", "variant", "token", "save_peft_format"),
    *("save_function", "safe_serialization", "use_auth_token"),
    *("save_original_format", "distributed_checkpoint", "push_to_hub", "repo_id", "commit_message", "create_pr"),
)
# A pipeline passes the same keywords to its model and to its processor.
SAVE_OPTIONS_OF_PROCESSORS = (*OPTIONS_OF_SAVING, *SAVE_OPTIONS, *SAVE_OPTIONS_OF_TRANSFORMERS)


def check_saving(options: dict[str, Any], metrics: Any) -> None:
    """Checks what was passed to `save_pretrained`, before anything is written.

    Args:
        options: Keywords for transformers; `push_to_hub=False` is removed.
        metrics: Numbers for the card, or None.

    Raises:
        TypeError: if a keyword does not exist, or `metrics` is not a dictionary of numbers.
        ValueError: if `push_to_hub=True` is passed.
    """
    known = (*SAVE_OPTIONS, *SAVE_OPTIONS_OF_TRANSFORMERS)
    note = f"; it takes {', '.join(SAVE_OPTIONS)} and options of transformers"
    refuse_keywords("save_pretrained", options, known, note)
    if options.pop("push_to_hub", False):
        raise ValueError("save_pretrained does not take push_to_hub=True: call push_to_hub(repo_id, license=...)")
    try:
        for name, value in ({} if metrics is None else metrics).items():
            _ = f"{name:s}{value:.4g}"  # as the card shows them
    except (AttributeError, TypeError, ValueError) as error:
        shown = one_line(repr(metrics), 100)
        raise TypeError(
            f"metrics must be a dictionary of numbers by name, such as {{'psnr': 21.4}}, got {shown}"
        ) from error


@contextlib.contextmanager
def filled_folder(folder: Path, variant: str | None = None) -> Iterator[Path]:
    """Gives an empty folder to save a model into; its files then replace those of `folder`.

    If saving fails, for instance because the disk is full, `folder` stays as it was. Weights of an earlier model, which
    would be loaded instead of or beside the new ones, are removed. Other files stay.

    Args:
        folder: Folder of the model; it is created if it does not exist.
        variant: Variant of the weights, as in `save_pretrained`.

    Yields:
        The folder to fill.

    Raises:
        NotADirectoryError: if `folder` is a file.
        OSError: if a file cannot be written; the message names the folder.
        ValueError: if `folder` holds an adapter, which would be loaded on top of the weights.
    """
    refuse_file(folder)
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{one_line(folder)} holds an adapter, which would be loaded on top of these weights: save to another "
            "folder"
        )
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    partial = unfinished_path(folder / "model")
    try:
        with errors_name(folder, partial):
            partial.mkdir()
            yield partial
            _move_in(partial, folder, variant)
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move_in(partial: Path, folder: Path, variant: str | None) -> None:
    """Moves the files that were saved into their folder: first the weights, and the configuration last."""
    written = sorted(path for path in partial.rglob("*") if path.is_file())
    names = [path.relative_to(partial) for path in written]
    is_weights = re.compile("|".join(_WEIGHTS).format(variant=re.escape(f".{variant}" if variant else "")))
    new_weights = {str(name) for name in names if is_weights.fullmatch(str(name))}
    for path in written:
        sync(path)
    for name in sorted(names, key=lambda name: (str(name) == CONFIG, str(name) not in new_weights, str(name))):
        if str(name) == CONFIG and new_weights:
            for old in folder.iterdir():
                if is_weights.fullmatch(old.name) and old.name not in new_weights:
                    old.unlink()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial / name, folder / name)
    sync(folder)


def drop_heads(config: Any) -> None:
    """Takes models for one use, such as a classifier, out of a configuration's list of code.

    A saved folder has the code of the model that was saved, which adds itself to the list, and of those that it needs.
    """
    code_map = getattr(config, "auto_map", None)
    if isinstance(code_map, dict):
        config.auto_map = {name: place for name, place in code_map.items() if not name.startswith("AutoModelFor")}


def sizes_in(folder: Path) -> dict[str, Any] | None:
    """Returns what decides whether a processor fits: the type and the sizes in a folder's configuration.

    None means that the folder has no configuration.
    """
    try:
        content = read_json_object(folder / CONFIG)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return {name: content.get(name) for name in ("model_type", "image_size", "patch_size")}


def keeps_processor(folder: Path, before: dict[str, Any] | None, after: dict[str, Any] | None) -> bool:
    """Returns whether the processor in a folder belongs to the model that was saved there.

    Args:
        folder: Folder of the model.
        before: Sizes of the model that was there before, as `sizes_in` returns them.
        after: Sizes of the model that is there now.
    """
    try:
        processor = read_json_object(folder / PROCESSOR)
    except (OSError, ValueError):
        return False
    if before is not None:
        return before == after
    # Saved before the model was: a user's own settings.
    ours = str(processor.get("image_processor_type", "")).startswith("StellarImageProcessor")
    return ours and after is not None and processor.get("patch_size") == after["patch_size"]
