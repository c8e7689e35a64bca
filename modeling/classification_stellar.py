"""An image classifier: the STELLAR encoder, and a head on the mean of its sparse tokens, on cls, or on both."""

# No `from __future__ import annotations` here: transformers reads annotations at run time.
import copy
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .config_checks import check_before_building
from .configuration_stellar import StellarConfig
from .labels import resolve_labels
from .loading import DECODING_KEYS
from .modeling_stellar import StellarModel
from .modeling_stellar_base import PRETRAINING_KEYS, StellarPreTrainedModel
from .outputs import StellarModelOutput
from .safe_text import one_line
from .weight_files import listed

logger = logging.getLogger(__name__)

MethodT = TypeVar("MethodT", bound=Callable[..., Any])
_can_return_tuple: Callable[[MethodT], MethodT] = can_return_tuple  # with its type, which transformers does not say
_HEAD = "classifier."


class StellarClassificationHead(nn.Module):
    """A LayerNorm and a linear layer on pooled features.

    Args:
        config: The model's configuration; without classes there is no linear layer.
    """

    def __init__(self, config: StellarConfig):
        super().__init__()
        width = config.hidden_size * (2 if config.classifier_pooling == "both" else 1)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.linear = nn.Linear(width, config.num_labels) if config.num_labels else nn.Identity()

    def forward(self, pooled: Tensor) -> Tensor:
        """Computes logits `(B, C)` from pooled features `(B, width)`."""
        return self.linear(self.dropout(self.norm(pooled)))


class StellarForImageClassification(StellarPreTrainedModel):
    """A classifier of images. It has the encoder alone, without decoder and tokenizer.

    The head is a LayerNorm and a linear layer on what `config.classifier_pooling` names: "mean" of the sparse tokens,
    "cls", or "both" side by side. The configuration has the classes: `num_labels`, `id2label` and `label2id`.

    `L` does not decide the class, so its two projections get no gradients.

    Args:
        config: The architecture and the classes.

    Example:
    ```python
    >>> from stellar_hub import StellarForImageClassification, StellarImageProcessor

    >>> names = {0: "cat", 1: "bird", 2: "flower"}
    >>> classifier = StellarForImageClassification.from_pretrained("stellar-tiny", id2label=names)  # with a new head
    >>> processor = StellarImageProcessor.from_pretrained("stellar-tiny")
    >>> classifier(**processor("examples/images/cat.jpg", return_tensors="pt")).logits.shape
    torch.Size([1, 3])

    ```
    """

    _base_weights_only = True
    _keys_to_ignore_on_load_unexpected = [*PRETRAINING_KEYS, *DECODING_KEYS]

    def __init__(self, config: StellarConfig):
        if config.use_decoder:
            config = copy.deepcopy(config)
            config.use_decoder = False
        super().__init__(config)
        check_before_building(config)
        self.num_labels = config.num_labels
        self.stellar = StellarModel(config)
        self.classifier = StellarClassificationHead(config)
        self.post_init()
        self.freeze_untrained()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        decoder: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Loads a classifier, or the encoder of a model with a new head; a warning says so, as it must be trained.

        Args:
            pretrained_model_name_or_path: Folder or Hub repository of a classifier, or of a model, or a name that
                `list_models()` returns.
            *model_args: Positional arguments of the model's constructor.
            decoder: None or False. A classifier has no decoder.
            **kwargs: Options of `StellarModel.from_pretrained`, and fields of the configuration: `num_labels`,
                `id2label`, `classifier_pooling`, `classifier_dropout`, ... `ignore_mismatched_sizes=True` replaces the
                head of a classifier by a new one for other classes.

        Raises:
            OSError: if the checkpoint is not found.
            TypeError: if a keyword is neither an option nor a field of the configuration.
            ValueError: if a file is damaged, tensors do not fit, or the classes contradict each other; see
                `StellarModel.from_pretrained`.
        """
        if decoder:
            raise ValueError("a classifier has no decoder: load the model with StellarModel.from_pretrained to decode")
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, decoder=False, **kwargs)

    @classmethod
    def _check_loading(cls, model: Any, info: dict[str, Any], name: str, tolerate_shapes: bool) -> None:
        missing = set(info["missing_keys"])
        head = {key for key in model.state_dict() if key.startswith(_HEAD)}
        is_new = bool(head) and head <= missing
        info["missing_keys"] = missing - head if is_new else missing
        replaced = [key for key, _, _ in info["mismatched_keys"] if key.startswith(_HEAD)]
        if replaced and not tolerate_shapes:
            raise ValueError(
                f"the head of {name} is for other classes or another pooling ({listed(replaced)}): leave num_labels, "
                "id2label and classifier_pooling out to load it, or pass ignore_mismatched_sizes=True for a new head"
            )
        super()._check_loading(model, info, name, tolerate_shapes)
        model._needs_new_card = is_new or bool(replaced)
        if is_new:
            classes = listed(model.config.id2label.values()) or "none"
            logger.warning(
                "the head of StellarForImageClassification was not initialized from %s and is newly initialized, for "
                "%d classes (%s): train it before you use its answers",
                *(name, model.config.num_labels, one_line(classes, 200)),
            )

    def freeze_untrained(self) -> None:
        """Turns gradients off for the projections of `L`, on which the class does not depend."""
        super().freeze_untrained()
        self.stellar.localization.requires_grad_(False)

    if TYPE_CHECKING:

        def __call__(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ImageClassifierOutput:
            """Runs `forward`."""

    @_can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """Computes the logits of images, and the loss if labels are given.

        Args:
            pixel_values: RGB in [0, 1], `(B, 3, H, W)`, floats or uint8, of any size whose sides are multiples of the
                patch size.
            labels: Numbers of the classes, `(B,)` int64, where -100 counts for nothing. For a `problem_type` of
                "multi_label_classification" zeros and ones, `(B, C)` floats; for "regression" values, `(B, C)`.
            **kwargs: `output_hidden_states` and `return_dict`, as for `StellarModel`.

        Returns:
            transformers' `ImageClassifierOutput`: `loss`, or None without labels; `logits`, `(B, C)`; and
            `hidden_states`, if they are asked for.

        Raises:
            TypeError: if a keyword does not exist.
            ValueError: if shape or values are wrong, or labels are given to a model without classes.
        """
        if labels is not None and not self.config.num_labels:
            raise ValueError("the model has no classes to compare labels with: call reset_classifier(num_labels)")
        outputs = self.stellar(pixel_values, return_dict=True, **kwargs)
        logits = self.classifier(self._pool(outputs))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)

    def _pool(self, outputs: StellarModelOutput) -> Tensor:
        """Returns what the head reads, `(B, d)` or, for "both", `(B, 2 d)`."""
        parts = {"mean": [outputs.pooler_output], "cls": [outputs.cls_token]}
        both = [outputs.cls_token, outputs.pooler_output]
        # CODEPATH: a switch of the configuration, `classifier_pooling`.
        return torch.cat(parts.get(self.config.classifier_pooling, both), dim=-1)

    @property
    def num_features(self) -> int:
        """Width `d` of the tokens."""
        return self.config.hidden_size

    def get_classifier(self) -> nn.Module:
        """Returns the last linear layer, as timm's method of this name does."""
        return self.classifier.linear

    def reset_classifier(self, num_labels: int, id2label: Mapping[int, str] | Sequence[str] | None = None) -> None:
        """Replaces the head by a new one for other classes, on the same device, as timm's method of this name does.

        Args:
            num_labels: Number of classes; 0 leaves the linear layer out, so that the logits are normalized features.
            id2label: Names of the classes, by number or in their order; None names them "LABEL_0" and so on.

        Raises:
            TypeError: if the number is not a whole number.
            ValueError: if number and names do not fit each other.
        """
        names = dict(enumerate(id2label)) if isinstance(id2label, Sequence) else id2label
        self.config.id2label, self.config.label2id = resolve_labels(num_labels, names, None)
        self.num_labels = num_labels
        weight = self.classifier.norm.weight
        head = StellarClassificationHead(self.config)
        for module in head.modules():
            self._init_weights(module)
        self.classifier = head.to(weight.device, weight.dtype).train(self.training)
        self._needs_new_card = True

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters of two or more dimensions without weight decay: tokens, positions. timm calls it."""
        return {f"stellar.encoder.{name}" for name in ("cls_token", "sparse_tokens", "pos_embed")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns patterns of the encoder's layers, from the input up; the head is above. timm calls it.

        timm reads captured groups as the numbers of layers.
        """
        encoder = r"^stellar\.encoder\."
        return {
            "stem": encoder + r"(?:cls_token|pos_embed|patch_embed|sparse_tokens)",
            "blocks": [(encoder + r"blocks\.(\d+)", None), (encoder + r"norm", (99999,))],
        }

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves the classifier with its image processor, code and card; see `StellarModel.save_pretrained`.

        The card names the head and the classes. `StellarModel.from_pretrained` loads the encoder from the folder.
        """
        if self._auto_class is not None:  # the code of the encoder goes along
            others = getattr(self.config, "auto_map", None) or {}
            self.config.auto_map = {**others, "AutoModel": "modeling_stellar.StellarModel"}
        super().save_pretrained(save_directory, *args, **kwargs)


__all__ = ["StellarForImageClassification"]
