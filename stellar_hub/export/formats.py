"""Encoder and decoder as graphs of other formats: writing them, loading them back, comparing them with the model."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stellar_hub.extras import require
from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.atomic_write import patient_file, replaced_folder
from stellar_hub.modeling.encoder_stellar import normalize_pixels
from stellar_hub.modeling.factorization import low_rank_product
from stellar_hub.modeling.limits import check_limit

Runner = Callable[..., tuple[Tensor, ...]]  # runs a graph that was loaded from its file

EXAMPLE_BATCH_SIZE = 2
CHECKED_BATCH_SIZES = (1, 3)
TOLERANCE = 1e-4
MAX_BYTES_IN_GRAPH = 10**9  # a protobuf file ends at 2 GiB; larger weights go into a file beside it


@dataclass(frozen=True)
class ExportedGraph:
    """A graph that was written.

    Attributes:
        file: Name of the file in the output folder.
        largest_difference: Largest difference from the model over all outputs, relative to each output's largest value.
    """

    file: str
    largest_difference: float


class EncoderGraph(nn.Module):
    """The encoder for one image size, from `pixel_values` to `S`, `L` and cls.

    Position embeddings are resampled once, at construction, and stored: the graph needs no bicubic operator.

    Args:
        model: Model in evaluation mode.
        height: Height of the images in pixels, a multiple of the patch size.
        width: Width of the images in pixels, a multiple of the patch size.
    """

    positions: Tensor

    def __init__(self, model: StellarModel, height: int, width: int):
        super().__init__()
        self.encoder = model.encoder
        self.localization = model.localization
        with torch.no_grad():
            positions = model.encoder.positions(model.grid_size(height, width)).clone()
        self.register_buffer("positions", positions)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encodes images `(B, 3, H, W)` in [0, 1] to `S` `(B, r, d)`, `L` `(B, n, r)` and cls `(B, d)`."""
        normalized = normalize_pixels(pixel_values, self.positions.dtype)
        tokens = self.encoder.run_blocks(self.encoder.embed(normalized, self.positions))
        cls_token, patches, semantics = self.encoder.split(tokens)
        return semantics, self.localization(patches, semantics), cls_token[:, 0]


class DecoderGraph(nn.Module):
    """The decoder for one image size, from `S` and `L` to images.

    Args:
        model: Model in evaluation mode that can decode.
        height: Height in pixels of the images that were encoded.
        width: Width in pixels of the images that were encoded.

    Raises:
        ValueError: if the model cannot decode.
    """

    def __init__(self, model: StellarModel, height: int, width: int):
        super().__init__()
        if not model.can_decode:
            raise ValueError("this model cannot decode: it does not have a decoder to export")
        self.decoder = model.decoder
        self.tokenizer = model.tokenizer
        self.grid_size = model.grid_size(height, width)

    def forward(self, semantics: Tensor, localization: Tensor) -> Tensor:
        """Decodes `S` `(B, r, d)` and `L` `(B, n, r)` to images `(B, 3, H', W')` in [0, 1]."""
        assert self.decoder is not None
        hidden_states = self.decoder(low_rank_product(localization, semantics), self.grid_size)
        prediction = self.decoder.predict(hidden_states, self.grid_size)
        if self.tokenizer is None:
            return prediction.clamp(0, 1)
        return self.tokenizer(prediction.argmax(dim=-1).unflatten(1, self.grid_size))


def write_torch_export(graph: nn.Module, inputs: tuple[Tensor, ...], names: list[str], path: Path) -> Runner:
    """Writes a graph with `torch.export`, for any batch size, and returns a function that runs the file."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(graph, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    with patient_file(path) as file:
        torch.export.save(program, file)
    loaded = torch.export.load(path).module()
    return lambda *tensors: _as_tuple(loaded(*tensors))


def write_onnx(graph: nn.Module, inputs: tuple[Tensor, ...], names: list[str], path: Path) -> Runner:
    """Writes a graph as ONNX, for any batch size, and returns a function that runs the file in onnxruntime.

    Raises:
        ImportError: if the extra `onnx` is not installed.
    """
    onnxruntime = require("onnxruntime", "onnx", "the export to ONNX")
    require("onnxscript", "onnx", "the export to ONNX")  # torch's exporter imports it
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        # Both inputs of the decoder share the batch axis, and torch warns about it.
        warnings.filterwarnings("ignore", message=".*axis name: batch will not be used")
        torch.onnx.export(
            graph,
            inputs,
            path,
            dynamo=True,
            input_names=names,
            output_names=OUTPUT_NAMES[type(graph)],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            external_data=_num_bytes(graph) > MAX_BYTES_IN_GRAPH,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        feeds = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return tuple(torch.from_numpy(output) for output in session.run(None, feeds))

    return run


FORMATS = {"torch-export": (write_torch_export, ".pt2"), "onnx": (write_onnx, ".onnx")}
OUTPUT_NAMES: dict[type[nn.Module], list[str]] = {
    EncoderGraph: ["semantics", "localization", "cls_token"],
    DecoderGraph: ["images"],
}


def export_model(
    model: StellarModel, output: str | os.PathLike[str], fmt: str, height: int | None = None, width: int | None = None
) -> list[ExportedGraph]:
    """Writes the encoder and, if the model can decode, the decoder.

    Each graph is loaded back and compared with the model. The folder appears only if all graphs agree.

    Args:
        model: Model in float32 on the CPU.
        output: Folder to create, with its parents.
        fmt: Format, "torch-export" or "onnx".
        height: Height of the images in pixels; None means the model's own size.
        width: Width of the images in pixels; None means the model's own size.

    Returns:
        The graphs that were written.

    Raises:
        ValueError: if the format is unknown, the size does not fit or is beyond a limit, weights of the model are
            offloaded, or a graph's outputs differ from the model's.
        FileExistsError: if the output exists.
        OSError: if a file cannot be written.
        ImportError: if the format needs an extra that is not installed.
    """
    if fmt not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {fmt!r}")
    if Path(output).exists():
        raise FileExistsError(f"{output} exists already: name a new folder")
    height = model.config.image_size if height is None else height
    width = model.config.image_size if width is None else width
    if min(height, width) < 1:
        raise ValueError(f"height and width must be at least 1, got {height} and {width}")
    check_limit("image_pixels", height * width, f"an image of {height} x {width}")
    model.grid_size(height, width)  # raises an error for a wrong size before anything is written
    offloaded = [name for name, tensor in model.state_dict().items() if tensor.device.type == "meta"]
    if offloaded:
        raise ValueError(f"weights of the model are offloaded, such as {offloaded[0]}: load it without device_map")
    Path(output).absolute().parent.mkdir(parents=True, exist_ok=True)
    with replaced_folder(output) as folder:
        return _write_graphs(model.eval(), folder, fmt, height, width)


def _write_graphs(model: StellarModel, folder: Path, fmt: str, height: int, width: int) -> list[ExportedGraph]:
    """Writes first the encoder, then the decoder with outputs of the encoder as its examples."""
    write, suffix = FORMATS[fmt]
    encoder = EncoderGraph(model, height, width).eval()
    path = folder / f"encoder{suffix}"
    run = write(encoder, (_example_images(EXAMPLE_BATCH_SIZE, height, width),), ["pixel_values"], path)
    graphs = [ExportedGraph(path.name, compare(encoder, run, lambda n: (_example_images(n, height, width),)))]
    if not model.can_decode:
        return graphs
    decoder = DecoderGraph(model, height, width).eval()
    encode = torch.no_grad()(lambda n: encoder(_example_images(n, height, width))[:2])
    path = folder / f"decoder{suffix}"
    run = write(decoder, encode(EXAMPLE_BATCH_SIZE), ["semantics", "localization"], path)
    return [*graphs, ExportedGraph(path.name, compare(decoder, run, encode))]


def compare(graph: nn.Module, run: Runner, inputs: Callable[[int], tuple[Tensor, ...]]) -> float:
    """Compares a module with its exported form, at batch sizes that it was not traced with.

    Args:
        graph: Module that was exported.
        run: Function that runs its exported form.
        inputs: Function that makes inputs for a batch size.

    Returns:
        The largest difference over all outputs, relative to each output's largest value.

    Raises:
        ValueError: if the difference is above the tolerance.
    """
    largest = 0.0
    for batch_size in CHECKED_BATCH_SIZES:
        tensors = inputs(batch_size)
        with torch.no_grad():
            expected = _as_tuple(graph(*tensors))
            actual = run(*tensors)
        for ours, theirs in zip(expected, actual, strict=True):
            largest = max(largest, float((ours - theirs).abs().max() / ours.abs().max()))
    if not largest <= TOLERANCE:
        raise ValueError(
            f"the exported {type(graph).__name__} differs from the model by {largest:.2e} relative, allowed are "
            f"{TOLERANCE:.0e}: no file was kept"
        )
    return largest


def _num_bytes(module: nn.Module) -> int:
    """Returns the size of a module's parameters and buffers in bytes."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def _example_images(batch_size: int, height: int, width: int) -> Tensor:
    """Returns random images `(batch_size, 3, height, width)`, the same at every call."""
    generator = torch.Generator().manual_seed(batch_size)
    return torch.rand(batch_size, 3, height, width, generator=generator)


def _as_tuple(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, Tensor) else tuple(output)
