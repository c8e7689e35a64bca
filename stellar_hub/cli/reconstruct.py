"""`stellar-hub reconstruct` decodes images from their tokens, or from files of `S` and `L`."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.messages import announce_loading
from stellar_hub.cli.options import (
    Codes,
    Debug,
    Device,
    Fit,
    FitOption,
    ImageSize,
    ModelName,
    Output,
    Overwrite,
    parse_image_size,
)

if TYPE_CHECKING:
    from torch import Tensor

    from stellar_hub.modeling import StellarModel


@reports_errors
def reconstruct(
    images: Codes,
    output: Output,
    model: ModelName = "stellar-tiny",
    fit: Fit = FitOption.crop,
    image_size: ImageSize = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Encode and decode images; write NAME.png for each and print its PSNR.

    It also decodes files that `stellar-hub encode` wrote. Two files of a folder that differ in their extension alone
    keep it: a.jpg.png and a.webp.png.

    Example: stellar-hub reconstruct photo.jpg codes/cat.safetensors --output decoded
    """
    from stellar_hub.cli.images import for_each, plan_jobs

    size = parse_image_size(image_size)
    jobs = plan_jobs(images, output, ".png", overwrite, {".safetensors"})
    announce_loading(model)

    # Late: a wrong path is reported without the seconds that these imports take.
    import torch

    from stellar_hub.features import load_model
    from stellar_hub.measures import psnr

    network, processor = load_model(model, device, fit, decoder=True, image_size=size)

    def work(source: Path, target: Path) -> str:
        if source.suffix.lower() == ".safetensors":
            write_png(decode_file(network, source, model), target)
            return f"{source} -> {target}"
        pixel_values = processor(source, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            decoded = network.reconstruct(pixel_values.to(network.device)).float().cpu()
        write_png(decoded[0], target)
        return f"{source} -> {target}: PSNR {psnr(decoded, pixel_values):.2f} dB"

    for_each(jobs, work, debug)


def decode_file(model: "StellarModel", source: Path, name: str) -> "Tensor":
    """Returns the image of a saved encoding, `(3, H, W)` in [0, 1].

    Raises:
        ValueError: if the file holds several images, or a model of another name made it.
    """
    import torch

    from stellar_hub.features.rows import printable
    from stellar_hub.modeling import StellarEncoding
    from stellar_hub.modeling.outputs import open_safetensors

    encoding = StellarEncoding.load(source).to(model.device)
    with open_safetensors(source) as file:
        metadata = file.metadata() or {}
    if encoding.semantics.shape[0] != 1:
        raise ValueError(f"{source} holds {encoding.semantics.shape[0]} images, this command decodes files of one")
    written = metadata.get("model", printable(name))
    if Path(written).name != Path(printable(name)).name:
        raise ValueError(f"{source} was encoded by {written}, not by {name}: pass --model {written}")
    with torch.inference_mode():
        return model.decode(encoding)[0].float().cpu()


def write_png(image: "Tensor", target: Path) -> None:
    """Writes an image `(3, H, W)` in [0, 1] as a PNG file."""
    from stellar_hub.modeling.atomic_write import write_atomically
    from stellar_hub.modeling.localization_maps import to_pil

    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="PNG")
    write_atomically(target, buffer.getvalue())
