"""The STELLAR model: `encode` to sparse tokens and their places, `decode` back to pixels.

Paper: "STELLAR", arXiv 2602.01905. The ViT blocks are timm's; this file wires them into transformers.
"""

# No `from __future__ import annotations` here: transformers reads annotations at run time.
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .backbones import backbone_fields, backbone_weights, load_backbone
from .configuration_stellar import StellarConfig
from .decoder_stellar import StellarDecoder
from .encoder_stellar import StellarEncoder, normalize_pixels
from .factorization import StellarLocalization, low_rank_product
from .inference_optimization import OptimizationReport, optimize
from .input_checks import check_encoding, check_image_shape, check_pixel_values, resolve_grid_size
from .intermediate_layers import collect_intermediates, format_intermediates, take_indices
from .maskgit_vqgan import MaskGitVQGANDecoder
from .modeling_stellar_base import DECODING_KEYS, PRETRAINING_KEYS, StellarPreTrainedModel
from .outputs import StellarEncoderOutput, StellarEncoding, StellarModelOutput
from .pretrained_names import extract_features


class StellarModel(StellarPreTrainedModel):
    """Encodes images to `(S, L)` and decodes them back.

    Args:
        config: The architecture; `use_decoder=False` leaves decoder and tokenizer out.
    """

    _base_weights_only = True

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

    @classmethod
    def from_backbone(
        cls,
        name: str,
        num_sparse_tokens: int = 16,
        pretrained: bool | str | os.PathLike = True,
        **config_fields: Any,
    ) -> Self:
        """Start from a plain ViT of timm's: its weights in the encoder, everything else newly initialized.

        Taken are ViTs with a cls token and learned positions (MAE, AugReg, DeiT, DINOv2 without registers). A backbone
        trained with another normalization than ImageNet's sees the same pixels here: the patch projection absorbs it.

        Args:
            name: timm's name, such as "vit_base_patch16_224.mae".
            num_sparse_tokens: Number `r` of new sparse tokens.
            pretrained: True fetches the weights as timm does, a path loads them from a file, False leaves them random.
            **config_fields: Other fields of `StellarConfig`, such as `reconstruction_head="pixel"`. A "vq" head comes
                without a tokenizer unless `use_tokenizer=True`, which then is random.

        Returns:
            The model in training mode: its new parts have to be trained before it is of use.

        Raises:
            FileNotFoundError: if the path does not exist.
            ValueError: if timm does not know the name, or the encoder cannot represent the model: why is named.
        """
        backbone = load_backbone(name, pretrained)
        fields = {"use_tokenizer": False, "num_sparse_tokens": num_sparse_tokens, **backbone_fields(backbone)}
        model = cls(StellarConfig(**(fields | config_fields)))
        incompatible = model.encoder.load_state_dict(backbone_weights(backbone), strict=False)
        if incompatible.unexpected_keys or incompatible.missing_keys != ["sparse_tokens"]:
            raise ValueError(f"the weights of {name} do not fit: {incompatible}")
        return model

    @property
    def num_features(self) -> int:
        """Width `d` of tokens and patch features."""
        return self.config.hidden_size

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.config.patch_size

    @property
    def can_decode(self) -> bool:
        """Whether `decode` works: the model has a decoder and, for a "vq" head, the tokenizer."""
        needs_tokenizer = self.config.reconstruction_head == "vq"
        return self.decoder is not None and not (needs_tokenizer and self.tokenizer is None)

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
        tokens = self._encode_tokens(pixel_values, **(kwargs | {"return_dict": True}))
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

    def reconstruct(self, pixel_values: Tensor) -> Tensor:
        """Encodes images and decodes them again.

        Args:
            pixel_values: RGB in [0, 1], `(B, 3, H, W)`, floats or uint8; sides are multiples of the patch size.

        Returns:
            Images `(B, 3, H', W')` in [0, 1]. `H'` and `W'` differ from `H` and `W` where a "vq" head's 16 pixels per
            cell are not the patch size.

        Raises:
            ValueError: if the model cannot decode, or shape or values are wrong.
        """
        return self.decode(*self.encode(pixel_values), grid_size=self.grid_size(*pixel_values.shape[-2:]))

    def optimize_for_inference(
        self, dtype: torch.dtype | Literal["auto"] | None = None, compile: bool | None = None
    ) -> OptimizationReport:
        """Make `encode` and `decode` as fast as this device allows, in place, and say what was done.

        On a CPU, some seconds are spent to try one block packed for oneDNN and with attention in parts; what is faster
        and gives the same stays. On CUDA blocks are compiled, and the tokenizer works with channels last. The model
        is for inference afterwards: in evaluation mode, and no weight takes gradients. Call it once the model has its
        weights and is on its device; it can be saved as before.

        Args:
            dtype: What to convert the model to. None leaves its precision, so that results stay within rounding of
                float32; "auto" takes bfloat16 where the device is faster with it.
            compile: Whether to compile the blocks; None does so on CUDA only, where it pays.

        Returns:
            What was done, one line each when printed.

        Raises:
            ValueError: if `dtype` is no floating type.

        Example:
        ```python
        >>> model = StellarModel.from_pretrained("stellar-tiny")
        >>> report = model.optimize_for_inference()  # print it

        ```
        """
        return optimize(self, dtype, compile)

    def extract(self, source: Any, outputs: Sequence[str] = ("S", "L", "pooled"), **options: Any) -> Iterator[Any]:
        """Features of all images of a source, batch by batch; images are read and fitted along the way.

        Args:
            source: A folder, a list (.txt), tars, a table, or a list of images.
            outputs: Of "S", "L", "pooled", "cls" and "patches".
            **options: `batch_size`, `num_workers`, `processor`, `precision` and `dtype`, as for
                `stellar_hub.extraction.extract_features`.

        Yields:
            Batches with `batch.row_ids`, the images' indices in the source, and tensors by name, as in `batch["S"]`.
            An image that cannot be read keeps its row: NaN, and its error in `batch.records`.

        Raises:
            ImportError: if the library is not installed.
            OSError: if the source does not exist or cannot be read.
            ValueError: if it has no images, or an option does not fit.
        """
        return extract_features(self, source, outputs, **options)

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
        normalized = self._normalize(pixel_values)
        grid = self.grid_size(*pixel_values.shape[-2:])
        tokens, collected = collect_intermediates(self.encoder, normalized, wanted, norm=norm, stop_early=stop_early)
        intermediates = format_intermediates(
            [self.encoder.split(item) for item in collected], grid, output_fmt, return_prefix_tokens
        )
        return intermediates if intermediates_only else (self.encoder.norm(tokens), intermediates)


__all__ = ["StellarModel"]
