"""`stellar-hub encode` writes a file with `S` and `L` for each image."""

import json
from functools import partial
from pathlib import Path

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.options import (
    Again,
    Debug,
    Device,
    Fit,
    FitOption,
    Images,
    ImageSize,
    ModelName,
    NumTokens,
    Output,
    parse_image_size,
)


@reports_errors
def encode(
    images: Images,
    output: Output,
    model: ModelName = "stellar-tiny",
    fit: Fit = FitOption.crop,
    image_size: ImageSize = None,
    num_tokens: NumTokens = None,
    device: Device = "auto",
    overwrite: Again = False,
    debug: Debug = False,
) -> None:
    """Encode images and write NAME.safetensors for each, with the tensors `semantics` (S) and `localization` (L).

    The file's metadata stores the model, the source, the original size, the crop box and the grid. Two images of a
    folder that differ in their extension alone keep it: a.jpg.safetensors and a.png.safetensors. An interrupted command
    goes on when you run it again.

    Example: stellar-hub encode photo.jpg holiday/ --output codes
    """
    from stellar_hub.cli.earlier_runs import left_to_do, record_of, with_image
    from stellar_hub.cli.images import for_each, plan_jobs
    from stellar_hub.cli.models import check_num_tokens, open_model
    from stellar_hub.cli.targets import with_folder
    from stellar_hub.version import __version__

    size = parse_image_size(image_size)
    jobs = plan_jobs(images, output, ".safetensors", overwrite)

    # Late: a wrong path is reported without the seconds that these imports take.
    from stellar_hub.features.rows import printable

    network, processor = open_model(model, device, fit, decoder=False, image_size=size)
    check_num_tokens(num_tokens, network)
    record = record_of("encode", model, network, processor, False, num_tokens)

    def work(source: Path, target: Path) -> str:
        import torch

        written = with_image(record, source)
        batch = processor(source, return_tensors="pt", return_geometry=True)
        pixel_values = batch["pixel_values"]
        with torch.inference_mode():
            encoding = network.encode(pixel_values.to(network.device), num_tokens)
        facts = {
            "library": f"stellar_hub {__version__}",
            "source": printable(str(source)),
            "original_size": json.dumps(batch["original_sizes"][0].tolist()),
            "crop_box": json.dumps(batch["crop_boxes"][0].tolist()),
        }
        encoding.save(with_folder(target), metadata=written | facts)
        tokens, width = encoding.semantics.shape[1:]
        return f"{source} -> {target}: S {tokens} x {width}, L {encoding.localization.shape[1]} x {tokens}"

    for_each(left_to_do(jobs, partial(with_image, record), overwrite), work, debug)
