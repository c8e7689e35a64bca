"""STELLAR with everything pretraining needs beside the model: clustering heads, EMA teacher, the tokenizer's encoder.

One forward is the whole objective (arXiv 2602.01905, section 3 and appendix A.1); the terms themselves are in
`stellar_hub.training.objectives`.
"""

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init

from stellar_hub.measures import ClusteringHead, Prototypes
from stellar_hub.modeling import StellarConfig, StellarModel, StellarPreTrainedModel
from stellar_hub.modeling.factorization import low_rank_product
from stellar_hub.modeling.maskgit_vqgan import MaskGitVQGANEncoder
from stellar_hub.training.model.masking import draw_kept_patches
from stellar_hub.training.model.output import StellarPreTrainingOutput
from stellar_hub.training.model.teacher import StellarTeacher, clustering_head_of
from stellar_hub.training.model.views import EncodedViews, check_views, encode_views, matched_rows
from stellar_hub.training.objectives import koleo_loss, prototype_loss, prototype_scores, sinkhorn_assign
from stellar_hub.training.objectives.reconstruction import code_loss, pixel_loss, target_codes

logger = logging.getLogger(__name__)

RECONSTRUCTION_WEIGHTS = {"vq": 0.05, "pixel": 10.0}
# Parts that a checkpoint made for inference does not have, and that can begin anew.
OPTIONAL_PARTS = ("clustering_head", "cls_clustering_head", "teacher", "tokenizer_encoder")


class Targets(NamedTuple):
    """What views are compared with.

    Attributes:
        tokens: `(B, r, d)`, what tokens are matched to.
        embeddings: `(B, r, p)`, unit vectors.
        assignment: Assignments of the tokens to prototypes, `(B r, K)`.
        cls_assignment: The same of cls, `(B, K)`; None without a cls head.
    """

    tokens: Tensor
    embeddings: Tensor
    assignment: Tensor
    cls_assignment: Tensor | None


class StellarForPreTraining(StellarPreTrainedModel):
    """The model, and the objective it is trained with.

    Args:
        config: The architecture and every switch of the objective.
    """

    # A model of this class is trained on, not shipped: its folder carries no code of the model.
    _auto_class = None

    def __init__(self, config: StellarConfig):
        super().__init__(config)
        self.stellar = StellarModel(config)
        self.clustering_head = clustering_head_of(config)
        # CODEPATH: the paper's models have all three; each is a switch of the configuration.
        self.cls_clustering_head = clustering_head_of(config) if config.use_cls_head else None
        self.teacher = StellarTeacher(config) if config.teacher_momentum is not None else None
        needs_codes = self.reconstruction_weight > 0 and config.reconstruction_head == "vq"
        self.tokenizer_encoder = MaskGitVQGANEncoder(config) if needs_codes and config.use_tokenizer else None
        self.newly_initialized: tuple[str, ...] = OPTIONAL_PARTS
        self.post_init()
        self.freeze_untrained()
        self.copy_to_teacher()

    @property
    def reconstruction_weight(self) -> float:
        """Weight of the reconstruction loss; 0 where it is switched off or there is no decoder."""
        if not self.config.use_decoder:
            return 0.0
        weight = self.config.reconstruction_weight
        return RECONSTRUCTION_WEIGHTS[self.config.reconstruction_head] if weight is None else float(weight)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Prototypes):
            init.normal_(module.weight, std=1.0)

    def freeze_untrained(self) -> None:
        """Take gradients from all that no term reaches, so that every other parameter gets one in every step.

        These are the tokenizer, the teacher and, where nothing is reconstructed, decoder and localization.
        """
        super().freeze_untrained()
        if self.teacher is not None:
            self.teacher.requires_grad_(False)
        if self.reconstruction_weight == 0:
            for part in (self.stellar.decoder, self.stellar.localization):
                if part is not None:
                    part.requires_grad_(False)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters with two or more dimensions that are not decayed: tokens and positions. timm's hook."""
        return {f"stellar.encoder.{name}" for name in ("cls_token", "sparse_tokens", "pos_embed")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of the encoder's layers, from the input up; everything else is above them. timm's hook.

        timm reads captured groups as numbers of layers.
        """
        return {
            "stem": r"^stellar\.encoder\.(?:cls_token|pos_embed|sparse_tokens|patch_embed)",
            "blocks": [(r"^stellar\.encoder\.blocks\.(\d+)", None)],
        }

    def _student(self) -> dict[str, Any]:
        return {
            "encoder": self.stellar.encoder,
            "clustering_head": self.clustering_head,
            "cls_clustering_head": self.cls_clustering_head,
        }

    def copy_to_teacher(self) -> None:
        """Make the teacher, if there is one, an exact copy of the model."""
        if self.teacher is not None and self.device.type != "meta":
            self.teacher.follow(self._student(), momentum=0.0)

    def update_teacher(self, momentum: float | None = None) -> None:
        """Move the teacher toward the model; once per optimizer step, before the forward.

        Args:
            momentum: In [0, 1]; None takes `config.teacher_momentum`.

        Raises:
            ValueError: if there is no teacher, or the momentum is out of range.
        """
        own = self.config.teacher_momentum
        if self.teacher is None or own is None:
            raise ValueError("this model has no teacher: set teacher_momentum in its configuration, such as 0.996")
        momentum = own if momentum is None else momentum
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be within [0, 1], got {momentum}")
        self.teacher.follow(self._student(), momentum)

    @classmethod
    def _check_loading(cls, model: Any, info: dict[str, Any], name: str, tolerate_shapes: bool) -> None:
        missing = set(info["missing_keys"])
        new = []
        for part in OPTIONAL_PARTS:
            keys = {key for key in model.state_dict() if key.startswith(f"{part}.")}
            if keys and keys <= missing:
                missing -= keys
                new.append(part)
        info["missing_keys"] = missing
        super()._check_loading(model, info, name, tolerate_shapes)
        model.newly_initialized = tuple(new)
        if "teacher" in new:
            model.copy_to_teacher()
        if new:
            logger.warning("%s has no %s: they begin anew", name, ", ".join(new))

    def forward(
        self,
        pixel_values: Tensor,
        global_views: Tensor,
        local_views: Tensor | None = None,
        kept_patches: Tensor | None = None,
    ) -> StellarPreTrainingOutput:
        """The objective of one batch; deterministic given its inputs. Updates nothing, the teacher included.

        Args:
            pixel_values: Global view 0 before photometric augmentation, `(B, 3, H, W)` in [0, 1] (or uint8).
            global_views: All `V` global views after it, view 0 included, `(B, V, 3, H, W)`. The teacher, and the
                second view of `use_global_align`, read view 1 as given.
            local_views: `(B, V', 3, h, w)`; not used where `config.use_local_views` is off.
            kept_patches: Indices of the patches kept in each masked view, `(B V, kept)`, view index fastest; None
                draws them.

        Returns:
            The total, its terms, and what collapse meters read.

        Raises:
            ValueError: if shapes do not fit each other or the configuration.
        """
        check_views(self.config, pixel_values, global_views, local_views, kept_patches)
        clean = encode_views(self.stellar.encoder, pixel_values)
        embeddings = self.clustering_head(clean.tokens)
        second = encode_views(self.stellar.encoder, global_views[:, 1]) if self.config.use_global_align else None
        targets = self._targets(clean, embeddings, global_views)
        losses = self._clean_terms(clean, embeddings, second, targets, pixel_values)
        localization = self.stellar.localization(clean.patches, clean.tokens)
        if self.reconstruction_weight > 0:
            losses["reconstruction_loss"] = self._reconstruction_loss(clean.tokens, localization, pixel_values)
        agreement = self._agreement(clean.tokens, embeddings, targets) if self.teacher is not None else None
        if self.config.mask_ratio is not None:
            masked_agreement = self._add_masked_terms(losses, targets, global_views, kept_patches)
            agreement = masked_agreement if agreement is None else agreement
        if self.config.use_local_views and local_views is not None:
            cls_token = encode_views(self.stellar.encoder, local_views.flatten(0, 1)).cls_token
            losses["cls_loss"] = losses.get("cls_loss", 0) + self._cls_loss(cls_token, targets.cls_assignment)
        weights = {"reconstruction_loss": self.reconstruction_weight}
        return StellarPreTrainingOutput(
            loss=sum(weights.get(name, 1.0) * term for name, term in losses.items()),
            **losses,
            tokens=clean.tokens.detach(),
            localization=localization.detach(),
            mean_assignment=targets.assignment.mean(dim=0),
            agreement=agreement,
        )

    def _assign(self, head: ClusteringHead, embeddings: Tensor) -> Tensor:
        """Balanced assignment to prototypes, over all processes; `(rows, p)` to `(rows, K)`. No gradient."""
        with torch.no_grad():
            scores = prototype_scores(embeddings, head.prototypes.weight)
            return sinkhorn_assign(
                scores.div_(self.config.sinkhorn_temp), self.config.sinkhorn_num_iters, self.config.sinkhorn_scale
            )

    @torch.no_grad()
    def _view_targets(self, views: EncodedViews, embeddings: Tensor, head: Any, cls_head: Any) -> Targets:
        cls_assignment = None if cls_head is None else self._assign(cls_head, cls_head(views.cls_token))
        return Targets(views.tokens, embeddings, self._assign(head, embeddings.flatten(0, 1)), cls_assignment)

    @torch.no_grad()
    def _targets(self, clean: EncodedViews, embeddings: Tensor, global_views: Tensor) -> Targets:
        """Those of the clean pass or, with a teacher, of the teacher's view of global view 1."""
        if self.teacher is None:
            return self._view_targets(clean, embeddings, self.clustering_head, self.cls_clustering_head)
        return self._teacher_targets(global_views[:, 1])

    @torch.no_grad()
    def _teacher_targets(self, pixel_values: Tensor) -> Targets:
        teacher = self.teacher
        assert teacher is not None
        views = encode_views(teacher.encoder, pixel_values)
        embeddings = teacher.clustering_head(views.tokens)
        return self._view_targets(views, embeddings, teacher.clustering_head, teacher.cls_clustering_head)

    def _clean_terms(
        self,
        clean: EncodedViews,
        embeddings: Tensor,
        second: EncodedViews | None,
        targets: Targets,
        pixel_values: Tensor,
    ) -> dict[str, Any]:
        """Terms of the views that are not masked; with a second one each predicts the other, averaged."""
        losses: dict[str, Any] = {}
        if self.config.koleo_weight > 0:
            losses["koleo_loss"] = self.config.koleo_weight * koleo_loss(clean.tokens)
        pairs = [(clean, embeddings, targets)]
        if second is not None:
            second_embeddings = self.clustering_head(second.tokens)
            if self.teacher is None:
                heads = (self.clustering_head, self.cls_clustering_head)
                of_second = self._view_targets(second, second_embeddings, *heads)
                pairs = [(clean, embeddings, of_second), (second, second_embeddings, targets)]
            else:  # `targets` are the teacher's of the second view already
                of_first = self._teacher_targets(pixel_values)
                pairs = [(clean, embeddings, targets), (second, second_embeddings, of_first)]
        matched = self.teacher is not None or second is not None
        terms = [self._token_loss(view.tokens, e, target, matched) for view, e, target in pairs]
        losses["clustering_loss"] = sum(terms) / len(terms)
        if self.cls_clustering_head is not None:
            terms = [self._cls_loss(view.cls_token, target.cls_assignment) for view, _, target in pairs]
            losses["cls_clustering_loss"] = sum(terms) / len(terms)
        return losses

    def _add_masked_terms(
        self, losses: dict[str, Any], targets: Targets, global_views: Tensor, kept_patches: Tensor | None
    ) -> Tensor:
        """Add what masked views contribute; their agreement with the targets."""
        views = global_views.flatten(0, 1)  # (B V, 3, H, W)
        if kept_patches is None:
            kept_patches = self.draw_kept_patches(views.shape[0], *views.shape[-2:], device=views.device)
        masked = encode_views(self.stellar.encoder, views, kept_patches)
        if self.config.koleo_weight > 0:
            losses["koleo_loss"] = losses["koleo_loss"] + self.config.koleo_weight * koleo_loss(masked.tokens)
        embeddings = self.clustering_head(masked.tokens)
        losses["mask_loss"] = self._token_loss(masked.tokens, embeddings, targets, matched=True)
        if self.cls_clustering_head is not None:
            losses["cls_loss"] = self._cls_loss(masked.cls_token, targets.cls_assignment)
        return self._agreement(masked.tokens, embeddings, targets)

    def draw_kept_patches(
        self, num_views: int, height: int, width: int, *, generator: torch.Generator | None = None, device: Any = None
    ) -> Tensor:
        """The patches to keep in masked views of `height` by `width` pixels, `(num_views, kept)` int64.

        Raises:
            ValueError: if masked views are switched off.
        """
        config = self.config
        if config.mask_ratio is None:
            raise ValueError("masked views are switched off: mask_ratio is None")
        return draw_kept_patches(
            num_views,
            (height // config.patch_size, width // config.patch_size),
            config.mask_ratio,
            config.mask_strategy,
            config.focal_probability,
            generator=generator,
            device=device,
        )

    def _rows(self, tokens: Tensor, targets: Targets, matched: bool = True) -> Tensor:
        return matched_rows(
            tokens.detach(),
            targets.tokens,
            self.config.matching_epsilon,
            self.config.matching_num_iters,
            matched and self.config.use_matching,
        )

    def _token_loss(self, tokens: Tensor, embeddings: Tensor, targets: Targets, matched: bool) -> Tensor:
        """Loss of tokens of `B V` views against the assignments of the tokens they are matched to."""
        return prototype_loss(
            embeddings.flatten(0, 1),
            self.clustering_head.prototypes.weight,
            targets.assignment,
            self._rows(tokens, targets, matched),
            temperature=self.config.prototype_temp,
        )

    def _cls_loss(self, cls_token: Tensor, assignment: Tensor | None) -> Tensor:
        """Loss of the cls of `B V` views, `(B V, d)`, against the assignment of their image's."""
        head = self.cls_clustering_head
        assert head is not None
        assert assignment is not None
        views = cls_token.shape[0] // assignment.shape[0]
        rows = torch.arange(assignment.shape[0], device=cls_token.device).repeat_interleave(views)
        return prototype_loss(
            head(cls_token), head.prototypes.weight, assignment, rows, temperature=self.config.prototype_temp
        )

    @torch.no_grad()
    def _agreement(self, tokens: Tensor, embeddings: Tensor, targets: Targets) -> Tensor:
        matched = targets.embeddings.flatten(0, 1)[self._rows(tokens, targets)]
        return (embeddings.detach().flatten(0, 1) * matched).sum(dim=-1).mean()

    def _reconstruction_loss(self, tokens: Tensor, localization: Tensor, pixel_values: Tensor) -> Tensor:
        decoder = self.stellar.decoder
        assert decoder is not None
        grid = self.stellar.grid_size(*pixel_values.shape[-2:])
        prediction = decoder.predict(decoder(low_rank_product(localization, tokens), grid), grid)
        if self.config.reconstruction_head == "pixel":
            return pixel_loss(prediction, pixel_values)
        if self.tokenizer_encoder is None or self.stellar.tokenizer is None:
            raise ValueError(
                "a 'vq' model needs its tokenizer to be trained: set use_tokenizer=True (a recipe's model.config; its "
                "model.vqgan names the file), or switch reconstruction off with reconstruction_weight=0"
            )
        codebook = self.stellar.tokenizer.codebook.weight
        return code_loss(prediction, target_codes(self.tokenizer_encoder, codebook, pixel_values, grid))


__all__ = ["StellarForPreTraining"]
