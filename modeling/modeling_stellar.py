"""The STELLAR model (arXiv 2602.01905): `encode` to sparse tokens and their places, `decode` back to pixels.

The ViT blocks are timm's; this file makes a transformers model of them.
"""

# No `from __future__ import annotations` here: transformers reads annotations at run time.
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import torch
from torch import Tensor
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .backbones import backbone_fields, backbone_weights, load_backbone
from .config_checks import NO_ATTENTIONS, check_before_building, refuse_unknown_fields
from .configuration_stellar import StellarConfig
from .decoder_stellar import StellarDecoder
from .encoder_stellar import StellarEncoder
from .factorization import StellarLocalization
from .feature_calls import FeatureCalls
from .inference_optimization import BATCH_SIZES, MAX_SECONDS, optimize
from .inference_report import OptimizationReport
from .input_checks import (
    check_encoding,
    check_image_shape,
    check_num_tokens,
    check_pixel_values,
    resolve_grid_size,
    unpack_encoding,
)
from .intermediates_stellar import StellarIntermediatesModel
from .loading import DECODING_KEYS
from .maskgit_vqgan import MaskGitVQGANDecoder
from .modeling_stellar_base import PRETRAINING_KEYS
from .outputs import StellarEncoding, StellarModelOutput
from .safe_text import refuse_keywords
from .tensor_calls import TensorCalls

MethodT = TypeVar("MethodT", bound=Callable[..., Any])
# What frameworks pass to any model of transformers. Apart from `output_hidden_states` it means nothing here.
_OF_TRANSFORMERS = frozenset(TransformersKwargs.__annotations__)
_USEFUL = ("output_reconstruction", "output_hidden_states", "return_dict")
_can_return_tuple: Callable[[MethodT], MethodT] = can_return_tuple  # with its type, which transformers does not say


class StellarModel(FeatureCalls, TensorCalls, StellarIntermediatesModel):
    """A model that encodes images to `(S, L)` and decodes them back.

    Args:
        config: The architecture; `use_decoder=False` leaves decoder and tokenizer out.

    Example:
    ```python
    >>> from stellar_hub import StellarImageProcessor, StellarModel

    >>> model = StellarModel.from_pretrained("stellar-tiny")
    >>> processor = StellarImageProcessor.from_pretrained("stellar-tiny")
    >>> encoding = model.encode(processor("examples/images/cat.jpg", return_tensors="pt")["pixel_values"])
    >>> encoding.semantics.shape, encoding.localization.shape, model.decode(encoding).shape
    (torch.Size([1, 16, 192]), torch.Size([1, 64, 16]), torch.Size([1, 3, 64, 64]))

    ```
    """

    _base_weights_only = True

    def __init__(self, config: StellarConfig):
        super().__init__(config)
        check_before_building(config)
        self.encoder = StellarEncoder(config)
        self.localization = StellarLocalization(config.hidden_size, config.spatial_temp)
        # CODEPATH: features-only checkpoints and `decoder=False` take None, all published models the decoder.
        self.decoder = StellarDecoder(config) if config.use_decoder else None
        needs_tokenizer = config.use_decoder and config.reconstruction_head == "vq" and config.use_tokenizer
        self.tokenizer = MaskGitVQGANDecoder(config) if needs_tokenizer else None
        if self.tokenizer is not None:
            self.tokenizer.requires_grad_(False)
        # CODEPATH: see above. Part of a full checkpoint is skipped on purpose, so it is not reported.
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
        """Starts from a plain ViT of timm: the encoder gets its weights, and all other parts are newly initialized.

        The ViT must have a cls token and learned positions, as MAE, AugReg, DeiT and DINOv2 without registers have. If
        it was trained with another normalization than ImageNet's, the patch projection absorbs the difference.

        Args:
            name: timm's name of the ViT, such as "vit_base_patch16_224.mae".
            num_sparse_tokens: Number `r` of new sparse tokens.
            pretrained: True fetches the weights as timm does, a path loads them from a file, False leaves them random.
            **config_fields: Other fields of `StellarConfig`, such as `reconstruction_head="pixel"`. A "vq" model has
                no tokenizer unless `use_tokenizer=True`, which adds one with random weights.

        Returns:
            The model, in training mode, because its new parts must be trained before they are useful.

        Raises:
            FileNotFoundError: if the path does not exist.
            TypeError: if the name is not a string, such as a model itself, or a field does not exist.
            ValueError: if timm does not know the name, or the encoder cannot represent the ViT; it says why.
        """
        refuse_unknown_fields(config_fields, StellarConfig)  # before the weights are fetched
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
        """Whether `decode` works: the model has a decoder and, for a "vq" head, a tokenizer."""
        needs_tokenizer = self.config.reconstruction_head == "vq"
        return self.decoder is not None and not (needs_tokenizer and self.tokenizer is None)

    def grid_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns rows and columns `(h, w)` of the patches of an image of `height` by `width` pixels.

        Raises:
            ValueError: if a side is not a multiple of the patch size.
        """
        shape = (1, self.config.num_channels, height, width)
        check_image_shape(torch.empty(shape, device="meta"), self.patch_size, self.config.num_channels)
        return height // self.patch_size, width // self.patch_size

    if TYPE_CHECKING:

        def __call__(
            self, pixel_values: Tensor, output_reconstruction: bool = False, **kwargs: Any
        ) -> StellarModelOutput:
            """Runs `forward`."""

    @_can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_reconstruction: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> StellarModelOutput:
        """Encodes images and returns all features; with `output_reconstruction=True` also decodes them.

        Args:
            pixel_values: RGB in [0, 1], `(B, 3, H, W)`, floats or uint8. Any size whose sides are multiples of the
                patch size: position embeddings are resampled. The model normalizes inside.
            output_reconstruction: Whether to decode as well.
            **kwargs: `output_hidden_states` and `return_dict`. Other keywords of `transformers.TransformersKwargs`,
                which frameworks pass to any model, have no effect.

        Returns:
            A [`StellarModelOutput`].

        Raises:
            TypeError: if a keyword does not exist.
            ValueError: if shape or values are wrong, or `output_attentions=True`.
        """
        for name in kwargs:
            if name not in _OF_TRANSFORMERS:
                refuse_keywords("the model", [name], _USEFUL, f"; it takes {', '.join(_USEFUL)}")
        if kwargs.get("output_attentions", self.config.output_attentions):
            raise ValueError(NO_ATTENTIONS)
        normalized = self._normalize(pixel_values)
        hidden_states: tuple[Tensor, ...] | None = None
        # Not through transformers' `capture_outputs`: its hooks stay in the blocks, which then cannot be pickled.
        if kwargs.get("output_hidden_states", self.config.output_hidden_states):
            cls_token, patches, semantics, hidden_states = self.encoder(normalized, hidden_states=True)
        else:
            cls_token, patches, semantics = self.encoder(normalized)
        localization = self.localization(patches, semantics)
        reconstruction = None
        if output_reconstruction:
            grid_size = self.grid_size(*pixel_values.shape[-2:])
            reconstruction = self.decode(semantics, localization, grid_size=grid_size)
        return StellarModelOutput(
            last_hidden_state=semantics,
            pooler_output=semantics.mean(dim=1),
            localization=localization,
            patch_features=patches,
            cls_token=cls_token[:, 0],
            reconstruction=reconstruction,
            hidden_states=hidden_states,
        )

    def encode(self, pixel_values: Tensor, num_tokens: int | None = None) -> StellarEncoding:
        """Encodes images to sparse tokens and their places. Differentiable.

        Args:
            pixel_values: RGB in [0, 1], `(B, 3, H, W)`, floats or uint8; sides are multiples of the patch size.
            num_tokens: Number of tokens to keep of each image, the first ones, from 1 to `r`; None keeps all. Use it
                with a model that was trained with `nested_dropout`; others are not ordered, and a warning says so.

        Returns:
            An encoding that unpacks to `(S, L)`: semantics `(B, r, d)` and localization `(B, n, r)`, whose rows sum to
            1, with `n = H W / patch_size^2`. It knows its grid, so that `decode(encoding)` needs nothing else.

        Raises:
            TypeError: if `num_tokens` is not an integer.
            ValueError: if shape or values are wrong, or `num_tokens` is out of range.
        """
        if num_tokens is not None:
            check_num_tokens(num_tokens, self.config.num_sparse_tokens)
            self._warn_if_not_ordered(num_tokens)
        check_pixel_values(pixel_values, self.patch_size, self.config.num_channels)
        height, width = pixel_values.shape[-2:]
        grid_size = (height // self.patch_size, width // self.patch_size)
        semantics, localization = self._run("_encode_tensors", pixel_values)
        return StellarEncoding(semantics, localization, grid_size).select(num_tokens=num_tokens)

    def decode(
        self,
        semantics: Tensor | StellarEncoding,
        localization: Tensor | None = None,
        *,
        grid_size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Decodes images from an encoding, or from `S` and `L`.

        With a "pixel" head, `decode` is differentiable up to the clamp to [0, 1]. With a "vq" head, the codes are an
        argmax, and no gradient reaches `S` and `L`.

        Args:
            semantics: An encoding as `encode` returns it, or its `S`, `(B, r, d)`. `S` and `L` may have fewer tokens
                than the model, or more.
            localization: `L`, `(B, n, r)`; None if the first argument is the whole encoding.
            grid_size: Rows and columns `(h, w)` of the patches, `h w = n`. None takes the grid of the encoding. For an
                encoding without a grid, and for `S` and `L` alone, None takes the grid to be square.

        Returns:
            Images `(B, 3, H', W')` in [0, 1]. A "vq" head gives 16 pixels per patch, a "pixel" head `patch_size`.

        Raises:
            TypeError: if `S` or `L` is missing or is not a floating-point tensor.
            ValueError: if the model cannot decode, if shapes do not fit, or if `grid_size` is not the encoding's grid.
        """
        if self.decoder is None:
            raise ValueError(
                "this model has no decoder: it gives features alone. To decode, load a checkpoint that has one, and do "
                "not pass decoder=False"
            )
        if not self.can_decode:
            raise ValueError(
                "this model has no tokenizer, which turns codes into pixels. If it is an original checkpoint, load or "
                "convert that with vqgan='maskgit-vqgan-imagenet-f16-256.bin', the weights of the MaskGIT-VQGAN. If it "
                "is of from_backbone, pass reconstruction_head='pixel' there, and train it"
            )
        sparse, maps, grid_size = unpack_encoding(semantics, localization, grid_size)
        check_encoding(sparse, maps, self.config.hidden_size)
        grid = resolve_grid_size(maps.shape[1], grid_size)
        return self._run("_decode_tensors", sparse, maps, grid_size=grid)[0]

    def reconstruct(self, pixel_values: Tensor, num_tokens: int | None = None) -> Tensor:
        """Encodes images and decodes them again.

        Args:
            pixel_values: RGB in [0, 1], `(B, 3, H, W)`, floats or uint8; sides are multiples of the patch size.
            num_tokens: Number of tokens to decode from, the first ones, as for `encode`; None means all.

        Returns:
            Images `(B, 3, H', W')` in [0, 1]. A "pixel" head returns the size of the input, a "vq" head 16 pixels per
            patch, which is another size if the patch size is not 16.

        Raises:
            TypeError: if `num_tokens` is not an integer.
            ValueError: if the model cannot decode, shape or values are wrong, or `num_tokens` is out of range.
        """
        return self.decode(self.encode(pixel_values, num_tokens))

    def optimize_for_inference(
        self,
        dtype: torch.dtype | Literal["auto", "float8"] | None = None,
        compile: bool | None = None,
        batch_sizes: Sequence[int] = BATCH_SIZES,
        max_seconds: float = MAX_SECONDS,
    ) -> OptimizationReport:
        """Makes `encode` and `decode` as fast as this device allows, in place, and returns a report.

        It measures, and keeps what is faster and gives the same results up to rounding. On a CPU it takes some seconds
        to measure one block with layers packed for oneDNN and with attention that is not fused. On CUDA it measures
        parts (GELU in the matrix product, patches as one product, the tokenizer's memory layout), and then `encode` and
        `decode` at each batch size: as they are, and as a CUDA graph, plain or compiled. A graph serves one shape:
        images of the model's size in these batch sizes, and plain graphs also smaller ones, 16 shapes in all. It is
        measured with uint8 images; the first call with another type captures and compiles again. Results are copied out
        of it, so they never change later. Calls with gradients, autocast, hooks or in training run without graphs. Load
        new weights with `load_state_dict`; after `.to(...)`, call this method again.

        Afterwards the model is for inference only: it is in evaluation mode, and its weights get no gradients. Call
        this method after the model has its weights and is on its device. The model can still be copied and saved; a
        copy captures its own graphs when it is first used.

        Args:
            dtype: Type to convert the model to. None keeps the type, so that results agree up to rounding. "auto"
                chooses bfloat16 if the device is faster with it. "float8" converts to bfloat16, and linear layers of
                the encoder to float8 if that is faster and S and L stay close; it needs a GPU of capability 8.9 or
                above and torchao, and the model cannot be saved afterwards.
            compile: None measures on CUDA whether compiled calls are faster, and compiles nothing on other devices.
                True compiles the blocks for all shapes, False nothing.
            batch_sizes: Batch sizes to measure on CUDA. A size that does not fit into memory is left out.
            max_seconds: Seconds on CUDA after which no further compilation starts; one that runs may take a minute.

        Returns:
            A report that prints a line for each choice with its times; `report.choices` has them as numbers.

        Raises:
            ImportError: if `dtype` is "float8" and torchao is not installed.
            ValueError: if `dtype` is not a floating-point type or the device does not have it, or `batch_sizes` are not
                positive.

        Example:
        ```python
        >>> model = StellarModel.from_pretrained("stellar-tiny")
        >>> report = model.optimize_for_inference()  # print(report) shows what changed

        ```
        """
        return optimize(self, dtype, compile, batch_sizes, max_seconds)


__all__ = ["StellarModel"]
