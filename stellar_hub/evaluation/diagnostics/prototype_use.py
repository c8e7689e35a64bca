"""How evenly the prototypes of online clustering are used.

The marginal entropy of assignments (Caron et al. 2020, SwAV, arXiv 2006.09882; Assran et al. 2022, MSN,
arXiv 2204.07141), each token counting for the prototype with the highest score.
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

PREFIX = "clustering_head."
NEEDED = ("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias", "prototypes.weight")


class PrototypeUse(NamedTuple):
    """Of `K` prototypes."""

    entropy: float  # as a share of log K, in [0, 1]
    used: float  # share of prototypes that are anyone's nearest, in (0, 1]


def prototype_use(assignment: Tensor, num_prototypes: int) -> PrototypeUse:
    """How evenly prototypes are used.

    Args:
        assignment: The prototype of each token, `(N,)` int64 in [0, num_prototypes).
        num_prototypes: `K`, at least 2.

    Returns:
        Good is high for both; with fewer tokens than prototypes neither can reach 1.
    """
    counts = assignment.bincount(minlength=num_prototypes).double()
    entropy = torch.special.entr(counts / counts.sum()).sum().item() / math.log(num_prototypes)
    return PrototypeUse(entropy, (counts > 0).double().mean().item())


def nearest_prototypes(tokens: Tensor, head: dict[str, Tensor]) -> Tensor:
    """The prototype with the highest score for each token, `(N, d)` to `(N,)`."""
    hidden = F.gelu(F.linear(tokens.float(), head["mlp.fc1.weight"], head["mlp.fc1.bias"]))
    embedding = F.normalize(F.linear(hidden, head["mlp.fc2.weight"], head["mlp.fc2.bias"]), dim=-1)
    prototypes = head["prototypes.weight"]
    return torch.cat([(chunk @ prototypes.T).argmax(dim=-1) for chunk in embedding.split(1024)])


def load_prototypes(path: Path) -> dict[str, Tensor]:
    """The clustering head of a pretraining checkpoint, float32.

    Args:
        path: `model.safetensors` of a checkpoint, or the folder it lies in, such as RUN/checkpoints/step-000100.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no clustering head.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no such checkpoint: {file}")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
    absent = [name for name in NEEDED if PREFIX + name not in tensors]
    if absent:
        raise ValueError(
            f"{file} has no clustering head ({PREFIX}{absent[0]}): models for inference have none; "
            "name a checkpoint of pretraining, such as RUN/checkpoints/step-000100"
        )
    return {name: tensors[PREFIX + name].float() for name in NEEDED}
