"""Configuration of STELLAR: encoder, factorization, decoder and tokenizer in one flat, strict dataclass."""

# No `from __future__ import annotations` here: string annotations switch the validation of `@strict` off.
import os
from pathlib import Path
from typing import Any, Literal, Self

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from .config_checks import (
    FIELDS_OF_CLASSIFIERS,
    NO_ATTENTIONS,
    OPTIONS_OF_READING,
    OPTIONS_OF_SAVING,
    check_code_map,
    check_entries,
    check_numbers,
    check_sizes,
    plain_errors,
    read_json_object,
    refuse_empty_folder,
    refuse_unknown_fields,
    without_unknown_fields,
)
from .input_checks import nearest_multiples
from .labels import resolve_labels, take_labels
from .objective_checks import (
    FIELDS_OF_OBJECTIVES,
    check_baseline_switches,
    check_sop_numbers,
    check_sop_switches,
)
from .pretrained_names import check_is_name, published_config, resolve_pretrained
from .safe_paths import refuse_file, regular_file
from .safe_text import one_line, refuse_keywords


@plain_errors
@strict
class StellarConfig(PreTrainedConfig):
    """The configuration of a [`StellarModel`]. Its defaults are those of the published stellar-b16.

    STELLAR (arXiv 2602.01905) writes an image as a low-rank product `Z = L S` of localization and semantics.

    Args:
        hidden_size: Width `d` of the encoder and of each sparse token.
        num_hidden_layers: Number of encoder blocks.
        num_attention_heads: Number of attention heads of an encoder block; it divides `hidden_size`.
        intermediate_size: Width of an encoder block's MLP; None means `4 * hidden_size`.
        image_size: Side in pixels of the square image whose position embeddings are stored. For other sizes the model
            resamples them.
        patch_size: Side of a patch in pixels; it divides `image_size`.
        num_channels: Number of channels of an image; 3, because the normalization inside the model is for RGB.
        layer_norm_eps: Epsilon of every LayerNorm in encoder and decoder.
        layer_scale_init_value: Initial layer scale of the encoder's blocks, as in DINOv2; None means no layer scale.
        initializer_range: Standard deviation of newly initialized weights.
        num_sparse_tokens: Number `r` of sparse tokens, which is the rank of the factorization.
        spatial_temp: Temperature of the softmax over tokens that gives `L` (tau in the paper, 0.06).
        use_decoder: Whether the model has a decoder; `from_pretrained(..., decoder=False)` turns it off.
        decoder_hidden_size: Width of the decoder; even, because its position code is pairs of sine and cosine.
        decoder_num_hidden_layers: Number of decoder blocks.
        decoder_num_attention_heads: Number of attention heads of a decoder block; it divides `decoder_hidden_size`.
        decoder_intermediate_size: Width of a decoder block's MLP; None means `4 * decoder_hidden_size`.
        reconstruction_head: Kind of head. "vq" predicts codes of the MaskGIT-VQGAN, "pixel" predicts RGB patches.
        pixel_head_overlap: Whether the patches that a "pixel" head predicts reach half a patch into their neighbours,
            which sum up there. It hides the borders of patches, and needs an even `patch_size`. Published models do not
            have it, and "vq" heads do not use it.
        use_tokenizer: Whether a "vq" model has the VQGAN's pixel decoder, which `decode` needs.
        codebook_size: Number of codes of the VQGAN.
        tokenizer_hidden_channels: Number of channels of the VQGAN's first level.
        tokenizer_channel_mult: Factor on the channels for each level of the VQGAN, which upsamples by
            `2 ** (levels - 1)`.
        tokenizer_num_res_blocks: Number of residual blocks per level of the VQGAN.
        tokenizer_embed_dim: Number of values in a code.
        num_prototypes: Number `K` of prototypes of each clustering head (this and all following are for pretraining).
        prototype_dim: Width of a prototype, and of the embeddings that are compared.
        prototype_hidden_size: Hidden width of the heads' MLP.
        teacher_momentum: Momentum of the EMA teacher; None means no teacher.
        teacher_momentum_schedule: Course of the momentum: "constant", or "cosine" from `teacher_momentum` to 1.
        reconstruction_weight: Weight of the reconstruction loss; None means 0.05 for "vq" and 10 for "pixel" heads, 0
            switches reconstruction off.
        koleo_weight: Weight of KoLeo, which spreads the tokens of an image; 0 switches it off.
        mask_ratio: Share of the patches that masked views hide; None switches masked views off.
        mask_strategy: Choice of the patches that masked views keep: "uniform" is random, "focal" is around a random
            centre with `focal_probability` and else uniform, "block" is one square.
        focal_probability: Share of masked views that are focal.
        use_matching: Whether optimal transport matches tokens to target tokens; otherwise their order does.
        nested_dropout: Share of the images of which training keeps only the first few tokens, in [0, 1]. Above 0, the
            first tokens learn to hold the most, and `encode(..., num_tokens=k)` decodes well for every `k`.
        use_cls_head: Whether cls has a clustering head of its own, which local views need.
        use_local_views: Whether small local views are encoded.
        use_global_align: Whether a second global view is encoded unmasked, and each view predicts the other.
        sinkhorn_temp: Temperature of the scores that assign targets to prototypes.
        sinkhorn_num_iters: Number of iterations of the assignment.
        sinkhorn_scale: Power of the assignment's column sums; below 1 prototypes are balanced less.
        prototype_temp: Temperature of the predicted distribution over prototypes.
        matching_epsilon: Weight of the entropy in the matching of tokens.
        matching_num_iters: Number of iterations of the matching.
        token_objective: What tokens and cls are compared with. "prototypes" are learned clusters, as in STELLAR. "sop"
            compares them with a memory of the teacher's past embeddings instead (SOP, arXiv 2505.21533). "sop_patches"
            is SOP alone, with patches in the place of sparse tokens and nothing else. Both need `teacher_momentum`;
            only they use the settings that begin with "sop". "none" compares nothing, for a baseline alone.
        sop_memory_size: Number of the teacher's past cls embeddings in the memory.
        sop_num_tasks: Number of times that anchors are drawn from it in each step.
        sop_num_anchors: Number of anchors of a draw; half of them are kept.
        sop_num_supports: Number of embeddings that stand for an anchor: its nearest neighbours, and itself.
        sop_anchor_choice: Which half of the anchors is kept: "uniform" draws it with equal probabilities, "variation"
            prefers anchors whose neighbours are equally near.
        sop_token_memory_size: Number of the teacher's past embeddings of tokens, or patches, in their memory.
        sop_num_token_anchors: Number of anchors that are drawn from it in each step; all are kept.
        sop_num_token_supports: Number of embeddings that stand for one of these anchors.
        sop_smoothing: Share of an anchor's own label that goes to the other anchors.
        sop_temp: Temperature of the student's distributions over the anchors.
        sop_teacher_temp: Temperature of the teacher's.
        baseline_loss: Loss of lightly that is added, for comparison: "barlow_twins", "swav", "dino" (which needs
            `teacher_momentum`) or "lejepa"; None for none. Its head has the sizes of a clustering head.
        baseline_feature: What it compares: "pooled" is the mean of the sparse tokens, "cls" the global token.
        baseline_weight: Weight of this loss.
        classifier_pooling: What a classifier reads: "mean" of the sparse tokens, "cls", or "both" side by side.
        classifier_dropout: Probability with which a classifier drops one of these numbers in training, in [0, 1).

    A classifier also has transformers' `num_labels`, `id2label`, `label2id` and `problem_type`.

    Raises:
        TypeError: if a field does not exist.
        ValueError: if a value has the wrong type or is out of range, if values do not fit each other, or if the
            configuration read is of another model type. Fields that are assigned later are checked together when a
            model is built.

    Example:
    ```python
    >>> from stellar_hub import StellarConfig, StellarModel

    >>> config = StellarConfig(hidden_size=192, num_hidden_layers=4, num_attention_heads=3)
    >>> model = StellarModel(config)
    >>> model.config.intermediate_size
    768

    ```
    """

    model_type = "stellar"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    layer_norm_eps: float = 1e-12
    layer_scale_init_value: float | int | None = None
    initializer_range: float = 0.02

    num_sparse_tokens: int = 16
    spatial_temp: float | int = 0.06

    use_decoder: bool = True
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 6
    decoder_num_attention_heads: int = 8
    decoder_intermediate_size: int | None = None
    reconstruction_head: Literal["vq", "pixel"] = "vq"
    pixel_head_overlap: bool = False

    use_tokenizer: bool = True
    codebook_size: int = 1024
    tokenizer_hidden_channels: int = 128
    tokenizer_channel_mult: list[int] | tuple[int, ...] = (1, 1, 2, 2, 4)
    tokenizer_num_res_blocks: int = 2
    tokenizer_embed_dim: int = 256

    num_prototypes: int = 16384
    prototype_dim: int = 256
    prototype_hidden_size: int = 2048
    teacher_momentum: float | int | None = None
    teacher_momentum_schedule: Literal["constant", "cosine"] = "constant"
    reconstruction_weight: float | int | None = None
    koleo_weight: float | int = 0.1
    mask_ratio: float | int | None = 0.8
    mask_strategy: Literal["focal", "uniform", "block"] = "focal"
    focal_probability: float | int = 0.5
    use_matching: bool = True
    nested_dropout: float | int = 0.0
    use_cls_head: bool = True
    use_local_views: bool = True
    use_global_align: bool = False
    sinkhorn_temp: float | int = 0.06
    sinkhorn_num_iters: int = 3
    sinkhorn_scale: float | int = 1.0
    prototype_temp: float | int = 0.12
    matching_epsilon: float | int = 0.1
    matching_num_iters: int = 5
    token_objective: Literal["prototypes", "sop", "sop_patches", "none"] = "prototypes"
    sop_memory_size: int = 65536
    sop_num_tasks: int = 4
    sop_num_anchors: int = 64
    sop_num_supports: int = 9
    sop_anchor_choice: Literal["uniform", "variation"] = "uniform"
    sop_token_memory_size: int = 8192
    sop_num_token_anchors: int = 512
    sop_num_token_supports: int = 1
    sop_smoothing: float | int = 0.1
    sop_temp: float | int = 0.1
    sop_teacher_temp: float | int = 0.04
    baseline_loss: Literal["barlow_twins", "swav", "dino", "lejepa"] | None = None
    baseline_feature: Literal["pooled", "cls"] = "pooled"
    baseline_weight: float | int = 1.0

    classifier_pooling: Literal["mean", "cls", "both"] = "mean"
    classifier_dropout: float | int = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_unknown_fields(kwargs, type(self))
        num_labels = kwargs.pop("num_labels", None)
        self.id2label, self.label2id = resolve_labels(num_labels, self.id2label, self.label2id)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.decoder_intermediate_size is None:
            self.decoder_intermediate_size = 4 * self.decoder_hidden_size
        self.tokenizer_channel_mult = list(self.tokenizer_channel_mult)
        super().__post_init__(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Loads a configuration by name ("stellar-tiny"), from a folder, or from a Hub repository.

        A folder of the same name is preferred. Keywords change fields, as in `num_sparse_tokens=8`.

        Raises:
            OSError: if the configuration is not found.
            TypeError: if a keyword is neither a field nor an option.
            ValueError: if the file cannot be used; the message is one line with the key, the value and what is allowed.
        """
        check_is_name(pretrained_model_name_or_path)
        fields = published_config(pretrained_model_name_or_path)
        if fields is not None:
            return cls.from_dict(fields, **kwargs)
        file = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "", "config.json")
        refuse_empty_folder(file.parent)  # transformers would take the defaults
        if file.exists():
            regular_file(file)  # transformers passes a pipe over, and would take the defaults
        # Not through super(): in transformers 5.17 its `from_pretrained` drops the token.
        config_dict, unused = cls.get_config_dict(resolve_pretrained(pretrained_model_name_or_path), **kwargs)
        try:
            return cls.from_dict(config_dict, **unused)
        except ValueError as error:
            raise ValueError(f"the configuration of {one_line(pretrained_model_name_or_path)}: {error}") from error

    def to_diff_dict(self) -> dict[str, Any]:
        """Returns the settings that are saved; those that published models lack only where they are not the default."""
        content: dict[str, Any] = super().to_diff_dict()
        own = (*FIELDS_OF_OBJECTIVES, *FIELDS_OF_CLASSIFIERS, "pixel_head_overlap")
        is_default = {name: content.get(name) == getattr(type(self), name) for name in own}
        return {name: value for name, value in content.items() if not is_default.get(name)}

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves the configuration; `auto_map` keeps no code of the repository that it was loaded from.

        Raises:
            NotADirectoryError: if `save_directory` is a file.
            TypeError: if a keyword does not exist.
        """
        refuse_file(save_directory)
        refuse_keywords("save_pretrained of a configuration", kwargs, OPTIONS_OF_SAVING)
        code_map = getattr(self, "auto_map", None)
        if isinstance(code_map, dict):
            self.auto_map = {name: place for name, place in code_map.items() if "--" not in str(place)}
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        content: dict[str, Any] = cls._decode_special_floats(read_json_object(json_file))
        check_code_map(content)  # here, because transformers writes the names of repositories into it afterwards
        for origin in ("name_or_path", "_name_or_path"):  # where the writer had it from; ours is what the user names
            content.pop(origin, None)
        return content

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Builds a configuration from a dictionary; fields that do not exist are passed over with a warning.

        Args:
            config_dict: Fields by name, such as those of a file.
            **kwargs: Fields to change.

        Raises:
            TypeError: if a keyword is neither a field nor an option of reading.
            ValueError: if the dictionary is the configuration of another model type, or has a wrong value.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"model_type must be {cls.model_type!r}, got {one_line(repr(model_type), 100)}: "
                "load this model with transformers.AutoModel, or name a STELLAR checkpoint"
            )
        if "models" in config_dict and "model_type" not in config_dict:
            raise ValueError(
                "this config.json lists original STELLAR files and is not a transformers configuration: "
                f"load one of its models by name, {one_line(', '.join(sorted(map(str, config_dict['models']))))}"
            )
        check_entries(config_dict, cls)
        returns_unused = kwargs.pop("return_unused_kwargs", False)
        known = without_unknown_fields(config_dict, cls)
        try:
            known = take_labels(kwargs, known)
            config, unused = super().from_dict(known, return_unused_kwargs=True, **kwargs)
            config.validate()  # the keywords were assigned one by one
        except StrictDataclassError as error:
            raise ValueError(one_line(error.__cause__ or error)) from error
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"it cannot be used: {one_line(error)}") from error
        if returns_unused:
            return config, unused  # type: ignore[return-value]  # as in transformers
        refuse_unknown_fields((name for name in unused if name not in OPTIONS_OF_READING), cls)
        return config

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike) -> Self:
        """Builds a configuration from a file, as `from_dict` does from its content."""
        return cls.from_dict(cls._dict_from_json_file(json_file))

    def validate_positive_sizes(self) -> None:
        """Raises ValueError unless counts, sizes, temperatures and epsilons are positive and within the limits."""
        check_numbers(self)
        check_sizes(self)

    def validate_encoder(self) -> None:
        """Raises ValueError unless the encoder's sizes fit each other."""
        self.validate_positive_sizes()  # validators run in the order of their names, and the following lines divide
        if self.num_channels != 3:
            raise ValueError(f"num_channels must be 3 (the normalization is for RGB), got {self.num_channels}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads {self.num_attention_heads}, "
                f"got {self.hidden_size}"
            )
        if self.image_size % self.patch_size:
            nearest = " or ".join(map(str, nearest_multiples(self.image_size, self.patch_size)))
            raise ValueError(
                f"image_size must be a multiple of patch_size {self.patch_size}, got {self.image_size}: use {nearest}"
            )

    def validate_decoder(self) -> None:
        """Raises ValueError unless the sizes of decoder and tokenizer fit each other."""
        self.validate_positive_sizes()
        if self.decoder_hidden_size % self.decoder_num_attention_heads:
            raise ValueError(
                f"decoder_hidden_size must be a multiple of decoder_num_attention_heads "
                f"{self.decoder_num_attention_heads}, got {self.decoder_hidden_size}"
            )
        if self.decoder_hidden_size % 2:
            raise ValueError(f"decoder_hidden_size must be even, got {self.decoder_hidden_size}")
        if self.pixel_head_overlap and self.reconstruction_head == "pixel" and self.patch_size % 2:
            raise ValueError(f"pixel_head_overlap=True needs an even patch_size, got {self.patch_size}")
        if self.tokenizer_hidden_channels % 32:
            raise ValueError(
                "tokenizer_hidden_channels must be a multiple of 32, the number of groups of its GroupNorm, "
                f"got {self.tokenizer_hidden_channels}"
            )

    def validate_output_attentions(self) -> None:
        """Raises ValueError if the configuration asks for attention maps, which the model does not compute."""
        if self.output_attentions:
            raise ValueError(NO_ATTENTIONS)

    def validate_teacher(self) -> None:
        """Raises ValueError unless the EMA momentum is None or in [0, 1]."""
        if self.teacher_momentum is not None and not 0 <= self.teacher_momentum <= 1:
            raise ValueError(f"teacher_momentum must be None or in [0, 1], got {self.teacher_momentum}")

    def validate_pretraining(self) -> None:
        """Raises ValueError unless switches and weights of pretraining are in range and fit each other."""
        if self.mask_ratio is not None and not 0 <= self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must be None (no masked views) or in [0, 1), got {self.mask_ratio}")
        if not 0 <= self.focal_probability <= 1:
            raise ValueError(f"focal_probability must be in [0, 1], got {self.focal_probability}")
        if not 0 <= self.nested_dropout <= 1:
            raise ValueError(f"nested_dropout must be in [0, 1], got {self.nested_dropout}")
        if self.nested_dropout > 0 and self.num_sparse_tokens < 2:
            raise ValueError("nested_dropout needs num_sparse_tokens of at least 2, got 1: set nested_dropout=0")
        for name in ("reconstruction_weight", "koleo_weight"):
            value = getattr(self, name)
            if value is not None and not value >= 0:  # `not`, because NaN is neither
                raise ValueError(f"{name} must be at least 0, got {value}")
        check_sop_numbers(self)
        if self.token_objective.startswith("sop"):
            check_sop_switches(self)
        check_baseline_switches(self)
        if self.use_local_views and not self.use_cls_head and self.token_objective != "none":
            raise ValueError(
                "use_local_views=True needs use_cls_head=True, because local views are compared by their cls alone: "
                "set use_local_views=False"
            )


__all__ = ["StellarConfig"]
