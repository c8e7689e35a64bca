"""The base class of all STELLAR models: initialization, strict loading, saving, pushing."""

# No `from __future__ import annotations` here: transformers reads the class annotation `config` at run time.

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, overload

import torch
from safetensors import SafetensorError
from timm.layers import LayerScale
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .atomic_write import errors_name
from .card_files import carry_card
from .configuration_stellar import StellarConfig
from .decoder_stellar import FourierPositionCode, StellarDecoder
from .encoder_stellar import StellarEncoder
from .image_processing_stellar import StellarImageProcessor
from .loading import (
    Loading,
    check_arguments,
    check_before_loading,
    check_source,
    dtype_to_build,
    execution_device,
    is_set,
    loading,
    local_contexts,
    readable,
    refuse_keyword,
    refuse_missing_decoder,
    size_hint,
    success_line,
    without_load_report,
)
from .maskgit_vqgan import MaskGitVQGANDecoder, MaskGitVQGANEncoder
from .model_card import write_card
from .pretrained_names import check_is_name, convert_if_original, push_model, resolve_pretrained
from .safe_text import one_line
from .saved_folder import PROCESSOR, check_saving, filled_folder, keeps_processor, sizes_in
from .weight_files import check_finite, problems_by_kind

logger = logging.getLogger(__name__)

Metrics: TypeAlias = Mapping[str, float]  # here, because the class has a method `float`

PRETRAINING_KEYS = [
    r"^clustering_head\.",
    r"^cls_clustering_head\.",
    r"^teacher\.",
    r"^tokenizer_encoder\.",
    r"^baseline\.",
]


class StellarPreTrainedModel(PreTrainedModel):
    """The base class of all STELLAR models, with their initialization, loading and saving."""

    config: StellarConfig
    base_model_prefix = "stellar"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    model_tags = ["stellar"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _no_split_modules = ["Block", "ResidualBlock"]  # trf-ignore: TRF022  # Block is timm's
    _keep_in_fp32_modules_strict = ["position_code"]
    _keys_to_ignore_on_load_unexpected = PRETRAINING_KEYS
    _base_weights_only = False
    _card_folder: str | None = None  # the folder that the model was loaded from; it is in no file

    @property
    def device(self) -> torch.device:
        """The device that images go to: that of the weights, or that of the computation if weights are offloaded."""
        device: torch.device = super().device
        return device if device.type != "meta" else execution_device(self) or device

    if TYPE_CHECKING:  # transformers hides the types of these

        def eval(self) -> Self:
            """Sets the model to evaluation, as `torch.nn.Module.eval` does."""

        def train(self, mode: bool = True) -> Self:
            """Sets the model to training or evaluation, as `torch.nn.Module.train` does."""

        def requires_grad_(self, requires_grad: bool = True) -> Self:
            """Switches gradients of all weights, as `torch.nn.Module.requires_grad_` does."""

        def to(self, *args: Any, **kwargs: Any) -> Self:
            """Moves the model, as `torch.nn.Module.to` does."""

        def cuda(self, *args: Any, **kwargs: Any) -> Self:
            """Moves the model to a GPU."""

        def cpu(self) -> Self:
            """Moves the model to the CPU."""

        def float(self) -> Self:
            """Converts the model to float32."""

        def half(self) -> Self:
            """Converts the model to float16."""

        def bfloat16(self) -> Self:
            """Converts the model to bfloat16."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, StellarEncoder):
            init.trunc_normal_(module.pos_embed, std=std)
            init.trunc_normal_(module.cls_token, std=std)
            init.normal_(module.sparse_tokens, std=self.config.hidden_size**-0.5)
        elif isinstance(module, FourierPositionCode):
            init.normal_(module.frequencies, std=1.0)
        elif isinstance(module, LayerScale):
            init.constant_(module.gamma, float(self.config.layer_scale_init_value or 0))

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        for module in self.modules():
            if isinstance(module, StellarEncoder | StellarDecoder):
                module.grad_checkpointing = enable
                module.gradient_checkpointing = enable  # transformers reads this name

    def freeze_untrained(self) -> None:
        """Turns gradients off for the tokenizer, which is never trained."""
        for module in self.modules():
            if isinstance(module, MaskGitVQGANEncoder | MaskGitVQGANDecoder):
                module.requires_grad_(False)

    def get_input_embeddings(self) -> None:
        """Returns None, because images have no embedding table."""
        return None

    def post_init(self) -> None:
        """Finishes the construction, as every model does last; inside `from_pretrained` it sets the dtype."""
        super().post_init()
        dtype = dtype_to_build.get()
        if dtype is not None:
            nn.Module.to(self, dtype)

    @classmethod
    def get_init_context(cls, dtype: torch.dtype, *args: Any, **kwargs: Any) -> list[Any]:
        """Returns the contexts in which `from_pretrained` builds a model, without those that other threads see."""
        return local_contexts(super().get_init_context(dtype, *args, **kwargs), dtype)

    @staticmethod
    def _load_pretrained_model(
        model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        check_before_loading(model, state_dict, checkpoint_files, load_config)
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, load_config, *args, **kwargs)

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        decoder: bool | None = None,
        output_loading_info: Literal[False] = False,
        **kwargs: Any,
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        decoder: bool | None = None,
        output_loading_info: Literal[True],
        **kwargs: Any,
    ) -> tuple[Self, dict[str, Any]]: ...

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        decoder: bool | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Loads a model by name ("stellar-b16"), from a folder, a Hub repository, or one original checkpoint file.

        Every tensor must exist and fit, so that no weight stays at a random value. A published name is downloaded into
        the Hub client's cache and converted in memory, with its tokenizer unless `decoder=False`.

        Args:
            pretrained_model_name_or_path: A name that `list_models()` returns, a folder, a repository id, or an
                original file. A folder of the same name is preferred.
            *model_args: Positional arguments of the model's constructor.
            decoder: False builds and reads the encoder alone. True raises an error if the checkpoint has no decoder.
                None builds what the checkpoint has.
            output_loading_info: Whether to return a pair: the model, and transformers' record of the tensors.
            **kwargs: Options of `transformers.PreTrainedModel.from_pretrained`: `dtype` (the default is float32 for
                published names), `device_map`, `revision`, `token`, `cache_dir`, `local_files_only`, ... For original
                files also `vqgan`, `num_attention_heads` and `decoder_num_attention_heads`, as for
                `stellar_hub.conversion.load_original`. Fields of the configuration change it.

        Raises:
            OSError: if the checkpoint is not found.
            TypeError: if a keyword is neither an option nor a field of the configuration, or `decoder` is no bool.
            ValueError: if a file is damaged, or tensors are missing, unexpected, have the wrong shape or type, or are
                NaN or infinite; it names them. Also if a file leads out of the model's folder, or nothing is named.
        """
        if pretrained_model_name_or_path is not None or kwargs.get("state_dict") is None:
            check_is_name(pretrained_model_name_or_path)
        check_arguments(decoder, kwargs)
        name = resolve_pretrained(pretrained_model_name_or_path)
        original = convert_if_original(name, decoder, cls._base_weights_only, kwargs)
        if original is not None:
            config, state_dict, kwargs = original
            name, decoder = None, None
            for field in [key for key in kwargs if key in config.__dataclass_fields__ and key != "dtype"]:
                setattr(config, field, kwargs.pop(field))
            kwargs = {"dtype": torch.float32} | kwargs | {"config": config, "state_dict": state_dict}
        elif name is not None and os.path.isfile(name):
            raise OSError(f"{name} is a file, but not a checkpoint: pass the folder of the model")
        # Pickled files are read only if the caller says so.
        kwargs.setdefault("use_safetensors", True)
        tolerate_shapes = kwargs.pop("ignore_mismatched_sizes", False)
        subject = one_line(repr(str(pretrained_model_name_or_path or "the checkpoint")))
        check_source(name, kwargs)
        if decoder is not None:
            kwargs = cls._with_decoder(name, decoder, kwargs)
        strict = not tolerate_shapes and kwargs.get("key_mapping") is None
        try:
            with without_load_report(), is_set(loading, Loading(subject, strict)), readable(name) as source:
                loaded: Any = super().from_pretrained(
                    source, *model_args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
                )
        except TypeError as error:
            refuse_keyword(error, kwargs, StellarConfig.__dataclass_fields__)
            raise
        except SafetensorError as error:
            raise ValueError(f"the weights of {subject} are damaged or cut short: {one_line(error)}") from error
        model, info = loaded
        model.config.name_or_path = str(pretrained_model_name_or_path or "")
        if name is not None and os.path.isdir(name):
            model._card_folder = os.path.abspath(os.path.join(name, kwargs.get("subfolder") or ""))
        cls._check_loading(model, info, subject, tolerate_shapes)
        state = model.state_dict()
        check_finite(state, f"the weights of {subject}")
        model.freeze_untrained()  # loading makes new parameters, which would be trainable
        report_name = model.config.name_or_path or cls.__name__
        logger.info(success_line(report_name, len(state), original is not None, model.config.use_decoder))
        return (model, info) if output_loading_info else model

    @classmethod
    def _with_decoder(cls, name: str | os.PathLike | None, decoder: bool, kwargs: dict[str, Any]) -> dict[str, Any]:
        config = kwargs.get("config")
        if config is None:
            return kwargs | {"use_decoder": decoder}
        if isinstance(config, str | os.PathLike):
            config = StellarConfig.from_pretrained(config)
        changed = type(config).from_dict(config.to_dict())
        changed.use_decoder = decoder
        return kwargs | {"config": changed}

    @classmethod
    def _check_loading(cls, model: PreTrainedModel, info: dict[str, Any], name: str, tolerate_shapes: bool) -> None:
        missing = sorted(info["missing_keys"])
        if not info["mismatched_keys"] and not info["unexpected_keys"]:
            refuse_missing_decoder(model.state_dict(), missing, name)
        shapes = sorted(info["mismatched_keys"])
        if shapes and tolerate_shapes:
            logger.warning(
                "%s: tensors of another shape than in the model start with new weights (%d, such as %s): train the "
                "model before you use it",
                *(name, len(shapes), one_line(shapes[0][0])),
            )
            shapes = []
        problems = problems_by_kind(
            {
                "missing": missing,
                "unexpected": sorted(info["unexpected_keys"]),
                "wrong shape": [f"{key} is {tuple(found)}, the model has {tuple(has)}" for key, found, has in shapes],
            }
        )
        if problems:
            raise ValueError(
                f"the weights of {name} do not fit the model: {problems}{size_hint(key for key, _, _ in shapes)}"
            )

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *args: Any,
        license: str | None = None,
        name: str | None = None,
        base_model: str | None = None,
        metrics: Metrics | None = None,
        **kwargs: Any,
    ) -> None:
        """Saves weights (safetensors), configuration, image processor, code and model card.

        The files replace those of the folder when all of them are written; if the disk is full, the folder stays as it
        was. Weights of an earlier model are removed. If the folder has a processor for this model's image and patch
        size, it is kept. A card is kept too: only the sections and the lines of its head that this library wrote are
        renewed. Into a folder without a card goes that of the folder that the model was loaded from, with the images
        that it shows.

        Args:
            save_directory: Folder to write to; it is created if it does not exist.
            *args: Positional arguments of `transformers.PreTrainedModel.save_pretrained`.
            license: License of the weights as the Hub spells it, such as "mit"; None keeps the one in the card, or
                says in a new card that it is unknown.
            name: Name of the model in the card; None means the name in the card, or the folder's in a new card.
            base_model: Repository that the weights derive from, for the card.
            metrics: Names and values of measured numbers, for the card.
            **kwargs: Options of `transformers.PreTrainedModel.save_pretrained`, except `push_to_hub`.

        Raises:
            NotADirectoryError: if `save_directory` is a file.
            OSError: if a file cannot be written.
            TypeError: if a keyword does not exist, or `metrics` is not a dictionary of numbers.
            ValueError: if `push_to_hub=True` is passed, or the folder holds an adapter.
        """
        check_saving(kwargs, metrics)
        folder = Path(save_directory)
        before = sizes_in(folder)
        if kwargs.get("distributed_checkpoint"):  # all ranks write into the folder
            super().save_pretrained(folder, *args, **kwargs)
        else:
            with filled_folder(folder, kwargs.get("variant")) as unfinished:
                super().save_pretrained(unfinished, *args, **kwargs)
        if not keeps_processor(folder, before, sizes_in(folder)):
            with errors_name(folder / PROCESSOR):
                StellarImageProcessor.from_config(self.config).save_pretrained(folder)
        if self._card_folder is not None and not (folder / "README.md").exists():
            carry_card(self._card_folder, folder)
        write_card(folder, self.config, name=name, license=license, base_model=base_model, metrics=metrics)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload STELLAR model",
        create_pr: bool = False,
        **kwargs: Any,
    ) -> str:
        """Uploads the model with processor, code and card to a Hub repository, in one commit.

        Args:
            repo_id: Repository, such as "user/name"; it is created if it does not exist.
            license: License of the weights as the Hub spells it, such as "mit"; None means the license of the
                checkpoint that the model was loaded from, if it is known.
            private: Whether a new repository is private; None means the Hub's default.
            token: Access token; None or True means the one of `hf auth login`.
            revision: Branch to commit to; None means the main branch.
            commit_message: Message of the commit.
            create_pr: Whether to open a pull request instead of a commit to the branch.
            **kwargs: `replace=True` overwrites a repository that has other content, `dry_run=True` sends nothing.

        Returns:
            The address of the commit.

        Raises:
            TypeError: if a keyword does not exist.
            ValueError: if no license is given or known, or the repository has other content.
            PermissionError: if the Hub does not allow it.
            OSError: if the Hub cannot be reached.
        """
        return push_model(
            self,
            repo_id,
            license=license,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
            **kwargs,
        )


__all__ = ["StellarPreTrainedModel"]
