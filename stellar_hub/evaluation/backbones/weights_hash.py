"""SHA-256 of a network's weights."""

import hashlib

import torch
from torch import Tensor, nn


def weights_hash(network: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and persistent buffers, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def raw_bytes(tensor: Tensor) -> bytes:
    """A tensor's bytes, also of types that numpy does not know."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
