"""`stellar-hub encode` writes a file with `S` and `L` for each image."""

import json
from pathlib import Path

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.messages import announce_loading
from stellar_hub.cli.options import (
    Debug,
    Device,
    Fit,
    FitOption,
    Images,
    ImageSize,
    ModelName,
    Output,
    Overwrite,
    parse_image_size,
)


@reports_errors
def encode(
    images: Images,
    output: Output,
    model: ModelName = "stellar-tiny",
    fit: Fit = FitOption.crop,
    image_size: ImageSize = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Encode images and write NAME.safetensors for each, with the tensors `semantics` (S) and `localization` (L).

    The file's metadata stores the model, the source, the original size, the crop box and the grid. Two images of a
    folder that differ in their extension alone keep it: a.jpg.safetensors and a.png.safetensors.

    Example: stellar-hub encode photo.jpg holiday/ --output codes
    """
    from stellar_hub.cli.images import for_each, plan_jobs
    from stellar_hub.version import __version__

    size = parse_image_size(image_size)
    jobs = plan_jobs(images, output, ".safetensors", overwrite)
    announce_loading(model)

    # Late: a wrong path is reported without the seconds that these imports take.
    from stellar_hub.features import load_model
    from stellar_hub.features.rows import printable

    network, processor = load_model(model, device, fit, decoder=False, image_size=size)

    def work(source: Path, target: Path) -> str:
        import torch

        batch = processor(source, return_tensors="pt", return_geometry=True)
        pixel_values = batch["pixel_values"]
        with torch.inference_mode():
            encoding = network.encode(pixel_values.to(network.device))
        facts = {
            "model": printable(model),
            "library": f"stellar_hub {__version__}",
            "source": printable(str(source)),
            "original_size": json.dumps(batch["original_sizes"][0].tolist()),
            "crop_box": json.dumps(batch["crop_boxes"][0].tolist()),
        }
        encoding.save(target, metadata=facts)
        tokens, width = encoding.semantics.shape[1:]
        return f"{source} -> {target}: S {tokens} x {width}, L {encoding.localization.shape[1]} x {tokens}"

    for_each(jobs, work, debug)
