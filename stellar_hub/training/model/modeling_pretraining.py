"""STELLAR for pretraining: the model, clustering heads, the EMA teacher and the tokenizer's encoder.

One forward computes the whole objective. Its terms are in `terms.py`, the targets they use in `targets.py`, SOP in
`sop_terms.py`, and the baselines in `baseline_terms.py`.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from stellar_hub.measures import Prototypes
from stellar_hub.modeling import StellarConfig, StellarModel, StellarPreTrainedModel
from stellar_hub.modeling.maskgit_vqgan import MaskGitVQGANEncoder
from stellar_hub.training.model.baseline_terms import baseline_facts, objective
from stellar_hub.training.model.baselines import Baseline
from stellar_hub.training.model.memory import EmbeddingMemory
from stellar_hub.training.model.ordered_tokens import resolve_num_tokens
from stellar_hub.training.model.sop_parts import SopHead
from stellar_hub.training.model.targets import StellarTeacher, build_clustering_head, has_cls_head
from stellar_hub.training.model.terms import reconstruction_weight
from stellar_hub.training.model.views import check_views, draw_kept_patches
from stellar_hub.training.objectives.prototype_loss import ProductPrecision

logger = logging.getLogger(__name__)

# Parts that a checkpoint made for inference lacks. Such a checkpoint loads, and these parts get new weights.
OPTIONAL_PARTS = ("clustering_head", "cls_clustering_head", "teacher", "tokenizer_encoder", "baseline")


@dataclass
class StellarPreTrainingOutput(ModelOutput):
    """Output of `StellarForPreTraining`: losses, and what shows whether the tokens collapse.

    A term that the configuration switches off is None.

    Attributes:
        loss: Total loss, a scalar as all terms are: `reconstruction_weight * reconstruction_loss` plus all others.
        reconstruction_loss: Cross-entropy of the codes, or mean squared error of the pixels; before its weight.
        koleo_loss: KoLeo loss of the clean and of the masked tokens; its weight is included.
        clustering_loss: Loss of the clean tokens against their assignments to prototypes.
        cls_clustering_loss: Loss of the clean cls tokens against their assignments to prototypes.
        mask_loss: Loss of the masked views' tokens against the assignments of the tokens they are matched to.
        cls_loss: Loss of the masked and local views' cls tokens against the assignments of the clean cls tokens.
        tokens: Sparse tokens `S` of the clean pass, `(B, r, d)`; detached, as all fields below but losses. Where SOP
            trains patches, these are the teacher's patches of global view 1, `(B, n, d)`.
        localization: Localization `L` of the clean pass, `(B, n, r)`; None where SOP trains patches.
        mean_assignment: Mean of the targets' assignments over the rows of this process, `(K,)`. With SOP they are to
            this batch's anchors of tokens, `(A,)`.
        agreement: Mean cosine in [-1, 1] of a token's embedding with that of its target. With a teacher it compares
            clean tokens with the teacher's; without one it compares masked views' tokens with clean ones. With SOP it
            compares the tokens of masked views, or masked patches, with the teacher's.
        sop_token_loss: Loss of the masked views' tokens, or masked patches, against the teacher's, by SOP.
        sop_cls_loss: Loss of the masked and local views' cls against the teacher's of other views, by SOP.
        anchors: SOP's anchors of cls that were drawn first, past embeddings of the teacher's, `(A, p)`.
        new_cls_rows: The teacher's embeddings of cls that `write_memories` writes, `(B, p)`; SOP alone.
        new_token_rows: The teacher's embeddings of one token or patch of each image, `(B, p)`, for the same.
        baseline_loss: Loss of the baseline, `config.baseline_loss`; before its weight.
        projections: Outputs of the baseline's head for global view 0, `(B, outputs)`, for SwAV and DINO as
            distributions over prototypes; None without a baseline.
        new_center: DINO's center that `write_memories` writes, `(1, 1, K)`; DINO alone.
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
    sop_token_loss: Tensor | None = None
    sop_cls_loss: Tensor | None = None
    anchors: Tensor | None = None
    new_cls_rows: Tensor | None = None
    new_token_rows: Tensor | None = None
    baseline_loss: Tensor | None = None
    projections: Tensor | None = None
    new_center: Tensor | None = None


class StellarForPreTraining(StellarPreTrainedModel):
    """The model with the objective that it is trained with.

    Args:
        config: Configuration of the architecture and of the objective.

    Attributes:
        prototype_precision: "fp32", or "tf32" to let a GPU round the operands of the prototype losses' products.
    """

    # A model of this class is for training and is not shared: its folder carries no code of the model.
    _auto_class = None

    def __init__(self, config: StellarConfig):
        super().__init__(config)
        self.stellar = StellarModel(config)
        self.clustering_head = build_clustering_head(config)
        # CODEPATH: the paper's models have all three; each is a switch of the configuration.
        self.cls_clustering_head = build_clustering_head(config) if has_cls_head(config) else None
        self.teacher = StellarTeacher(config) if config.teacher_momentum is not None else None
        needs_codes = self.reconstruction_weight > 0 and config.reconstruction_head == "vq"
        # CODEPATH: a loss of lightly's to compare with; it is a switch of the configuration.
        self.baseline = Baseline(config) if config.baseline_loss is not None else None
        self.tokenizer_encoder = MaskGitVQGANEncoder(config) if needs_codes and config.use_tokenizer else None
        self.prototype_precision: ProductPrecision = "fp32"
        self.newly_initialized: tuple[str, ...] = OPTIONAL_PARTS
        self.post_init()
        if self.baseline is not None:
            self.baseline.initialize()
        self.freeze_untrained()
        self.copy_to_teacher()

    def forward(
        self,
        pixel_values: Tensor,
        global_views: Tensor,
        local_views: Tensor | None = None,
        kept_patches: Tensor | None = None,
        generator: torch.Generator | None = None,
        num_tokens: Tensor | None = None,
    ) -> StellarPreTrainingOutput:
        """Computes the objective of one batch. It is deterministic given its inputs, and changes no state.

        A model that is trained with SOP or DINO needs `write_memories` afterwards.

        Args:
            pixel_values: Global view 0 before photometric augmentation, `(B, 3, H, W)`, floats in [0, 1] or uint8.
            global_views: All `V` global views after it, view 0 included, `(B, V, 3, H, W)`. The teacher and
                `use_global_align` read view 1.
            local_views: Local views, `(B, V', 3, h, w)`; ignored where `config.use_local_views` is off.
            kept_patches: Indices of the patches that each masked view keeps, `(B V, kept)`, view index fastest; None
                draws them.
            generator: Source on the CPU of SOP's anchors and LeJEPA's directions, equal in all processes; None uses
                torch's global one.
            num_tokens: Number of tokens that each image keeps, `(B,)` int64; None draws them. It is ignored where
                `config.nested_dropout` is 0.

        Returns:
            The total loss, its terms, and what the collapse meters read.

        Raises:
            TypeError: if an input is not a tensor, or has the wrong dtype.
            ValueError: if shapes or values do not fit each other or the configuration.
        """
        check_views(self.config, pixel_values, global_views, local_views, kept_patches)
        if self.config.mask_ratio is None:
            kept_patches = None
        elif kept_patches is None:
            views = global_views.flatten(0, 1)
            kept_patches = self.draw_kept_patches(views.shape[0], *views.shape[-2:], device=views.device)
        num_tokens = resolve_num_tokens(self.config, num_tokens, pixel_values)
        make_batch, terms = objective(self.config)
        batch = make_batch(self, pixel_values, global_views, local_views, kept_patches, generator, num_tokens)
        values = {term.name: term.compute(batch) for term in terms}
        losses = {name: value for name, value in values.items() if value is not None}
        weights = {term.name: term.weight(self.config) for term in terms}
        loss: Any = sum(weights[name] * value for name, value in losses.items())
        return StellarPreTrainingOutput(loss=loss, **losses, **batch.facts(), **baseline_facts(batch))

    def write_memories(self, output: StellarPreTrainingOutput) -> None:
        """Writes the teacher's embeddings of a batch into SOP's memories, and DINO's center; others have neither.

        The loop calls it after each forward, in all processes at once: the memories take the rows of all of them.
        """
        if self.baseline is not None:
            self.baseline.write_center(output.new_center)
        teacher = self.teacher
        if teacher is None or teacher.cls_memory is None or teacher.token_memory is None:
            return
        cls_rows, token_rows = output.new_cls_rows, output.new_token_rows
        assert cls_rows is not None, "the output is this model's"
        assert token_rows is not None, "the output is this model's"
        teacher.cls_memory.write(cls_rows)
        teacher.token_memory.write(token_rows)

    @property
    def reconstruction_weight(self) -> float:
        """The weight of the reconstruction loss; 0 where it is switched off or the model has no decoder."""
        return reconstruction_weight(self.config)

    def draw_kept_patches(
        self, num_views: int, height: int, width: int, *, generator: torch.Generator | None = None, device: Any = None
    ) -> Tensor:
        """Draws the patches that masked views of `height` by `width` pixels keep, `(num_views, kept)` int64.

        Raises:
            ValueError: if the configuration switches masked views off.
        """
        config = self.config
        if config.mask_ratio is None:
            raise ValueError("mask_ratio is None, so there are no masked views: set it to a number within [0, 1)")
        return draw_kept_patches(
            num_views,
            (height // config.patch_size, width // config.patch_size),
            config.mask_ratio,
            config.mask_strategy,
            config.focal_probability,
            generator=generator,
            device=device,
        )

    def update_teacher(self, momentum: float | None = None) -> None:
        """Moves the teacher toward the model. The loop calls it once per optimizer step, before the forward.

        Args:
            momentum: Share of the teacher that stays, in [0, 1]; None uses `config.teacher_momentum`.

        Raises:
            ValueError: if the model has no teacher, or the momentum is out of range.
        """
        own = self.config.teacher_momentum
        if self.teacher is None or own is None:
            raise ValueError("this model has no teacher: set teacher_momentum in its configuration, such as 0.996")
        momentum = own if momentum is None else momentum
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be within [0, 1], got {momentum}")
        self.teacher.follow(self._student(), momentum)

    def copy_to_teacher(self) -> None:
        """Makes the teacher, if there is one, an exact copy of the model."""
        if self.teacher is not None and self.device.type != "meta":
            self.teacher.follow(self._student(), momentum=0.0)

    def _student(self) -> dict[str, Any]:
        return {
            "encoder": self.stellar.encoder,
            "clustering_head": self.clustering_head,
            "cls_clustering_head": self.cls_clustering_head,
            "baseline_head": None if self.baseline is None else self.baseline.head,
        }

    def freeze_untrained(self) -> None:
        """Switches gradients off for all weights that no term reaches, so that each of the others gets one.

        These are the tokenizer, the teacher and, where nothing is reconstructed, the decoder and the localization.
        """
        super().freeze_untrained()
        if self.teacher is not None:
            self.teacher.requires_grad_(False)
        if self.reconstruction_weight == 0:
            for part in (self.stellar.decoder, self.stellar.localization):
                if part is not None:
                    part.requires_grad_(False)

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters of two or more dimensions without weight decay: tokens, positions. timm calls it."""
        return {f"stellar.encoder.{name}" for name in ("cls_token", "sparse_tokens", "pos_embed")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns patterns of the encoder's layers, from the input up; all other weights are above. timm calls it.

        timm reads captured groups as the numbers of layers.
        """
        return {
            "stem": r"^stellar\.encoder\.(?:cls_token|pos_embed|sparse_tokens|patch_embed)",
            "blocks": [(r"^stellar\.encoder\.blocks\.(\d+)", None)],
        }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Prototypes):
            init.normal_(module.weight, std=1.0)
        elif isinstance(module, EmbeddingMemory):
            module.initialize()
        elif isinstance(module, SopHead) and module.mask_token is not None:
            init.zeros_(module.mask_token)

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
        if "baseline" in new:
            model.baseline.initialize()
        if "teacher" in new:
            model.copy_to_teacher()
        if new:
            logger.warning("%s has no %s: these parts start with new weights", name, ", ".join(new))


__all__ = ["StellarForPreTraining", "StellarPreTrainingOutput"]
