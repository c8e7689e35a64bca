"""Going on where an earlier run of a command ended: each output records how it was made, and is made once."""

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stellar_hub.cli.messages import warn
from stellar_hub.cli.targets import Job

if TYPE_CHECKING:
    from PIL.Image import Image

    from stellar_hub.modeling import StellarImageProcessor, StellarModel

# What decides an output, as the keys of its record, and what to say about an output for which it differs.
DECIDING = {
    "command": "another command wrote it",
    "weights_sha256": "another model made it",
    "preprocessing": "it was made with another --fit, --image-size, --num-tokens or image processor",
    "image": "it was made from another image, or the image has changed since",
}
# What a record has beside these, to say what differs.
TOLD = ("model", "settings")
PNG_KEY = "stellar_hub"
MAX_RECORD = 100_000  # characters
VERBS = {
    "encode": ("encoded", "encodes"),
    "reconstruct": ("reconstructed", "reconstructs"),
    "visualize": ("drawn", "draws"),
}


def record_of(
    command: str,
    name: str,
    model: "StellarModel",
    processor: "StellarImageProcessor",
    decoder: bool,
    num_tokens: int | None = None,
) -> dict[str, str]:
    """Returns how a command makes its outputs, which each of them records.

    Args:
        command: Name of the command.
        name: Name of the model, as the user wrote it.
        model: The model.
        processor: Its image processor.
        decoder: Whether the outputs depend on the decoder.
        num_tokens: Number of first tokens that the outputs depend on; None means all.
    """
    from stellar_hub.features.identity import weights_hash, weights_sha256
    from stellar_hub.features.rows import printable

    return {
        "command": command,
        "model": printable(name),
        "weights_sha256": weights_hash(model) if decoder else weights_sha256(model),
        **record_of_processor(processor, num_tokens),
    }


def record_of_processor(processor: "StellarImageProcessor", num_tokens: int | None = None) -> dict[str, str]:
    """Returns the part of a record that an image processor and the number of first tokens decide."""
    from stellar_hub.features.identity import describe_preprocessing

    preprocessing = describe_preprocessing(processor)
    return {
        "preprocessing": f"{preprocessing['id']}{'' if num_tokens is None else f', first {num_tokens} tokens'}",
        "settings": json.dumps(preprocessing["settings"] | {"num_tokens": num_tokens}),
    }


def with_image(record: Mapping[str, str], source: Path) -> dict[str, str]:
    """Returns the record of one output: size and date of the file that is read tell it from others."""
    from stellar_hub.data.sources.image_source import file_stamp

    return {**record, "image": file_stamp(source)}


def png_with_record(image: "Image", record: Mapping[str, str]) -> bytes:
    """Returns an image as a PNG file that holds the record of how it was made."""
    from PIL.PngImagePlugin import PngInfo

    info, buffer = PngInfo(), io.BytesIO()
    info.add_text(PNG_KEY, json.dumps(dict(record)))
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def read_record(path: Path) -> dict[str, str]:
    """Returns the record in an output, and nothing for a file that holds none."""
    try:
        found = _read_png(path) if path.suffix.lower() == ".png" else _read_safetensors(path)
    except Exception:  # not a file of ours: readers of foreign files raise many kinds
        return {}
    return {key: str(found[key]) for key in (*DECIDING, *TOLD) if key in found} if isinstance(found, dict) else {}


def _read_png(path: Path) -> object:
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as image:
        text = str(image.info.get(PNG_KEY, ""))
    return json.loads(text) if len(text) <= MAX_RECORD else None


def _read_safetensors(path: Path) -> object:
    from stellar_hub.modeling.outputs import open_safetensors

    with open_safetensors(path) as file:
        return file.metadata()


def is_recorded(path: Path) -> bool:
    """Whether a file says how it was made, so that a second run can tell whether it would be the same."""
    return path.is_file() and read_record(path).keys() >= DECIDING.keys()


def _details(key: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Returns what exactly differs, in brackets on one line, as far as the record in an output says it."""
    from stellar_hub.modeling.safe_text import one_line

    if key == "weights_sha256" and found.get("model", wanted["model"]) != wanted["model"]:
        return f" ({one_line(found['model'], 100)})"
    if key != "preprocessing":
        return ""
    try:
        before, now = dict(json.loads(found["settings"])), json.loads(wanted["settings"])
    except (KeyError, RecursionError, TypeError, ValueError):  # files of earlier releases, or changed ones
        return ""
    others = ", ".join(f"{name} {before.get(name)}, now {now[name]}" for name in now if before.get(name) != now[name])
    return f" ({one_line(others, 200)})" if others else ""


def left_to_do(jobs: Sequence[Job], record: Callable[[Path], Mapping[str, str]], overwrite: bool) -> list[Job]:
    """Returns the jobs whose outputs do not exist yet, and says how many do.

    Args:
        jobs: Jobs whose existing outputs are recorded.
        record: Function that returns how this run makes the output of a file, as `with_image` gives it.
        overwrite: Whether existing outputs are made again.

    Raises:
        FileExistsError: if an output exists that was made in another way, or from another image.
    """
    if overwrite:
        return list(jobs)
    there = [job for job in jobs if os.path.lexists(job.target)]
    for job in there:
        found, wanted = read_record(job.target), record(job.source)
        key = next((key for key in DECIDING if found.get(key) != wanted[key]), None)
        if key is not None:
            difference = DECIDING[key] + _details(key, found, wanted)
            raise FileExistsError(
                f"{job.target} exists already, but {difference}: pass --overwrite to replace such files, or another "
                "--output"
            )
    if there:
        done, does = VERBS[record(there[0].source)["command"]]
        which, them = ("the image", "it") if len(jobs) == 1 else (f"{len(there)} of {len(jobs)} images", "them")
        warn(f"{which} had been {done} before; --overwrite {does} {them} again")
    made = {job.target for job in there}
    return [job for job in jobs if job.target not in made]
