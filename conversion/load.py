"""From original checkpoint files to a model."""

import os
from typing import TypeVar, overload

from torch import Tensor

from stellar_hub.conversion.convert import convert_original
from stellar_hub.conversion.layout import DECODER_PARTS, TOKENIZER_PREFIX, published_name
from stellar_hub.conversion.read_checkpoint import read_checkpoint
from stellar_hub.modeling import StellarConfig, StellarModel, StellarPreTrainedModel

ModelT = TypeVar("ModelT", bound=StellarPreTrainedModel)

DECODING_PREFIXES = ("decoder.", *DECODER_PARTS, TOKENIZER_PREFIX)
BASE_PREFIX = "stellar."


@overload
def load_original(
    path: str | os.PathLike[str],
    *,
    vqgan: str | os.PathLike[str] | None = None,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
    decoder: bool = True,
) -> StellarModel: ...


@overload
def load_original(
    path: str | os.PathLike[str],
    *,
    vqgan: str | os.PathLike[str] | None = None,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
    decoder: bool = True,
    cls: type[ModelT],
) -> ModelT: ...


def load_original(
    path: str | os.PathLike[str],
    *,
    vqgan: str | os.PathLike[str] | None = None,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
    decoder: bool = True,
    cls: type[StellarPreTrainedModel] = StellarModel,
) -> StellarPreTrainedModel:
    """Loads an original STELLAR checkpoint.

    Args:
        path: Checkpoint file: `.safetensors`, or pickled (`.ckpt`, `.bin`, `.pt`).
        vqgan: File with the tokenizer's weights, `maskgit-vqgan-imagenet-f16-256.bin`. Without it a "vq" model loads,
            but its `decode` raises an error.
        num_attention_heads: Number of attention heads of the encoder; needed if its width is not a published one.
        decoder_num_attention_heads: Number of attention heads of the decoder; needed if its width is not 512.
        decoder: Whether to load decoder and tokenizer; False does not read them.
        cls: Class of the model. Tensors that it does not use, such as clustering heads, are left out.

    Returns:
        The model in evaluation mode, in the checkpoint's dtype.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a file is damaged or of another kind, or tensors are missing, unexpected or have the wrong shape.
    """
    config, state_dict = convert_checkpoint(
        path,
        vqgan=vqgan,
        num_attention_heads=num_attention_heads,
        decoder_num_attention_heads=decoder_num_attention_heads,
        decoder=decoder,
        base_only=issubclass(cls, StellarModel),
    )
    try:
        return cls.from_pretrained(None, config=config, state_dict=state_dict)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def convert_checkpoint(
    path: str | os.PathLike[str],
    *,
    vqgan: str | os.PathLike[str] | None,
    num_attention_heads: int | None,
    decoder_num_attention_heads: int | None,
    decoder: bool,
    base_only: bool,
) -> tuple[StellarConfig, dict[str, Tensor]]:
    """Reads and converts checkpoint files; `load_original` describes the other arguments.

    Args:
        path: Checkpoint file.
        vqgan: File with the tokenizer's weights.
        num_attention_heads: Number of attention heads of the encoder.
        decoder_num_attention_heads: Number of attention heads of the decoder.
        decoder: Whether to load decoder and tokenizer.
        base_only: Whether to keep the tensors of `StellarModel` alone, under its own names.

    Returns:
        The configuration and the tensors.
    """
    tensors = read_checkpoint(path)
    if not decoder:
        tensors = {
            name: tensor for name, tensor in tensors.items() if not published_name(name).startswith(DECODING_PREFIXES)
        }
    tokenizer = read_checkpoint(vqgan) if vqgan is not None and decoder else None
    try:
        config, state_dict = convert_original(
            tensors,
            vqgan=tokenizer,
            num_attention_heads=num_attention_heads,
            decoder_num_attention_heads=decoder_num_attention_heads,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if base_only:
        state_dict = {
            name.removeprefix(BASE_PREFIX): tensor
            for name, tensor in state_dict.items()
            if name.startswith(BASE_PREFIX)
        }
    return config, state_dict
