"""The terms of a baseline of lightly: beside those of STELLAR or SOP, or alone."""

from functools import cached_property

import torch
from torch import Tensor

from stellar_hub.modeling import StellarConfig
from stellar_hub.training.model.sop_terms import OBJECTIVES
from stellar_hub.training.model.terms import (
    ObjectiveBatch,
    Term,
    koleo_term,
    reconstruction_term,
    reconstruction_weight,
)
from stellar_hub.training.model.views import EncodedViews, encode_views


class BaselineBatch(ObjectiveBatch):
    """One batch of a baseline that is trained alone, without clustering terms."""

    def _encode(self) -> None:
        """Encodes nothing: the baseline encodes what it compares, and other terms what they read."""

    @cached_property
    def clean(self) -> EncodedViews:  # type: ignore[override]
        """The encoding of `pixel_values`, which KoLeo and reconstruction read."""
        return encode_views(self.model.stellar.encoder, self.pixel_values)

    @torch.no_grad()
    def facts(self) -> dict[str, Tensor | None]:
        """Returns what the meters read: of the clean pass where a term needs it, else of global view 0."""
        needs_clean = self.config.koleo_weight > 0 or reconstruction_weight(self.config) > 0
        views = self.clean if needs_clean else self.baseline.first
        localization = self.model.stellar.localization(views.patches, views.tokens)
        return {"tokens": views.tokens.detach(), "localization": localization.detach()}


def baseline_term(batch: ObjectiveBatch) -> Tensor:
    """Returns the loss of the baseline; before its weight."""
    loss: Tensor = batch.baseline.loss
    return loss


def baseline_facts(batch: ObjectiveBatch) -> dict[str, Tensor | None]:
    """Returns what the meters read of a baseline, and DINO's next center; nothing without a baseline."""
    result = batch.baseline
    return {} if result is None else {"projections": result.projections, "new_center": result.center}


BASELINE = Term("baseline_loss", baseline_term, lambda config: float(config.baseline_weight))
ALONE = (
    Term("koleo_loss", koleo_term),
    Term("reconstruction_loss", reconstruction_term, reconstruction_weight),
    BASELINE,
)


def objective(config: StellarConfig) -> tuple[type[ObjectiveBatch], tuple[Term, ...]]:
    """Returns the batch and the terms of a configuration, in the order in which they are computed and added."""
    if config.token_objective == "none":
        return BaselineBatch, ALONE
    make_batch, terms = OBJECTIVES[config.token_objective]
    return make_batch, terms if config.baseline_loss is None else (*terms, BASELINE)
