"""SOP's terms of the objective: cls and tokens are compared with anchors drawn from memories, not with prototypes.

Self-Organizing Visual Prototypes (arXiv 2505.21533), in two settings. In STELLAR, sparse tokens of masked views predict
the teacher's tokens that optimal transport matches them to, and reconstruction and KoLeo stay. On a plain encoder,
masked patches predict the teacher's patches at the same place, and nothing else is trained.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from stellar_hub.training.model.memory import draw_one_of_each
from stellar_hub.training.model.ordered_tokens import prefix_rows
from stellar_hub.training.model.targets import matched_rows
from stellar_hub.training.model.terms import (
    TERMS,
    ObjectiveBatch,
    Term,
    koleo_term,
    reconstruction_term,
    reconstruction_weight,
)
from stellar_hub.training.model.views import EncodedViews, encode_views, encode_with_mask_tokens
from stellar_hub.training.objectives import (
    SopTask,
    draw_sop_task,
    fused_sop_class_loss,
    sop_loss,
    sop_teacher_distribution,
)
from stellar_hub.training.objectives.sop import patch_weights


class SopBatch(ObjectiveBatch):
    """One batch as SOP's terms see it, in STELLAR: views of student and teacher, and anchors.

    Attributes:
        clean: The student's encoding of `pixel_values`, which is reconstructed.
        teacher_views: The teacher's encoding of global views 0 and 1, `2 B` of them, view index fastest.
        cls_tasks: What cls is compared with; each task has anchors of its own.
        token_task: What tokens are compared with.
    """

    def _encode(self) -> None:
        self.clean = encode_views(self.model.stellar.encoder, self.pixel_values)
        self._encode_targets()

    @torch.no_grad()
    def _encode_targets(self) -> None:
        teacher: Any = self.model.teacher
        self.teacher_views = encode_views(teacher.encoder, self.global_views[:, :2].flatten(0, 1))
        self.teacher_head = teacher.clustering_head
        self.cls_tasks = [self._draw(teacher.cls_memory.rows) for _ in range(self.config.sop_num_tasks)]
        self.token_task = self._draw(teacher.token_memory.rows, of_tokens=True)

    def _draw(self, memory: Tensor, of_tokens: bool = False) -> SopTask:
        config = self.config
        counts = config.sop_num_anchors, config.sop_num_supports
        if of_tokens:
            counts = config.sop_num_token_anchors, config.sop_num_token_supports
        choice = None if of_tokens else config.sop_anchor_choice
        smoothing = float(config.sop_smoothing)
        return draw_sop_task(memory, *counts, smoothing, low_energy=choice, generator=self.generator)

    @cached_property
    @torch.no_grad()
    def teacher_cls(self) -> list[Tensor]:
        """The teacher's embeddings of cls of global views 0 and 1, `(B, p)` each."""
        return list(self.teacher_head(self.teacher_views.cls_token).unflatten(0, (-1, 2)).unbind(1))

    @cached_property
    @torch.no_grad()
    def teacher_tokens(self) -> Tensor:
        """The teacher's embeddings of the tokens of global view 1, `(B, r, p)`."""
        embeddings: Tensor = self.teacher_head(self.teacher_views.tokens[1::2])
        return embeddings

    @cached_property
    def token_distribution(self) -> Tensor:
        """The teacher's distributions of these tokens over the anchors, `(B r, A)`."""
        temperature = float(self.config.sop_teacher_temp)
        return sop_teacher_distribution(self.teacher_tokens.flatten(0, 1), *self.token_task, temperature)

    @cached_property
    def student_cls(self) -> list[Tensor]:
        """The student's embeddings of cls, `(B, p)` for each masked and then for each local view."""
        assert self.masked_views is not None, "SOP has masked views"
        encoded = [(self.masked_views, self.global_views.shape[1])]
        if self.encoded_local is not None and self.local_views is not None:
            encoded.append((self.encoded_local, self.local_views.shape[1]))
        embed = self.model.clustering_head
        return [view for views, count in encoded for view in embed(views.cls_token).unflatten(0, (-1, count)).unbind(1)]

    @cached_property
    def student_tokens(self) -> Tensor:
        """The student's embeddings of the masked views' tokens, `(B V, r, p)`."""
        assert self.masked_views is not None, "SOP has masked views"
        embeddings: Tensor = self.model.clustering_head(self.masked_views.tokens)
        return embeddings

    @cached_property
    def target_rows(self) -> Tensor:
        """The row of the teacher's token that each token of the masked views predicts, `(B V r,)`."""
        assert self.masked_views is not None, "SOP has masked views"
        config, tokens = self.config, self.masked_views.tokens.detach()
        numbers = config.matching_epsilon, config.matching_num_iters
        return matched_rows(tokens, self.teacher_views.tokens[1::2], *numbers, config.use_matching)

    def token_loss(self) -> Tensor:
        """Returns the loss of the masked views' tokens against the teacher's that they are matched to."""
        temperature = float(self.config.sop_temp)
        embeddings, rows = self.student_tokens.flatten(0, 1), self.target_rows
        if self.num_tokens is not None:
            kept = prefix_rows(self.num_tokens, *self.student_tokens.shape[:2])
            embeddings, rows = embeddings[kept], rows[kept]
        return sop_loss(embeddings, *self.token_task, self.token_distribution, temperature, rows)

    @torch.no_grad()
    def agreement(self) -> Tensor:
        """Returns the mean cosine of the masked views' tokens with the teacher's that they are matched to."""
        matched = self.teacher_tokens.flatten(0, 1)[self.target_rows]
        return (self.student_tokens.flatten(0, 1) * matched).sum(dim=-1).mean()

    def facts(self) -> dict[str, Tensor | None]:
        """Returns what the meters read, and what the memories take."""
        return {
            "tokens": self.clean.tokens.detach(),
            "localization": self.localization.detach(),
            **self._facts_of_sop(),
        }

    def _facts_of_sop(self) -> dict[str, Tensor | None]:
        return {
            "mean_assignment": self.token_distribution.mean(dim=0),
            "agreement": self.agreement(),
            "anchors": self.cls_tasks[0].supports.unflatten(0, (-1, self.config.sop_num_supports))[:, -1],
            "new_cls_rows": self.teacher_cls[1],
            "new_token_rows": draw_one_of_each(self.teacher_tokens, generator=self.generator),
        }


class SopPatchBatch(SopBatch):
    """One batch as SOP's terms see it on a plain encoder: patches are in the place of sparse tokens.

    Sparse tokens go through the encoder with the patches, as they will at inference, but no term reads them.

    Attributes:
        hidden: Which patches of the masked views a mask token stands for, bool `(B V, n)`.
    """

    def _encode(self) -> None:
        self._encode_targets()

    @cached_property
    def masked_views(self) -> EncodedViews | None:
        """The encoding of all global views, `B V` of them, with mask tokens in the place of hidden patches."""
        assert self.kept_patches is not None, "SOP has masked views"
        token: Tensor = self.model.clustering_head.mask_token
        views, self.hidden = encode_with_mask_tokens(
            self.model.stellar.encoder, self.global_views.flatten(0, 1), self.kept_patches, token
        )
        return views

    @cached_property
    @torch.no_grad()
    def teacher_patches(self) -> Tensor:
        """The teacher's embeddings of the patches of global views 0 and 1, `(B, 2, n, p)`."""
        embeddings: Tensor = self.teacher_head(self.teacher_views.patches)
        return embeddings.unflatten(0, (-1, 2))

    @property
    def teacher_tokens(self) -> Tensor:
        """The teacher's embeddings of the patches of global view 1, `(B, n, p)`."""
        return self.teacher_patches[:, 1]

    @cached_property
    def token_distribution(self) -> Tensor:
        """The teacher's distributions of the patches of both views over the anchors, `(2 B n, A)`."""
        temperature = float(self.config.sop_teacher_temp)
        return sop_teacher_distribution(self.teacher_patches.flatten(0, 2), *self.token_task, temperature)

    @cached_property
    def student_tokens(self) -> Tensor:
        """The student's embeddings of the patches of global views 0 and 1, `(B, 2, n, p)`."""
        assert self.masked_views is not None, "SOP has masked views"
        patches = self.masked_views.patches.unflatten(0, (-1, self.global_views.shape[1]))[:, :2]
        embeddings: Tensor = self.model.clustering_head(patches)
        return embeddings

    @cached_property
    def patch_weights(self) -> Tensor:
        """The weight of each patch of both views, `(2 B n,)`: its view's hidden patches have 1 together, over views."""
        hidden = self.hidden.unflatten(0, (-1, self.global_views.shape[1]))[:, :2].flatten(0, 1)
        return patch_weights(hidden, self.token_distribution.dtype).flatten()

    def token_loss(self) -> Tensor:
        """Returns the loss of the hidden patches against the teacher's at the same place."""
        embeddings, temperature = self.student_tokens.flatten(0, 2), float(self.config.sop_temp)
        targets = self.token_distribution
        return sop_loss(embeddings, *self.token_task, targets, temperature, row_weights=self.patch_weights)

    @torch.no_grad()
    def agreement(self) -> Tensor:
        """Returns the mean cosine of the hidden patches with the teacher's at the same place."""
        cosines = (self.student_tokens * self.teacher_patches).sum(dim=-1).flatten()
        return (cosines * self.patch_weights).sum()

    def facts(self) -> dict[str, Tensor | None]:
        """Returns what the meters read, and what the memories take; there is no localization."""
        return {"tokens": self.teacher_views.patches[1::2], **self._facts_of_sop()}


def sop_token_term(batch: Any) -> Tensor:
    """Returns the loss of tokens or patches of masked views against the teacher's."""
    loss: Tensor = batch.token_loss()
    return loss


def sop_cls_term(batch: Any) -> Tensor:
    """Returns the loss of cls: the mean over tasks, and over all pairs of a student's and a teacher's other view."""
    temperatures = float(batch.config.sop_temp), float(batch.config.sop_teacher_temp)
    views = batch.student_cls, batch.teacher_cls
    losses = [fused_sop_class_loss(*views, task.supports, task.scores, *temperatures) for task in batch.cls_tasks]
    return torch.stack(losses).mean()


SOP_TERMS = (Term("sop_token_loss", sop_token_term), Term("sop_cls_loss", sop_cls_term))

# The batch and the terms of each `token_objective`; terms are in the order in which they are computed and added.
OBJECTIVES: dict[str, tuple[type[ObjectiveBatch], tuple[Term, ...]]] = {
    "prototypes": (ObjectiveBatch, TERMS),
    "sop": (
        SopBatch,
        (
            Term("koleo_loss", koleo_term),
            *SOP_TERMS,
            Term("reconstruction_loss", reconstruction_term, reconstruction_weight),
        ),
    ),
    "sop_patches": (SopPatchBatch, SOP_TERMS),
}
