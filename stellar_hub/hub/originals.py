"""Original checkpoints behind `from_pretrained`: published ones are fetched, files are read, both are converted."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from stellar_hub.conversion.load import convert_checkpoint
from stellar_hub.hub.download import OPTIONS, fetch
from stellar_hub.registry import TOKENIZER, PretrainedModel, published

ORIGINAL_SUFFIXES = {".safetensors", ".ckpt", ".bin", ".pt", ".pth"}
CONVERSION_OPTIONS = ("vqgan", "num_attention_heads", "decoder_num_attention_heads")


class Converted(NamedTuple):
    """An original checkpoint in this library's layout, and the keywords that are left for transformers."""

    config: Any
    state_dict: dict[str, Any]
    options: dict[str, Any]


def convert_if_original(name: str, decoder: bool | None, base_only: bool, options: dict[str, Any]) -> Converted | None:
    """Fetch and convert a published model, or convert one original file; None for everything else.

    Args:
        name: What the user gave.
        decoder: False leaves out decoder and tokenizer, which then are neither fetched nor read.
        base_only: Whether clustering heads, teacher and the tokenizer's encoder are left out.
        options: Keywords of `from_pretrained`.

    Raises:
        OSError: if a file cannot be had.
        ValueError: if it is damaged or does not convert.
    """
    path = Path(name)
    if path.is_file() and path.suffix in ORIGINAL_SUFFIXES:
        checkpoint, tokenizer = path, options.get("vqgan")
    elif not path.exists() and (model := published(name)) is not None:
        checkpoint, tokenizer = fetch_model(model, decoder, options)
    else:
        return None
    return convert_files(checkpoint, tokenizer, decoder, base_only, options)


def fetch_model(model: PretrainedModel, decoder: bool | None, options: dict[str, Any]) -> tuple[Path, Any]:
    """The published file and, if the decoder is wanted, the tokenizer's: a given `vqgan`, else fetched."""
    assert model.file is not None
    download = {name: options.get(name) for name in OPTIONS}
    checkpoint = fetch(model.file, **download)
    tokenizer = options.get("vqgan")
    if tokenizer is None and decoder is not False:
        tokenizer = fetch(TOKENIZER, **(download | {"revision": None}))
    return checkpoint, tokenizer


def convert_files(
    checkpoint: Path,
    tokenizer: str | os.PathLike | None,
    decoder: bool | None,
    base_only: bool,
    options: dict[str, Any],
) -> Converted:
    """Convert in memory, and drop the keywords that only concern fetching and converting."""
    config, state_dict = convert_checkpoint(
        checkpoint,
        vqgan=tokenizer,
        decoder=decoder is not False,
        base_only=base_only,
        num_attention_heads=options.get("num_attention_heads"),
        decoder_num_attention_heads=options.get("decoder_num_attention_heads"),
    )
    if decoder and not config.use_decoder:
        raise ValueError(f"{checkpoint} holds no decoder: load it with decoder=False")
    left = {key: value for key, value in options.items() if key not in (*OPTIONS, *CONVERSION_OPTIONS)}
    return Converted(config, state_dict, left)
