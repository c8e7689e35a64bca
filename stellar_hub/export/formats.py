"""Writing graphs, loading them back, and comparing them with the model: one function for all of it."""

import os
import shutil
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stellar_hub.export.parts import DecoderGraph, EncoderGraph
from stellar_hub.modeling import StellarModel

Runner = Callable[..., tuple[Tensor, ...]]

EXAMPLE_BATCH = 2
CHECKED_BATCHES = (1, 3)
TOLERANCE = 1e-4
ONE_FILE_BYTES = 10**9  # a protobuf file ends at 2 GiB; weights above this go into a file beside it


@dataclass(frozen=True)
class ExportedGraph:
    """One graph that was written.

    Attributes:
        file: Its name in the output folder.
        largest_difference: From the model, over all outputs, relative to each output's largest value.
    """

    file: str
    largest_difference: float


def write_torch_export(graph: nn.Module, inputs: tuple[Tensor, ...], names: list[str], path: Path) -> Runner:
    """`torch.export` with a dynamic batch; returns what runs the file."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(graph, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    return lambda *tensors: as_tuple(loaded(*tensors))


def write_onnx(graph: nn.Module, inputs: tuple[Tensor, ...], names: list[str], path: Path) -> Runner:
    """ONNX with a dynamic batch; returns what runs the file in onnxruntime.

    Raises:
        ImportError: if the extra is not installed.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it, and says so less clearly)
    except ImportError as error:
        raise ImportError(f"exporting to ONNX needs the extra: pip install '.[onnx]' in the clone ({error})") from error
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        # Both inputs of the decoder share the batch axis, which torch remarks upon.
        warnings.filterwarnings("ignore", message=".*axis name: batch will not be used")
        torch.onnx.export(
            graph,
            inputs,
            path,
            dynamo=True,
            input_names=names,
            output_names=OUTPUT_NAMES[type(graph)],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            external_data=num_bytes(graph) > ONE_FILE_BYTES,
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
    """Write encoder and, where the model decodes, decoder; each is loaded back and compared before it is kept.

    Args:
        model: In float32 on the CPU.
        output: Folder to create.
        fmt: "torch-export" or "onnx".
        height: Of the images; None takes the model's own size.
        width: Likewise.

    Raises:
        ValueError: if the format is unknown, the size does not fit, or a graph's outputs differ from the model's.
        FileExistsError: if the output exists.
    """
    if fmt not in FORMATS:
        raise ValueError(f"unknown format {fmt!r}; there are {', '.join(FORMATS)}")
    output = Path(output).absolute()
    if output.exists():
        raise FileExistsError(f"{output} exists already; name a folder that does not")
    height, width = height or model.config.image_size, width or model.config.image_size
    model.grid_size(height, width)  # says what is wrong with a size before anything is written
    temporary = output.with_name(f".{output.name}.{uuid.uuid4().hex}.part")
    temporary.mkdir()
    try:
        graphs = export_graphs(model.eval(), temporary, fmt, height, width)
        os.replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return graphs


def export_graphs(model: StellarModel, folder: Path, fmt: str, height: int, width: int) -> list[ExportedGraph]:
    """Encoder first, then the decoder on its outputs."""
    write, suffix = FORMATS[fmt]
    encoder = EncoderGraph(model, height, width).eval()
    pixel_values = example_images(EXAMPLE_BATCH, height, width)
    path = folder / f"encoder{suffix}"
    run = write(encoder, (pixel_values,), ["pixel_values"], path)
    graphs = [ExportedGraph(path.name, compare(encoder, run, lambda n: (example_images(n, height, width),)))]
    try:
        decoder = DecoderGraph(model, height, width).eval()
    except ValueError:
        return graphs
    encode = torch.no_grad()(lambda n: encoder(example_images(n, height, width))[:2])
    path = folder / f"decoder{suffix}"
    run = write(decoder, encode(EXAMPLE_BATCH), ["semantics", "localization"], path)
    return [*graphs, ExportedGraph(path.name, compare(decoder, run, encode))]


def num_bytes(module: nn.Module) -> int:
    """Size of a module's parameters and buffers."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def example_images(batch_size: int, height: int, width: int) -> Tensor:
    """Random images, the same at every call."""
    generator = torch.Generator().manual_seed(batch_size)
    return torch.rand(batch_size, 3, height, width, generator=generator)


def compare(graph: nn.Module, run: Runner, inputs: Callable[[int], tuple[Tensor, ...]]) -> float:
    """The largest relative difference between a module and its exported form, at batch sizes it was not traced with.

    Raises:
        ValueError: if it is above the tolerance.
    """
    largest = 0.0
    for batch_size in CHECKED_BATCHES:
        tensors = inputs(batch_size)
        with torch.no_grad():
            expected = as_tuple(graph(*tensors))
            actual = run(*tensors)
        for ours, theirs in zip(expected, actual, strict=True):
            largest = max(largest, float((ours - theirs).abs().max() / ours.abs().max()))
    if not largest <= TOLERANCE:
        raise ValueError(
            f"the exported {type(graph).__name__} differs from the model by {largest:.2e} relative, more than "
            f"{TOLERANCE:.0e}; nothing was kept"
        )
    return largest


def as_tuple(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One tensor or several, as several."""
    return (output,) if isinstance(output, Tensor) else tuple(output)
