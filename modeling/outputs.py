"""What the model returns: the pair `(S, L)` and the full model output."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor
from transformers.utils import ModelOutput

from .atomic_write import write_atomically


class StellarEncoding(NamedTuple):
    """An image's sparse code: `S`, "what", and `L`, "where". Unpacks as `S, L = model.encode(x)`.

    Attributes:
        semantics: `S`, `(B, r, d)`: `r` tokens of the encoder's width per image.
        localization: `L`, `(B, n, r)` in [0, 1]: every patch's row sums to 1.
    """

    semantics: Tensor
    localization: Tensor

    def select(self, index: int | slice | Tensor) -> "StellarEncoding":
        """The images `index` of the batch. An integer keeps a batch of one, so that the result can be decoded."""
        if isinstance(index, int | np.integer) or (isinstance(index, Tensor) and index.ndim == 0):
            index = int(index)
            size = self.semantics.shape[0]
            if not -size <= index < size:
                raise IndexError(f"index {index} is out of range for a batch of {size}")
            index = slice(index % size, index % size + 1)
        return StellarEncoding(self.semantics[index], self.localization[index])

    def to(self, *args: object, **kwargs: object) -> "StellarEncoding":
        """Both tensors through `torch.Tensor.to`: a device, a dtype, or both."""
        return StellarEncoding(self.semantics.to(*args, **kwargs), self.localization.to(*args, **kwargs))  # type: ignore[call-overload]

    def save(self, path: str | os.PathLike[str], metadata: dict[str, str] | None = None) -> None:
        """Write a `.safetensors` file with the tensors `semantics` and `localization`.

        It is written under a temporary name and then renamed: an interrupted call leaves no half file behind.

        Args:
            path: File to write; replaced if it exists.
            metadata: Strings to keep in the header, such as where the image came from.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._asdict().items()}
        write_atomically(path, serialize(tensors, metadata={"format": "pt"} | (metadata or {})))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "StellarEncoding":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a safetensors file, is cut short, or lacks a tensor.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no such file: {path}")
        try:
            with safe_open(path, framework="pt") as file:
                missing = {"semantics", "localization"} - set(file.keys())
                if missing:
                    raise ValueError(f"{path} is not a saved encoding: it lacks {', '.join(sorted(missing))}")
                return cls(file.get_tensor("semantics"), file.get_tensor("localization"))
        except SafetensorError as error:
            raise ValueError(f"{path} cannot be read as safetensors (damaged or cut short?): {error}") from error


@dataclass
class StellarModelOutput(ModelOutput):
    """Output of [`StellarModel`].

    Attributes:
        last_hidden_state: `S`, `(B, r, d)`: the sparse tokens after the final norm.
        pooler_output: Mean of `S` over its tokens, `(B, d)`.
        localization: `L`, `(B, n, r)` in [0, 1], rows sum to 1.
        patch_features: Patches after the final norm, `(B, n, d)`: dense features before the factorization.
        cls_token: cls after the final norm, `(B, d)`.
        reconstruction: Decoded images, `(B, 3, H', W')` in [0, 1]; only with `output_reconstruction=True`.
        hidden_states: With `output_hidden_states=True`: input of the first block and output of each block,
            `num_hidden_layers + 1` tensors `(B, 1 + n + r, d)` in the order cls, patches, sparse tokens.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    localization: Tensor | None = None
    patch_features: Tensor | None = None
    cls_token: Tensor | None = None
    reconstruction: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class StellarEncoderOutput(ModelOutput):
    """Normed encoder tokens before the factorization; `hidden_states` as in [`StellarModelOutput`]."""

    last_hidden_state: Tensor | None = None
    patch_features: Tensor | None = None
    cls_token: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
