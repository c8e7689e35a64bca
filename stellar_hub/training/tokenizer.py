"""The tokenizer of "vq" models: its weights, for models that begin from something without them."""

import os

import torch

from stellar_hub.conversion.read_checkpoint import read_checkpoint
from stellar_hub.conversion.vqgan_layout import DECODER_TARGET, ENCODER_TARGET, vqgan_sources
from stellar_hub.hub.download import fetch
from stellar_hub.registry import TOKENIZER
from stellar_hub.training.modeling_pretraining import StellarForPreTraining

CODEBOOK = f"{DECODER_TARGET}.codebook.weight"


def load_tokenizer(model: StellarForPreTraining, vqgan: str | os.PathLike[str] | None, *, keep_decoder: bool) -> None:
    """Load the MaskGIT-VQGAN's weights into a model with a "vq" head.

    Args:
        model: The model; changed in place.
        vqgan: The original file; None fetches the published one through the Hub client.
        keep_decoder: Whether the model's own pixel decoder came from a checkpoint. It then stays as it is, and its
            codebook must be the file's, as the codes are.

    Raises:
        OSError: if the file cannot be had.
        ValueError: if it does not fit the model, or is another tokenizer than the model's.
    """
    path = fetch(TOKENIZER) if vqgan is None else vqgan
    tensors = read_checkpoint(path)
    table = {target: sources[0] for target, sources in vqgan_sources(model.config, "").items()}
    missing = sorted(set(table.values()) - tensors.keys())
    if missing:
        raise ValueError(f"{path} is not the tokenizer of this model: it lacks {', '.join(missing[:5])}")
    weights = {target: tensors[source] for target, source in table.items()}
    own = model.state_dict()
    misshapen = sorted(name for name, tensor in weights.items() if own[name].shape != tensor.shape)
    if misshapen:
        raise ValueError(f"{path} is not the tokenizer of this model: {', '.join(misshapen[:5])} have other shapes")
    if keep_decoder and not torch.equal(own[CODEBOOK].cpu(), weights[CODEBOOK].to(own[CODEBOOK].dtype)):
        raise ValueError(f"{path} is another tokenizer than the model's: the codebooks differ")
    if keep_decoder:
        weights = {target: tensor for target, tensor in weights.items() if target.startswith(f"{ENCODER_TARGET}.")}
    model.load_state_dict(weights, strict=False)
