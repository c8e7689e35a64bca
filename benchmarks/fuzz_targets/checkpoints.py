"""Mutated checkpoints: safetensors files, pickled files and sharded folders, in our layout and in the original one."""

import io
import json
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from fuzz_targets import SilentDifference, refusal

WIDTH, LAYERS = 32, 2
NAMES = ("\x1b[31mred", "a\nb", "\u202eevil", "", "x" * 300, "encoder.blocks.99999999999.norm1.weight", "../../x")
ORIGINAL_NAMES = (
    "encoder.encoder.layer.99999999999.x",
    "encoder.encoder.layer.1000.x",
    "encoder.encoder.layer.\u00b2.x",
    "decoder.encoder.layer.88888888.x",
    f"encoder.encoder.layer.{'9' * 5000}.x",
    "tokenizer.encoder.down.77777777.block.0.conv1.weight",
    "tokenizer.encoder.down.0.block.66666666.conv1.weight",
)
FORBIDDEN = ("cos\nsystem\n", "cbuiltins\nbytearray\n", "cbuiltins\neval\n", "c__main__\nThing\n", "cos\n\x1b[31m\n")


@cache
def model_files() -> dict[str, bytes]:
    """The files of a tiny model as `save_pretrained` writes them."""
    import tempfile

    import torch

    from stellar_hub import StellarConfig, StellarModel

    torch.manual_seed(0)
    config = StellarConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, image_size=32, patch_size=8,
        num_sparse_tokens=4, decoder_hidden_size=WIDTH, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        reconstruction_head="pixel", use_tokenizer=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        StellarModel(config).save_pretrained(folder)
        return {
            path.name: path.read_bytes() for path in Path(folder).glob("*") if path.suffix in (".json", ".safetensors")
        }


@cache
def original_tensors() -> dict[str, Any]:
    """The tensors of a tiny encoder in the original layout."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "sparse_tokens": (4, WIDTH),
        "encoder.embeddings.cls_token": (1, 1, WIDTH),
        "encoder.embeddings.position_embeddings": (1, 17, WIDTH),
        "encoder.embeddings.patch_embeddings.projection.weight": (WIDTH, 3, 8, 8),
        "encoder.embeddings.patch_embeddings.projection.bias": (WIDTH,),
    }
    linear = {"dense_proj": (WIDTH, WIDTH), "sparse_proj": (WIDTH, WIDTH), "encoder.layernorm": (WIDTH,)}
    for index in range(LAYERS):
        layer = f"encoder.encoder.layer.{index}"
        linear |= {f"{layer}.attention.attention.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        linear |= {f"{layer}.attention.output.dense": (WIDTH, WIDTH), f"{layer}.layernorm_before": (WIDTH,)}
        linear |= {f"{layer}.layernorm_after": (WIDTH,), f"{layer}.intermediate.dense": (4 * WIDTH, WIDTH)}
        linear |= {f"{layer}.output.dense": (WIDTH, 4 * WIDTH)}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def make(rng: random.Random, folder: Path) -> Path:
    """Writes one checkpoint."""
    return rng.choice((make_folder, make_folder, make_original, make_pickled))(rng, folder)


def make_folder(rng: random.Random, folder: Path) -> Path:
    """Writes a folder of `save_pretrained` with mutated weights, or in shards with a mutated index."""
    target = folder / "model"
    target.mkdir()
    for name, data in model_files().items():
        (target / name).write_bytes(data)
    weights = target / "model.safetensors"
    if rng.random() < 0.75:
        weights.write_bytes(mutated_safetensors(rng, weights.read_bytes(), NAMES))
        return target
    shutil.move(weights, target / "model-00001-of-00001.safetensors")
    names = list(parse(model_files()["model.safetensors"])[0])
    weight_map: Any = dict.fromkeys(
        (name for name in names if name != "__metadata__"), "model-00001-of-00001.safetensors"
    )
    index: Any = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    wrong = ["../../../etc/passwd", "../model.safetensors", "/etc/passwd", "a\x1b[0m", 3, None, [], "no.bin", ""]
    for _ in range(rng.randint(1, 3)):
        weight_map[rng.choice([*names, *NAMES])] = rng.choice(wrong)
    if rng.random() < 0.3:
        index[rng.choice(["metadata", "weight_map"])] = rng.choice([None, [], 3, "text", {}])
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return target


def make_original(rng: random.Random, folder: Path) -> Path:
    """Writes an original safetensors file."""
    from safetensors.torch import save

    path = folder / "original.safetensors"
    path.write_bytes(mutated_safetensors(rng, save(changed_tensors(rng)), (*NAMES, *ORIGINAL_NAMES)))
    return path


def make_pickled(rng: random.Random, folder: Path) -> Path:
    """Writes an original file by `torch.save`, then damages it."""
    import torch

    path, buffer = folder / f"original{rng.choice(['.bin', '.pt', '.ckpt'])}", io.BytesIO()
    content: Any = changed_tensors(rng)
    if rng.random() < 0.3:
        content = rng.choice([{"state_dict": content, "epoch": 1}, [content], {"a": {"b": content}}, {(1, 2): content}])
    torch.save(content, buffer, _use_new_zipfile_serialization=rng.random() < 0.8)
    path.write_bytes(rng.choice(PICKLED)(rng, buffer.getvalue()))
    return path


def changed_tensors(rng: random.Random) -> dict[str, Any]:
    """Returns the original tensors, some of which are wrong."""
    import torch

    tensors = dict(original_tensors())
    for _ in range(rng.randint(0, 2)):
        name = rng.choice(sorted(tensors))
        kind = rng.randrange(7)
        if kind == 0:
            tensors[name] = torch.full_like(tensors[name], rng.choice([float("nan"), float("inf")]))
        elif kind == 1:
            tensors[name] = tensors[name].to(rng.choice([torch.int64, torch.bool, torch.uint8, torch.complex64]))
        elif kind == 2:
            tensors[name] = torch.zeros(rng.choice([(0,), (3,), (2, 0, 5), (), (1, 1, 1, 1)]))
        elif kind == 3:
            del tensors[name]
        elif kind == 4:
            tensors[rng.choice((*NAMES, *ORIGINAL_NAMES))] = torch.zeros(1)
        elif kind == 5:
            tensors[f"model.{name}"] = tensors[name].clone()
        else:
            tensors[name] = tensors[name].to(rng.choice([torch.bfloat16, torch.float64]))
    return tensors


def parse(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns header and values of a safetensors file."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def mutated_safetensors(rng: random.Random, data: bytes, names: tuple[str, ...]) -> bytes:
    """Returns a safetensors file with a changed header, changed values, or cut short."""
    kind = rng.randrange(10)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        return struct.pack("<Q", rng.choice([0, 1, 2**31, 2**63, 2**64 - 1, len(data)])) + data[8:]
    header, values = parse(data)
    if kind == 2:
        changed = bytearray(values)
        for _ in range(rng.randint(1, 50)):
            changed[rng.randrange(len(changed) // 4) * 4 + 3] = rng.choice([0x7F, 0xFF])
        values = bytes(changed)
    elif kind == 3:
        return data[:8] + bytes(_flip(rng, data[8:1000])) + data[1000:]
    for _ in range(0 if kind == 2 else rng.randint(1, 2)):
        name = rng.choice([name for name in header if name != "__metadata__"])
        entry = header[name]
        change = rng.randrange(6)
        if change == 0:
            entry["shape"] = rng.choice([[], [0], [2**62, 4], [-1], [1], list(reversed(entry["shape"])), "x", [2**70]])
        elif change == 1:
            entry["dtype"] = rng.choice(["I32", "U32", "BOOL", "F64", "F8_E4M3", "C64", "X", 3, "BF16", "F16"])
        elif change == 2:
            entry["data_offsets"] = rng.choice([[0, 0], [0, 2**63], [-4, 4], [4, 0], entry["data_offsets"][:1], [0, 4]])
        elif change == 3:
            header[rng.choice(names)] = header.pop(name)
        elif change == 4:
            header[rng.choice(names)] = dict(entry)
        else:
            header["__metadata__"] = rng.choice([{"format": "tf"}, {"format": "\x1b"}, {"a": 3}, [], "x", None, {}])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _bomb(rng: random.Random, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(rng.choice([10**6, 10**8])))
        archive.writestr("archive/version", "3")
    return buffer.getvalue()


def _forbidden(rng: random.Random, data: bytes) -> bytes:
    call = f"\x80\x02{rng.choice(FORBIDDEN)}".encode() + b"J\x00\x00\x00\x7f\x85R."
    if rng.random() < 0.3:
        return call
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", call)
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


PICKLED: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    lambda rng, data: data,
    lambda rng, data: data,
    _flip,
    _flip,
    lambda rng, data: data[: rng.randrange(len(data))],
    _bomb,
    _forbidden,
    lambda rng, data: pickle.dumps({"a": [1] * 1000}, protocol=rng.choice([2, 4])),
)


def attempt(path: Path) -> str:
    """Loads the model, encodes an image with it, and compares a whole file with what was written."""
    import torch

    from stellar_hub import StellarModel
    from stellar_hub.conversion import load_original

    try:
        folder = path.is_dir()
        model = StellarModel.from_pretrained(path) if folder else load_original(path, num_attention_heads=2)
    except (ValueError, OSError) as error:
        return refusal(error, path)
    with torch.inference_mode():
        encoding = model.encode(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise SilentDifference("a weight is not finite")
    return "ok" if encoding.semantics.isfinite().all() else "overflows"


def prepare() -> None:
    """Imports what takes seconds, which is no part of a case, and hides the bars of transformers."""
    from transformers.utils import logging

    import stellar_hub.conversion  # noqa: F401
    from stellar_hub import StellarModel

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    StellarModel.from_pretrained("stellar-tiny")
