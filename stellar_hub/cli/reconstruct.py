"""`stellar-hub reconstruct` decodes images from their tokens, or from files of `S` and `L`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stellar_hub.cli.errors import WrongUsage, reports_errors
from stellar_hub.cli.messages import warn
from stellar_hub.cli.options import (
    Again,
    Codes,
    Debug,
    Device,
    Fit,
    FitOption,
    ImageSize,
    ModelName,
    NumTokens,
    Output,
    parse_image_size,
)

if TYPE_CHECKING:
    from torch import Tensor

    from stellar_hub.modeling import StellarEncoding, StellarModel

CODES = ".safetensors"


@reports_errors
def reconstruct(
    images: Codes,
    output: Output,
    model: ModelName = "stellar-tiny",
    fit: Fit = FitOption.crop,
    image_size: ImageSize = None,
    num_tokens: NumTokens = None,
    device: Device = "auto",
    overwrite: Again = False,
    debug: Debug = False,
) -> None:
    """Encode and decode images; write NAME.png for each and print its PSNR.

    It also decodes files that `stellar-hub encode` wrote. Two files of a folder that differ in their extension alone
    keep it: a.jpg.png and a.webp.png. An interrupted command goes on when you run it again.

    Example: stellar-hub reconstruct photo.jpg codes/cat.safetensors --output decoded
    """
    from stellar_hub.cli.earlier_runs import left_to_do, record_of, record_of_processor, with_image
    from stellar_hub.cli.images import for_each, plan_jobs
    from stellar_hub.cli.models import check_num_tokens, open_model

    size = parse_image_size(image_size)
    jobs = plan_jobs(images, output, ".png", overwrite, {CODES})
    check_options_of_codes([job.source for job in jobs], image_size, fit)

    # Late: a wrong path is reported without the seconds that these imports take.
    import torch

    from stellar_hub.features.identity import load_processor
    from stellar_hub.measures import psnr

    network, processor = open_model(model, device, fit, decoder=True, image_size=size)
    check_num_tokens(num_tokens, network)
    of_images = record_of("reconstruct", model, network, processor, True, num_tokens)
    of_codes = of_images | record_of_processor(load_processor(model, network), num_tokens)  # no option fits them

    def record(source: Path) -> dict[str, str]:
        return with_image(of_codes if is_code(source) else of_images, source)

    def work(source: Path, target: Path) -> str:
        written = record(source)
        if is_code(source):
            write_png(decode_file(network, source, model, num_tokens), target, written)
            return f"{source} -> {target}"
        pixel_values = processor(source, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            decoded = network.reconstruct(pixel_values.to(network.device), num_tokens).float().cpu()
        write_png(decoded[0], target, written)
        return f"{source} -> {target}: PSNR {psnr(decoded, pixel_values):.2f} dB"

    for_each(left_to_do(jobs, record, overwrite), work, debug)


def is_code(source: Path) -> bool:
    """Whether a file is a saved encoding, by its suffix."""
    return source.suffix.lower() == CODES


def check_options_of_codes(sources: Sequence[Path], image_size: str | None, fit: str) -> None:
    """Says that options for images change nothing for codes, which are decoded at the size they were encoded at.

    Raises:
        WrongUsage: if --image-size is given, and there are only codes.
    """
    codes = [source for source in sources if is_code(source)]
    given = [f"--image-size {image_size}"] if image_size is not None else []
    if given and codes and len(codes) == len(sources):
        raise WrongUsage(f"{given[0]} does not apply to codes, which are decoded at their own size: leave it out")
    given += [f"--fit {fit}"] if fit != FitOption.crop else []
    if given and codes:
        warn(f"note: {' and '.join(given)} applies to images; codes are decoded at their own size ({len(codes)} files)")


def decode_file(model: "StellarModel", source: Path, name: str, num_tokens: int | None = None) -> "Tensor":
    """Returns the image of a saved encoding, or of its first `num_tokens` tokens, `(3, H, W)` in [0, 1].

    Raises:
        ValueError: if the file holds several images or fewer tokens, or a model of another name made it.
    """
    import torch

    encoding = load_code(source, name).to(model.device)
    with torch.inference_mode():
        return model.decode(encoding.select(num_tokens=num_tokens))[0].float().cpu()


def load_code(source: Path, name: str) -> "StellarEncoding":
    """Reads the saved encoding of one image.

    Args:
        source: File that `stellar-hub encode` or `stellar-hub edit` wrote.
        name: Name of the model of this command.

    Raises:
        ValueError: if the file is damaged or holds several images, or a model of another name made it.
    """
    from stellar_hub.features.rows import printable
    from stellar_hub.modeling import StellarEncoding
    from stellar_hub.modeling.outputs import open_safetensors

    encoding = StellarEncoding.load(source)
    with open_safetensors(source) as file:
        metadata = file.metadata() or {}
    if encoding.semantics.shape[0] != 1:
        raise ValueError(f"{source} holds {encoding.semantics.shape[0]} images, this command decodes files of one")
    written = metadata.get("model", printable(name))
    if Path(written).name != Path(printable(name)).name:
        raise ValueError(f"{source} was encoded by {written}, not by {name}: pass --model {written}")
    return encoding


def write_png(image: "Tensor", target: Path, record: Mapping[str, str]) -> None:
    """Writes an image `(3, H, W)` in [0, 1] as a PNG file, with the record of how it was made."""
    from stellar_hub.cli.earlier_runs import png_with_record
    from stellar_hub.cli.targets import with_folder
    from stellar_hub.modeling.atomic_write import write_atomically
    from stellar_hub.modeling.localization_maps import to_pil

    write_atomically(with_folder(target), png_with_record(to_pil(image), record))
