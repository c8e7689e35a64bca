"""Mutated configurations: `config.json`, `preprocessor_config.json` and the index of a sharded checkpoint."""

import json
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from fuzz_targets import SilentDifference, refusal

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**20, 2**40, 10**300, 0.0, -0.5, 1e300, float("nan"), float("inf"), "", "wide",
    "../../etc/passwd", "\x1b[31mred", "a\nb", "\u202eevil", [], [1], [1, "a", None], {}, {"a": {"b": [1]}}, ["x"] * 50,
)  # fmt: skip
KEYS = (
    "auto_map", "transformers_weights", "quantization_config", "fusion_config", "kernel_config", "distributed_config",
    "per_layer_config", "adapter_path", "_adapter_model_path", "base_model_name_or_path", "offload_folder", "to_dict",
    "attribute_map", "__class__", "__init__", "dtype", "torch_dtype", "attn_implementation", "_attn_implementation",
    "id2label", "label2id", "num_labels", "problem_type", "sub_configs", "model_type", "architectures", "_name_or_path",
    "name_or_path", "layer_types", "rope_scaling", "rope_theta", "use_return_dict", "validate_encoder",
    "image_processor_type", "processor_class", "feature_extractor_type", "backend", "size", "crop_size", "fit",
    "resample", "image_mean", "image_std", "do_normalize", "output_hidden_states", "return_dict", "surprise\x1b[0m",
)  # fmt: skip


@cache
def sources() -> dict[str, dict[str, Any]]:
    """The files that are mutated, by name."""
    from stellar_hub.registry import EMBEDDED_FOLDER

    folder = EMBEDDED_FOLDER / "stellar-tiny"
    found = {name: json.loads((folder / name).read_text()) for name in ("config.json", "preprocessor_config.json")}
    names = _tensor_names()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {name: shards[index % 2] for index, name in enumerate(names)}
    found["model.safetensors.index.json"] = {"metadata": {"total_size": 8000}, "weight_map": weight_map}
    return found


def _tensor_names() -> list[str]:
    from safetensors import safe_open

    from stellar_hub.registry import EMBEDDED_FOLDER

    with safe_open(EMBEDDED_FOLDER / "stellar-tiny" / "model.safetensors", framework="np") as file:
        return sorted(file.keys())


def make(rng: random.Random, folder: Path) -> Path:
    """Writes a model's folder with one mutated file."""
    from stellar_hub.registry import EMBEDDED_FOLDER

    target = folder / "model"
    target.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(EMBEDDED_FOLDER / "stellar-tiny" / name, target)
    (target / "model.safetensors").symlink_to(EMBEDDED_FOLDER / "stellar-tiny" / "model.safetensors")
    name = rng.choice(["config.json"] * 3 + ["preprocessor_config.json"] * 2 + ["model.safetensors.index.json"])
    if name.startswith("model."):
        (target / "model.safetensors").unlink()
    content = json.loads(json.dumps(sources()[name]))
    if rng.random() < 0.7:
        for _ in range(rng.randint(1, 3)):
            rng.choice((set_value, set_value, scale_value, add_key, drop_key))(rng, content)
        text = json.dumps(content).encode()
    else:
        text = rng.choice(TEXTS)(rng, json.dumps(content).encode())
    (target / name).write_bytes(text)
    return target


def set_value(rng: random.Random, content: dict[str, Any]) -> None:
    """Replaces one value, also deep in the file."""
    place = content
    while True:
        key = rng.choice(list(place)) if place else "empty"
        if isinstance(place.get(key), dict) and place[key] and rng.random() < 0.8:
            place = place[key]
            continue
        place[key] = rng.choice(VALUES)
        return


def scale_value(rng: random.Random, content: dict[str, Any]) -> None:
    """Multiplies a number."""
    numbers = [key for key, value in content.items() if isinstance(value, int) and not isinstance(value, bool)]
    if numbers:
        content[rng.choice(numbers)] *= rng.choice([-1, 2, 7, 64, 1024, 10**6, 10**12, 10**40])


def add_key(rng: random.Random, content: dict[str, Any]) -> None:
    """Adds a key that means something to transformers, or nothing."""
    content[rng.choice(KEYS)] = rng.choice([*VALUES, "user/repo", "/etc/passwd", "user/repo--modeling.Evil"])


def drop_key(rng: random.Random, content: dict[str, Any]) -> None:
    """Removes a key."""
    if content:
        del content[rng.choice(list(content))]


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _deep(rng: random.Random, data: bytes) -> bytes:
    depth = rng.choice([40, 400, 3000, 200_000])
    kind = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return data[:-1] + b', "deep": ' + kind[0] * depth + b"1" + kind[1] * depth + b"}"


TEXTS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip,
    _flip,
    _deep,
    lambda rng, data: data[: rng.randrange(len(data))],
    lambda rng, data: data[:-1] + b', "hidden_size": ' + b"9" * rng.choice([30, 4000, 5000, 10**6]) + b"}",
    lambda rng, data: data[:-1] + b', "hidden_size": 192, "hidden_size": "twice"}',
    lambda rng, data: rng.choice([b"[]", b"3", b'"text"', b"null", b"", b"\xff\xfe{}", b"\xef\xbb\xbf" + data]),
    lambda rng, data: data[:-1] + b', "pad": "' + b"x" * rng.choice([10**6, 20 * 10**6]) + b'"}',
    lambda rng, data: data.replace(b"{", b'{"\x1b[2J": 1, ', 1),
)


def attempt(path: Path) -> str:
    """Loads the model and the processor of the folder."""
    import torch

    from stellar_hub import StellarImageProcessor, StellarModel

    try:
        model = StellarModel.from_pretrained(path)
        processor = StellarImageProcessor.from_pretrained(path)
    except (ValueError, OSError) as error:
        return refusal(error)
    if not isinstance(processor, StellarImageProcessor) or model.config.hidden_size != model.encoder.embed_dim:
        raise SilentDifference("the model or the processor is not what the configuration says")
    with torch.inference_mode():
        side = model.config.image_size
        if side <= 256 and not torch.isfinite(model.encode(torch.rand(1, 3, side, side)).semantics).all():
            raise SilentDifference("the model gives NaN")
    return "ok"


def prepare() -> None:
    """Imports what takes seconds, which is no part of a case, and hides the bars of transformers."""
    from transformers.utils import logging

    import stellar_hub.conversion  # noqa: F401
    from stellar_hub import StellarModel

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    StellarModel.from_pretrained("stellar-tiny")
