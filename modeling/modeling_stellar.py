"""The STELLAR model: `encode` to sparse tokens and their places, `decode` back to pixels.

Paper: "STELLAR", arXiv 2602.01905. The ViT blocks are timm's; this file wires them into transformers.
"""

# No `from __future__ import annotations` here: transformers reads the class annotation `config` at run time.
import os
from typing import Any

import torch
from safetensors import SafetensorError
from timm.layers import LayerScale
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_stellar import StellarConfig
from .decoder_stellar import StellarDecoder
from .encoder_stellar import StellarEncoder, normalize_pixels
from .factorization import StellarLocalization, low_rank_product
from .input_checks import check_encoding, check_image_shape, check_pixel_values, resolve_grid_size
from .intermediate_layers import collect_intermediates, format_intermediates, take_indices
from .maskgit_vqgan import MaskGitVQGANDecoder
from .outputs import StellarEncoderOutput, StellarEncoding, StellarModelOutput
from .position_code import FourierPositionCode
from .pretrained_names import resolve_pretrained

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
            init.constant_(module.gamma, 1.0)

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        for module in self.modules():
            if isinstance(module, StellarEncoder | StellarDecoder):
                module.grad_checkpointing = enable

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
        """Load a model by name ("stellar-tiny"), from a folder, or from a Hub repository.

        Every tensor must be there and fit; nothing is left at a random value.

        Args:
            pretrained_model_name_or_path: A name of this library, a folder, or a repository id. A folder wins.
            *model_args: Passed on to the model.
            decoder: False builds and reads the encoder alone; True insists on a decoder; None takes the
                checkpoint as it is.
            **kwargs: As for `transformers.PreTrainedModel.from_pretrained`: `dtype`, `device_map`, `revision`,
                `local_files_only`, `output_loading_info`, ...

        Raises:
            OSError: if the checkpoint is not found.
            ValueError: if its file is damaged, or tensors are missing, unexpected or misshapen: each is named.
        """
        name = resolve_pretrained(pretrained_model_name_or_path)
        want_info = kwargs.pop("output_loading_info", False)
        tolerate_shapes = kwargs.pop("ignore_mismatched_sizes", False)
        if decoder is not None:
            kwargs = cls._with_decoder(name, decoder, kwargs)
        try:
            loaded: Any = super().from_pretrained(
                name, *model_args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        except SafetensorError as error:
            raise ValueError(
                f"the weights of {pretrained_model_name_or_path!r} are damaged or cut short: {error}"
            ) from error
        model, info = loaded
        cls._check_loading(model, info, str(pretrained_model_name_or_path), tolerate_shapes)
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
        lines = [f"missing: {key}" for key in sorted(info["missing_keys"]) if cls._must_be_loaded(key)]
        lines += [f"unexpected: {key}" for key in sorted(info["unexpected_keys"])]
        if not tolerate_shapes:
            lines += [
                f"misshapen: {key} is {tuple(found)}, the model has {tuple(wanted)}"
                for key, found, wanted in sorted(info["mismatched_keys"])
            ]
        if lines:
            hint = ""
            if model.config.use_decoder and all(line.startswith("missing: ") and "decoder." in line for line in lines):
                hint = "\nThe checkpoint holds the encoder alone: load it with decoder=False."
            raise ValueError(f"the weights of {name!r} do not fit the model:\n  " + "\n  ".join(lines) + hint)

    @classmethod
    def _must_be_loaded(cls, key: str) -> bool:
        return True


class StellarModel(StellarPreTrainedModel):
    """Encodes images to `(S, L)` and decodes them back.

    Args:
        config: The architecture; `use_decoder=False` leaves decoder and tokenizer out.
    """

    def __init__(self, config: StellarConfig):
        super().__init__(config)
        self.encoder = StellarEncoder(config)
        self.localization = StellarLocalization(config.hidden_size, config.spatial_temp)
        # CODEPATH: features-only checkpoints and `decoder=False` take None, all published models the decoder.
        self.decoder = StellarDecoder(config) if config.use_decoder else None
        needs_tokenizer = config.use_decoder and config.reconstruction_head == "vq" and config.use_tokenizer
        self.tokenizer = MaskGitVQGANDecoder(config) if needs_tokenizer else None
        if self.tokenizer is not None:
            self.tokenizer.requires_grad_(False)
        # CODEPATH: as above; a full checkpoint is then read in part, which is no reason for a report.
        if not config.use_decoder:
            self._keys_to_ignore_on_load_unexpected = PRETRAINING_KEYS + DECODING_KEYS
        elif self.tokenizer is None:
            self._keys_to_ignore_on_load_unexpected = [*PRETRAINING_KEYS, DECODING_KEYS[1]]
        self.post_init()

    @property
    def num_features(self) -> int:
        """Width `d` of tokens and patch features."""
        return self.config.hidden_size

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.config.patch_size

    def grid_size(self, height: int, width: int) -> tuple[int, int]:
        """Patches `(h, w)` of an image of `height` by `width` pixels.

        Raises:
            ValueError: if a side is no multiple of the patch, naming the nearest that are.
        """
        shape = (1, self.config.num_channels, height, width)
        check_image_shape(torch.empty(shape, device="meta"), self.patch_size, self.config.num_channels)
        return height // self.patch_size, width // self.patch_size

    @capture_outputs(tie_last_hidden_states=False)
    def _encode_tokens(self, pixel_values: Tensor, **kwargs: Unpack[TransformersKwargs]) -> StellarEncoderOutput:
        # Captures hidden states here and not in `forward`, which may also run the decoder's blocks.
        cls_token, patches, sparse = self.encoder(self._normalize(pixel_values))
        return StellarEncoderOutput(last_hidden_state=sparse, patch_features=patches, cls_token=cls_token[:, 0])

    def _normalize(self, pixel_values: Tensor) -> Tensor:
        check_pixel_values(pixel_values, self.patch_size, self.config.num_channels)
        return normalize_pixels(pixel_values, self.encoder.pos_embed.dtype)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_reconstruction: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> StellarModelOutput:
        """Encode images and, if asked, decode them.

        Args:
            pixel_values: RGB in [0, 1], `(B, 3, H, W)`, floats or uint8; sides multiples of the patch. Normalized
                inside. Any size: position embeddings are resampled.
            output_reconstruction: Whether to decode as well.
            **kwargs: `output_hidden_states`, `return_dict`.

        Returns:
            See [`StellarModelOutput`].

        Raises:
            ValueError: if shape or values are wrong, or attentions are asked for.
        """
        if kwargs.get("output_attentions"):
            raise ValueError(
                "attention maps are not available (fused attention does not form them); "
                "`localization` says where each token is"
            )
        tokens = self._encode_tokens(pixel_values, **kwargs)
        semantics = tokens.last_hidden_state
        localization = self.localization(tokens.patch_features, semantics)
        reconstruction = None
        if output_reconstruction:
            reconstruction = self.decode(semantics, localization, grid_size=self.grid_size(*pixel_values.shape[-2:]))
        return StellarModelOutput(
            last_hidden_state=semantics,
            pooler_output=semantics.mean(dim=1),
            localization=localization,
            patch_features=tokens.patch_features,
            cls_token=tokens.cls_token,
            reconstruction=reconstruction,
            hidden_states=tokens.hidden_states,
        )

    def encode(self, pixel_values: Tensor) -> StellarEncoding:
        """Images to sparse tokens and where they are. Differentiable.

        Args:
            pixel_values: RGB in [0, 1], `(B, 3, H, W)`, floats or uint8; sides multiples of the patch.

        Returns:
            `(S, L)`: semantics `(B, r, d)` and localization `(B, n, r)`, whose rows sum to 1; `n = H W / p^2`.

        Raises:
            ValueError: if shape or values are wrong: the message says what was seen and what is allowed.
        """
        _, patches, semantics = self.encoder(self._normalize(pixel_values))
        return StellarEncoding(semantics, self.localization(patches, semantics))

    def decode(self, semantics: Tensor, localization: Tensor, *, grid_size: tuple[int, int] | None = None) -> Tensor:
        """Tokens and their places back to images.

        With the "pixel" head this is differentiable (up to the clamp); with "vq" the codes are an argmax, and no
        gradient reaches `S` and `L`.

        Args:
            semantics: `S`, `(B, r, d)`. Fewer tokens than the model's are allowed.
            localization: `L`, `(B, n, r)`.
            grid_size: `(h, w)` with `h w = n`; needed where the grid is not square.

        Returns:
            Images `(B, 3, H', W')` in [0, 1]. "vq" heads give 16 pixels per cell, "pixel" heads `patch_size`.

        Raises:
            ValueError: if the model has no decoder or no tokenizer, or the shapes do not fit.
        """
        if self.decoder is None:
            raise ValueError("this model has no decoder: load with decoder=True from a checkpoint that has one")
        if self.config.reconstruction_head == "vq" and self.tokenizer is None:
            raise ValueError(
                "this model has no tokenizer, which turns codes into pixels: convert the original checkpoint again "
                "with vqgan= (the MaskGIT-VQGAN's weights, maskgit-vqgan-imagenet-f16-256.bin)"
            )
        check_encoding(semantics, localization, self.config.num_sparse_tokens, self.config.hidden_size)
        grid = resolve_grid_size(localization.shape[1], grid_size)
        dtype = self.decoder.proj.weight.dtype
        hidden_states = self.decoder(low_rank_product(localization.to(dtype), semantics.to(dtype)), grid)
        prediction = self.decoder.predict(hidden_states, grid)
        if self.tokenizer is None:
            return prediction.clamp(0, 1)
        codes = prediction.argmax(dim=-1).unflatten(1, grid)  # (B, h, w)
        return self.tokenizer(codes)

    def forward_intermediates(
        self,
        pixel_values: Tensor,
        indices: int | list[int] | tuple[int, ...] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Patch features of chosen encoder blocks, with timm's signature.

        Args:
            pixel_values: RGB in [0, 1], `(B, 3, H, W)`.
            indices: The last `n` blocks if an integer, these blocks if a list, all if None.
            return_prefix_tokens: Whether to pair each map with its cls token, `(B, 1, d)`.
            norm: Whether to apply the final norm to each.
            stop_early: Whether to skip the blocks after the last one asked for; needs `intermediates_only`.
            output_fmt: "NCHW" gives maps `(B, d, h, w)`, "NLC" sequences `(B, n, d)`.
            intermediates_only: Whether to return the list alone.

        Returns:
            The list of intermediates or, without `intermediates_only`, the final normed sequence
            `(B, 1 + n + r, d)` (cls, patches, sparse tokens) and the list.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NLC', got {output_fmt!r}")
        if stop_early and not intermediates_only:
            raise ValueError("stop_early=True leaves no final sequence to return: set intermediates_only=True")
        wanted = take_indices(len(self.encoder.blocks), indices)
        grid = self.grid_size(*pixel_values.shape[-2:]) if pixel_values.ndim == 4 else (0, 0)
        tokens, collected = collect_intermediates(
            self.encoder, self._normalize(pixel_values), wanted, norm=norm, stop_early=stop_early
        )
        intermediates = format_intermediates(
            [self.encoder.split(item) for item in collected], grid, output_fmt, return_prefix_tokens
        )
        return intermediates if intermediates_only else (self.encoder.norm(tokens), intermediates)


__all__ = ["StellarModel", "StellarPreTrainedModel"]
