"""What a pretraining step returns."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class StellarPreTrainingOutput(ModelOutput):
    """Losses of one forward, and what tells whether the tokens collapse. Terms that are switched off are None.

    Attributes:
        loss: `reconstruction_weight * reconstruction_loss` plus the five other terms; a scalar, as they all are.
        reconstruction_loss: Cross-entropy of the codes, or mean squared error of pixels; before its weight.
        koleo_loss: KoLeo of the clean and of the masked tokens, its weight included.
        clustering_loss: Clean tokens against their assignments to prototypes.
        cls_clustering_loss: The same of cls.
        mask_loss: Tokens of masked views against the assignments of the tokens they are matched to.
        cls_loss: cls of masked and of local views against the assignments of the clean cls.
        tokens: `S` of the clean pass, `(B, r, d)`; detached, as all that follows.
        localization: `L` of the clean pass, `(B, n, r)`.
        mean_assignment: Mean over this process's rows of the targets' assignments, `(K,)`.
        agreement: Mean cosine in [-1, 1] of a token's embedding with that of the target token it is matched to: clean
            tokens with the teacher's or, without a teacher, masked views' with clean ones.
    """

    loss: Tensor | None = None
    reconstruction_loss: Tensor | None = None
    koleo_loss: Tensor | None = None
    clustering_loss: Tensor | None = None
    cls_clustering_loss: Tensor | None = None
    mask_loss: Tensor | None = None
    cls_loss: Tensor | None = None
    tokens: Tensor | None = None
    localization: Tensor | None = None
    mean_assignment: Tensor | None = None
    agreement: Tensor | None = None
