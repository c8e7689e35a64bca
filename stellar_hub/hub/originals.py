"""Original checkpoints in `from_pretrained`: published ones are downloaded, files are read, and both are converted."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from stellar_hub.conversion.load import convert_checkpoint
from stellar_hub.hub.download import OPTIONS, fetch
from stellar_hub.registry import TOKENIZER, PretrainedModel, published

ORIGINAL_SUFFIXES = {".safetensors", ".ckpt", ".bin", ".pt", ".pth"}
CONVERSION_OPTIONS = ("vqgan", "num_attention_heads", "decoder_num_attention_heads")


class Converted(NamedTuple):
    """An original checkpoint in this library's layout.

    Attributes:
        config: The model's configuration.
        state_dict: The model's tensors.
        options: Keywords of `from_pretrained` that are left for transformers.
    """

    config: Any
    state_dict: dict[str, Any]
    options: dict[str, Any]


def convert_if_original(name: str, decoder: bool | None, base_only: bool, options: dict[str, Any]) -> Converted | None:
    """Downloads and converts a published model, or converts one original file.

    Args:
        name: Name or path that the user gave to `from_pretrained`.
        decoder: Whether to load decoder and tokenizer; False neither downloads nor reads them.
        base_only: Whether to leave out clustering heads, teacher and the tokenizer's encoder.
        options: Keywords of `from_pretrained`.

    Returns:
        The converted checkpoint, or None if the name is neither a published model nor an original file.

    Raises:
        OSError: if a file cannot be downloaded or read.
        ValueError: if a file is damaged or does not convert.
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
    """Returns the paths of a published file and of its tokenizer.

    The tokenizer is `vqgan` if the options have it, and None if the decoder is not loaded.
    """
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
    """Converts files in memory, and removes the keywords that are about downloading and converting."""
    config, state_dict = convert_checkpoint(
        checkpoint,
        vqgan=tokenizer,
        decoder=decoder is not False,
        base_only=base_only,
        num_attention_heads=options.get("num_attention_heads"),
        decoder_num_attention_heads=options.get("decoder_num_attention_heads"),
    )
    if decoder and not config.use_decoder:
        raise ValueError(f"{checkpoint} does not have a decoder: load it with decoder=False")
    left = {key: value for key, value in options.items() if key not in (*OPTIONS, *CONVERSION_OPTIONS)}
    return Converted(config, state_dict, left)
