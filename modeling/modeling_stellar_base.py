"""What all STELLAR models share: initialization, loading that leaves nothing out, saving, pushing."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from timm.layers import LayerScale
from timm.models.vision_transformer import Block
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .atomic_write import write_atomically
from .configuration_stellar import StellarConfig
from .decoder_stellar import StellarDecoder
from .encoder_stellar import StellarEncoder
from .image_processing_stellar import StellarImageProcessor
from .maskgit_vqgan import MaskGitVQGANDecoder, MaskGitVQGANEncoder
from .model_card import model_card
from .position_code import FourierPositionCode
from .pretrained_names import convert_if_original, push_model, resolve_pretrained

TRANSFORMERS_LOGGER = "transformers.modeling_utils"


class _NoTable(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()


@contextmanager
def without_table() -> Iterator[None]:
    """Hold back transformers' table of missing and unexpected tensors."""
    logger, table = logging.getLogger(TRANSFORMERS_LOGGER), _NoTable()
    logger.addFilter(table)
    try:
        yield
    finally:
        logger.removeFilter(table)


def one_line(name: str, num_tensors: int, converted: bool, decodes: bool) -> str:
    """The report of a load that went well."""
    how = "converted from the original layout" if converted else "loaded"
    return f"{name}: all {num_tensors} tensors {how}; {'encodes and decodes' if decodes else 'features only'}"


# No `from __future__ import annotations` here: transformers reads the class annotation `config` at run time.


logger = logging.getLogger(__name__)

PRETRAINING_KEYS = [
    r"^clustering_head\.",
    r"^cls_clustering_head\.",
    r"^teacher\.",
    r"^tokenizer_encoder\.",
]
DECODING_KEYS = [r"^(stellar\.)?decoder\.", r"^(stellar\.)?tokenizer\."]


class StellarPreTrainedModel(PreTrainedModel):
    """Weights, initialization and loading shared by all STELLAR models."""

    config: StellarConfig
    base_model_prefix = "stellar"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    model_tags = ["stellar"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _no_split_modules = ["Block", "ResidualBlock"]
    _keep_in_fp32_modules_strict = ["position_code"]
    _can_record_outputs = {"hidden_states": Block}
    _keys_to_ignore_on_load_unexpected = PRETRAINING_KEYS
    _base_weights_only = False

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
                module.gradient_checkpointing = enable  # what transformers asks for

    def freeze_untrained(self) -> None:
        """Take gradients from what is never trained: the tokenizer."""
        for module in self.modules():
            if isinstance(module, MaskGitVQGANEncoder | MaskGitVQGANDecoder):
                module.requires_grad_(False)

    def get_input_embeddings(self) -> None:
        """None: images have no embedding table."""
        return None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        decoder: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a model by name ("stellar-b16"), from a folder, a Hub repository, or one original checkpoint file.

        Every tensor must be there and fit; nothing is left at a random value. A published name is fetched through the
        Hub client and its cache, and converted in memory; its tokenizer is fetched unless `decoder=False`.

        Args:
            pretrained_model_name_or_path: A name of this library, a folder, a repository id or an original file. A
                folder of the same name wins.
            *model_args: Passed on to the model.
            decoder: False builds and reads the encoder alone; True insists on a decoder; None takes the
                checkpoint as it is.
            **kwargs: As for `transformers.PreTrainedModel.from_pretrained`: `dtype` (published names load as float32
                unless told otherwise), `device_map`, `revision`, `token`, `cache_dir`, `local_files_only`,
                `output_loading_info`, ... For original files also `vqgan`, `num_attention_heads` and
                `decoder_num_attention_heads`, as for `stellar_hub.conversion.load_original`.

        Raises:
            OSError: if the checkpoint is not found.
            ValueError: if its file is damaged, or tensors are missing, unexpected or misshapen: each is named.
        """
        name = resolve_pretrained(pretrained_model_name_or_path)
        original = convert_if_original(name, decoder, cls._base_weights_only, kwargs)
        if original is not None:
            config, state_dict, kwargs = original
            name, decoder = None, None
            kwargs = {"dtype": torch.float32} | kwargs | {"config": config, "state_dict": state_dict}
        elif name is not None and os.path.isfile(name):
            raise OSError(f"{name} is a file, and no checkpoint; pass the folder that holds the model")
        # Nothing is unpickled unless it is asked for.
        kwargs.setdefault("use_safetensors", True)
        want_info = kwargs.pop("output_loading_info", False)
        tolerate_shapes = kwargs.pop("ignore_mismatched_sizes", False)
        if decoder is not None:
            kwargs = cls._with_decoder(name, decoder, kwargs)
        try:
            with without_table():
                loaded: Any = super().from_pretrained(
                    name, *model_args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
                )
        except SafetensorError as error:
            raise ValueError(
                f"the weights of {str(pretrained_model_name_or_path)!r} are damaged or cut short: {error}"
            ) from error
        model, info = loaded
        model.config.name_or_path = str(pretrained_model_name_or_path or "")
        cls._check_loading(model, info, str(pretrained_model_name_or_path), tolerate_shapes)
        model.freeze_untrained()  # loading makes new parameters, which would be trainable
        report_name = model.config.name_or_path or cls.__name__
        logger.info(one_line(report_name, len(model.state_dict()), original is not None, model.config.use_decoder))
        return (model, info) if want_info else model

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
        lines = [f"missing: {key}" for key in missing]
        lines += [f"unexpected: {key}" for key in sorted(info["unexpected_keys"])]
        if not tolerate_shapes:
            lines += [
                f"misshapen: {key} is {tuple(found)}, the model has {tuple(wanted)}"
                for key, found, wanted in sorted(info["mismatched_keys"])
            ]
        if lines:
            decoding = sorted(key for key in model.state_dict() if re.match("|".join(DECODING_KEYS), key))
            hint = ""
            if decoding and missing == decoding:
                hint = "\nThe checkpoint holds the encoder alone: load it with decoder=False."
            raise ValueError(f"the weights of {name!r} do not fit the model:\n  " + "\n  ".join(lines) + hint)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *args: Any,
        license: str | None = None,
        name: str | None = None,
        base_model: str | None = None,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save weights (safetensors), configuration, image processor, code and model card.

        A processor that already lies in the folder is kept, and so is a card, unless `license` or `metrics` are given.

        Args:
            save_directory: Folder; created if it does not exist.
            *args: As for `transformers.PreTrainedModel.save_pretrained`.
            license: Of the weights, as the Hub spells it; None leaves it open in the card.
            name: What the card calls the model; None takes the folder's name.
            base_model: Repository the weights derive from, for the card.
            metrics: Numbers for the card.
            **kwargs: As for `transformers.PreTrainedModel.save_pretrained`; `push_to_hub` is a method of its own.

        Raises:
            ValueError: if `push_to_hub=True` is passed.
        """
        if kwargs.pop("push_to_hub", False):
            raise ValueError("save_pretrained(push_to_hub=True) is not supported: call push_to_hub(repo_id, license=)")
        super().save_pretrained(save_directory, *args, **kwargs)
        folder = Path(save_directory)
        if not (folder / "preprocessor_config.json").exists():
            StellarImageProcessor.from_config(self.config).save_pretrained(folder)
        card = folder / "README.md"
        if license or metrics or not card.exists():
            heading = name or folder.absolute().name
            text = model_card(self.config, heading, license=license, base_model=base_model, metrics=metrics)
            write_atomically(card, text.encode())

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
        """Save the model with processor, code and card to a Hub repository, in one commit.

        Args:
            repo_id: "user/name"; created if it does not exist.
            license: Of the weights, as the Hub spells it ("mit"); None takes that of what the model was loaded from.
            private: For a new repository; None leaves it to the Hub.
            token: As for the Hub client.
            revision: Branch.
            commit_message: Its message.
            create_pr: Whether to open a pull request instead.
            **kwargs: `replace=True` overwrites a repository that holds something else.

        Returns:
            The commit's address.

        Raises:
            ValueError: if no license is given or on record, or the repository holds something else.
            PermissionError: if the Hub refuses.
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
