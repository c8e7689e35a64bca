"""The terms of the objective (arXiv 2602.01905, section 3 and appendix A.1), one function for each.

To add a term: write its mathematics as a pure function in `stellar_hub.training.objectives`; write a function here that
reads what it needs from an `ObjectiveBatch`, and returns None where the configuration switches the term off; add it to
`TERMS`; add a field of the same name to `StellarPreTrainingOutput`, and its label to
`stellar_hub.training.monitoring.quantities`. Another objective is a subclass of `ObjectiveBatch` with terms of its own,
as in `sop_terms.py`.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from stellar_hub.measures import ClusteringHead
from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.modeling.factorization import low_rank_product, renormalize
from stellar_hub.modeling.maskgit_vqgan import MaskGitVQGANEncoder
from stellar_hub.training.model.ordered_tokens import prefix_mask, prefix_rows
from stellar_hub.training.model.targets import StellarTeacher, Targets, build_targets, matched_rows, teacher_targets
from stellar_hub.training.model.views import EncodedViews, encode_views
from stellar_hub.training.objectives import code_loss, koleo_loss, pixel_loss, prototype_loss, target_codes
from stellar_hub.training.objectives.prototype_loss import ProductPrecision

RECONSTRUCTION_WEIGHTS = {"vq": 0.05, "pixel": 10.0}


class PretrainingModules(Protocol):
    """The modules that the terms read; `StellarForPreTraining` has them."""

    config: StellarConfig
    stellar: StellarModel
    clustering_head: Any  # a ClusteringHead, or a SopHead
    cls_clustering_head: ClusteringHead | None
    teacher: StellarTeacher | None
    baseline: Any  # a Baseline, or None
    tokenizer_encoder: MaskGitVQGANEncoder | None
    prototype_precision: ProductPrecision


class Prediction(NamedTuple):
    """Views, and the targets that they predict.

    Attributes:
        views: The encoded views, `B V` of them.
        embeddings: Embeddings of their tokens, `(B V, r, p)`.
        targets: Targets of the `B` images.
    """

    views: EncodedViews
    embeddings: Tensor
    targets: Targets


class ObjectiveBatch:
    """One batch as the terms see it: its views encoded, and the targets.

    It encodes the views that every term needs at once, and masked and local views when a term first reads them.

    Args:
        model: The modules of the model.
        pixel_values: Global view 0 before photometric augmentation, `(B, 3, H, W)`.
        global_views: All global views after it, `(B, V, 3, H, W)`.
        local_views: Local views, `(B, V', 3, h, w)`, or None.
        kept_patches: Indices of the patches that each masked view keeps, `(B V, kept)`; None for no masked views.
        generator: Source of what an objective draws, on the CPU; the one of this class draws nothing.
        num_tokens: Number of tokens that each image keeps, `(B,)`; None for all.

    Attributes:
        clean: The encoding of `pixel_values`, without a mask.
        embeddings: Embeddings of its tokens, `(B, r, p)`.
        second: The encoding of global view 1, without a mask; None unless `use_global_align` is set.
        targets: Targets of the clean pass or, with a teacher, of the teacher's encoding of global view 1.
    """

    def __init__(
        self,
        model: PretrainingModules,
        pixel_values: Tensor,
        global_views: Tensor,
        local_views: Tensor | None,
        kept_patches: Tensor | None,
        generator: torch.Generator | None = None,
        num_tokens: Tensor | None = None,
    ):
        self.model = model
        self.config = model.config
        self.pixel_values = pixel_values
        self.global_views = global_views
        self.local_views = local_views if model.config.use_local_views else None
        self.kept_patches = kept_patches
        self.generator = generator
        self.num_tokens = num_tokens
        self._encode()

    def _encode(self) -> None:
        """Encodes what every term needs."""
        model = self.model
        self.clean = encode_views(model.stellar.encoder, self.pixel_values)
        self.embeddings = model.clustering_head(self.clean.tokens)
        align = self.config.use_global_align
        self.second = encode_views(model.stellar.encoder, self.global_views[:, 1]) if align else None
        if model.teacher is None:
            self.targets = self._own_targets(self.clean, self.embeddings)
        else:
            self.targets = teacher_targets(model.teacher, self.global_views[:, 1], self.config)

    def _own_targets(self, views: EncodedViews, embeddings: Tensor) -> Targets:
        heads = self.model.clustering_head, self.model.cls_clustering_head
        return build_targets(views, embeddings, *heads, self.config)

    @cached_property
    def unmasked(self) -> list[Prediction]:
        """The unmasked views with what they predict; if there is a second view, each predicts the other."""
        if self.second is None:
            return [Prediction(self.clean, self.embeddings, self.targets)]
        embeddings = self.model.clustering_head(self.second.tokens)
        if self.model.teacher is None:
            first_targets, second_targets = self.targets, self._own_targets(self.second, embeddings)
        else:  # `targets` are the teacher's of the second view already
            first_targets = teacher_targets(self.model.teacher, self.pixel_values, self.config)
            second_targets = self.targets
        return [
            Prediction(self.clean, self.embeddings, second_targets),
            Prediction(self.second, embeddings, first_targets),
        ]

    @cached_property
    def masked_views(self) -> EncodedViews | None:
        """The encoding of the kept patches of all global views, `B V` of them; None without a mask."""
        if self.kept_patches is None:
            return None
        return encode_views(self.model.stellar.encoder, self.global_views.flatten(0, 1), self.kept_patches)

    @cached_property
    def masked(self) -> Prediction | None:
        """The masked views with what they predict; None without a mask."""
        if self.masked_views is None:
            return None
        return Prediction(self.masked_views, self.model.clustering_head(self.masked_views.tokens), self.targets)

    @cached_property
    def encoded_local(self) -> EncodedViews | None:
        """The encoding of all local views, `B V'` of them; None without local views."""
        if self.local_views is None:
            return None
        return encode_views(self.model.stellar.encoder, self.local_views.flatten(0, 1))

    @cached_property
    def baseline(self) -> Any:
        """What the model's baseline makes of the batch, a `BaselineResult`; None without one."""
        return None if self.model.baseline is None else self.model.baseline.measure(self)

    @cached_property
    def localization(self) -> Tensor:
        """The localization of the clean tokens, `(B, n, r)`."""
        localization: Tensor = self.model.stellar.localization(self.clean.patches, self.clean.tokens)
        return localization

    def dense_map(self) -> Tensor:
        """Returns the low-rank map of the clean tokens that are kept, `(B, n, d)`."""
        localization = self.localization
        if self.num_tokens is not None:
            localization = renormalize(localization, prefix_mask(self.num_tokens, localization.shape[-1]))
        return low_rank_product(localization, self.clean.tokens)

    @torch.no_grad()
    def agreement(self) -> Tensor | None:
        """Returns the mean cosine of embeddings with those of their targets; None without teacher and mask.

        With a teacher it is that of the clean tokens, else that of the masked views' tokens.
        """
        clean = Prediction(self.clean, self.embeddings, self.targets)
        prediction = self.masked if self.model.teacher is None else clean
        if prediction is None:
            return None
        matched = self.targets.embeddings.flatten(0, 1)[target_rows(prediction, self.config)]
        return (prediction.embeddings.flatten(0, 1) * matched).sum(dim=-1).mean()

    def facts(self) -> dict[str, Tensor | None]:
        """Returns what the meters read, under the names of fields of `StellarPreTrainingOutput`."""
        return {
            "tokens": self.clean.tokens.detach(),
            "localization": self.localization.detach(),
            "mean_assignment": self.targets.assignment.mean(dim=0),
            "agreement": self.agreement(),
        }


def target_rows(prediction: Prediction, config: StellarConfig, matched: bool = True) -> Tensor:
    """Returns the row of the target of each token, `(B V r,)`; `matched` False pairs tokens by their order."""
    return matched_rows(
        prediction.views.tokens.detach(),
        prediction.targets.tokens,
        config.matching_epsilon,
        config.matching_num_iters,
        matched and config.use_matching,
    )


def token_loss(
    prediction: Prediction,
    head: ClusteringHead,
    config: StellarConfig,
    matched: bool = True,
    precision: ProductPrecision = "fp32",
    num_tokens: Tensor | None = None,
) -> Tensor:
    """Returns the loss of tokens against the assignments of the tokens they are matched to.

    With `num_tokens`, `(B,)`, it is that of the first tokens of each image.
    """
    embeddings, rows = prediction.embeddings.flatten(0, 1), target_rows(prediction, config, matched)
    if num_tokens is not None:
        kept = prefix_rows(num_tokens, *prediction.embeddings.shape[:2])
        embeddings, rows = embeddings[kept], rows[kept]
    return prototype_loss(
        embeddings,
        head.prototypes.weight,
        prediction.targets.assignment,
        rows,
        temperature=config.prototype_temp,
        precision=precision,
    )


def cls_token_loss(
    cls_token: Tensor,
    targets: Targets,
    head: ClusteringHead,
    config: StellarConfig,
    precision: ProductPrecision = "fp32",
) -> Tensor:
    """Returns the loss of the cls tokens of `B V` views, `(B V, d)`, against the assignments of their images."""
    assignment = targets.cls_assignment
    assert assignment is not None, "there is a cls head"
    views = cls_token.shape[0] // assignment.shape[0]
    rows = torch.arange(assignment.shape[0], device=cls_token.device).repeat_interleave(views)
    return prototype_loss(
        head(cls_token),
        head.prototypes.weight,
        assignment,
        rows,
        temperature=config.prototype_temp,
        precision=precision,
    )


def koleo_term(batch: ObjectiveBatch) -> Tensor | None:
    """Returns KoLeo of the clean and of the masked tokens, each with `koleo_weight`."""
    weight = batch.config.koleo_weight
    if weight <= 0:
        return None
    loss = weight * koleo_loss(batch.clean.tokens)
    return loss if batch.masked_views is None else loss + weight * koleo_loss(batch.masked_views.tokens)


def clustering_term(batch: ObjectiveBatch) -> Tensor:
    """Returns the loss of the unmasked views' tokens against their targets, the mean over these views."""
    matched = batch.model.teacher is not None or batch.second is not None  # else tokens predict themselves
    head = batch.model.clustering_head
    options = batch.config, matched, batch.model.prototype_precision, batch.num_tokens
    losses = [token_loss(prediction, head, *options) for prediction in batch.unmasked]
    return torch.stack(losses).mean()


def cls_clustering_term(batch: ObjectiveBatch) -> Tensor | None:
    """Returns the loss of the unmasked views' cls tokens against their targets, the mean over these views."""
    head = batch.model.cls_clustering_head
    if head is None:
        return None
    options = batch.config, batch.model.prototype_precision
    losses = [cls_token_loss(views.cls_token, targets, head, *options) for views, _, targets in batch.unmasked]
    return torch.stack(losses).mean()


def reconstruction_term(batch: ObjectiveBatch) -> Tensor | None:
    """Returns the loss of what the decoder makes of the clean tokens: codes or pixels; before its weight."""
    if reconstruction_weight(batch.config) == 0:
        return None
    stellar, pixel_values = batch.model.stellar, batch.pixel_values
    assert stellar.decoder is not None, "the weight is 0 without one"
    grid = stellar.grid_size(*pixel_values.shape[-2:])
    decoded = stellar.decoder(batch.dense_map(), grid)
    prediction = stellar.decoder.predict(decoded, grid)
    if batch.config.reconstruction_head == "pixel":
        return pixel_loss(prediction, pixel_values)
    if batch.model.tokenizer_encoder is None or stellar.tokenizer is None:
        raise ValueError(
            "a model with the 'vq' head needs its tokenizer for training: set use_tokenizer=True (in a recipe: "
            "model.config.use_tokenizer, and model.vqgan for its file), or reconstruction_weight=0"
        )
    codebook = stellar.tokenizer.codebook.weight
    return code_loss(prediction, target_codes(batch.model.tokenizer_encoder, codebook, pixel_values, grid))


def mask_term(batch: ObjectiveBatch) -> Tensor | None:
    """Returns the loss of the masked views' tokens against the assignments of the tokens they are matched to."""
    if batch.masked is None:
        return None
    options = batch.config, True, batch.model.prototype_precision, batch.num_tokens
    return token_loss(batch.masked, batch.model.clustering_head, *options)


def cls_term(batch: ObjectiveBatch) -> Tensor | None:
    """Returns the loss of the masked and of the local views' cls tokens against the targets of their images."""
    head, targets, loss = batch.model.cls_clustering_head, batch.targets, None
    if head is None:
        return None
    options = batch.config, batch.model.prototype_precision
    if batch.masked is not None:
        loss = cls_token_loss(batch.masked.views.cls_token, targets, head, *options)
    if batch.encoded_local is not None:
        local_loss = cls_token_loss(batch.encoded_local.cls_token, targets, head, *options)
        loss = local_loss if loss is None else loss + local_loss
    return loss


def reconstruction_weight(config: StellarConfig) -> float:
    """Returns the weight of the reconstruction term; 0 where it is switched off or the model has no decoder."""
    if not config.use_decoder:
        return 0.0
    weight = config.reconstruction_weight
    return RECONSTRUCTION_WEIGHTS[config.reconstruction_head] if weight is None else float(weight)


class Term(NamedTuple):
    """A term of the objective.

    Attributes:
        name: Field of `StellarPreTrainingOutput` that holds its value.
        compute: Computes the value of a batch, a scalar; None where the configuration switches the term off.
        weight: Gives the factor of the value in the total loss.
    """

    name: str
    compute: Callable[[ObjectiveBatch], Tensor | None]
    weight: Callable[[StellarConfig], float] = lambda config: 1.0


# In the order in which they are computed and added. Another order rounds differently, and gives other weights.
TERMS = (
    Term("koleo_loss", koleo_term),
    Term("clustering_loss", clustering_term),
    Term("cls_clustering_loss", cls_clustering_term),
    Term("reconstruction_loss", reconstruction_term, reconstruction_weight),
    Term("mask_loss", mask_term),
    Term("cls_loss", cls_term),
)
