"""SHA-256 of a network's weights."""

from torch import nn

from stellar_hub.extraction.tensor_digest import tensors_sha256


def weights_hash(network: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of all parameters and persistent buffers, in the order of names."""
    return tensors_sha256(network.state_dict())
