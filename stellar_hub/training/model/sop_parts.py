"""What a model trained with SOP has in place of prototypes: a head, and memories of the teacher's embeddings.

Self-Organizing Visual Prototypes (arXiv 2505.21533).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stellar_hub.measures.clustering import NORMALIZATION_EPS
from stellar_hub.modeling import StellarConfig
from stellar_hub.training.model.memory import EmbeddingMemory, check_memory


class SopHead(nn.Module):
    """An MLP of three linear layers with L2-normalized output, for cls and for tokens or patches.

    Args:
        config: Configuration of the model.

    Attributes:
        mask_token: What stands for a masked patch, `(d,)`; None unless patches are trained. The teacher's is not used.
    """

    def __init__(self, config: StellarConfig):
        super().__init__()
        width, hidden = config.hidden_size, config.prototype_hidden_size
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, config.prototype_dim)
        trains_patches = config.token_objective == "sop_patches"
        self.mask_token = nn.Parameter(torch.zeros(width)) if trains_patches else None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Embeds tokens `(..., d)` as unit vectors `(..., prototype_dim)` in at least float32."""
        hidden = F.gelu(self.fc2(F.gelu(self.fc1(hidden_states))))
        embeddings = self.fc3(hidden)
        working = torch.promote_types(embeddings.dtype, torch.float32)
        return F.normalize(embeddings.to(working), dim=-1, eps=NORMALIZATION_EPS)


def build_memories(config: StellarConfig) -> tuple[EmbeddingMemory | None, EmbeddingMemory | None]:
    """Builds the memories of cls and of tokens; without SOP there are none.

    Raises:
        ValueError: if a memory is too small for the anchors that are drawn from it.
    """
    if not config.token_objective.startswith("sop"):
        return None, None
    check_memories(config)
    width = config.prototype_dim
    return EmbeddingMemory(config.sop_memory_size, width), EmbeddingMemory(config.sop_token_memory_size, width)


def check_memories(config: StellarConfig, global_batch_size: int = 1) -> None:
    """Checks that the memories of a configuration are large enough; without SOP there are none.

    Args:
        config: Configuration of the model.
        global_batch_size: Number of images of a batch over all processes.

    Raises:
        ValueError: if a memory is too small for its anchors and their neighbours, or for the batch; the message names
            the settings.
    """
    if not config.token_objective.startswith("sop"):
        return
    for what, (memory, anchors, supports) in {
        "cls": ("sop_memory_size", "sop_num_anchors", "sop_num_supports"),
        "tokens": ("sop_token_memory_size", "sop_num_token_anchors", "sop_num_token_supports"),
    }.items():
        sizes = {name: getattr(config, name) for name in (memory, anchors, supports)}
        try:
            check_memory(sizes[memory], sizes[anchors], sizes[supports], global_batch_size)
        except ValueError as error:
            stated = ", ".join(f"{name}={size}" for name, size in sizes.items())
            raise ValueError(f"the memory of {what} ({stated}) is too small: {error}") from error
