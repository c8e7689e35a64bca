"""`stellar-hub visualize` draws a page about each image."""

import io
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
def visualize(
    images: Images,
    output: Output,
    model: ModelName = "stellar-tiny",
    fit: Fit = FitOption.crop,
    image_size: ImageSize = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Draw a page for each image, NAME.png: the input, the reconstruction with its PSNR, and the map of each token.

    Two images of a folder that differ in their extension alone keep it: a.jpg.png and a.webp.png.

    Example: stellar-hub visualize photo.jpg --output pages
    """
    from stellar_hub.cli.images import for_each, plan_jobs

    size = parse_image_size(image_size)
    jobs = plan_jobs(images, output, ".png", overwrite)
    announce_loading(model)

    # Late: a wrong path is reported without the seconds that these imports take.
    from stellar_hub.features import load_model

    network, processor = load_model(model, device, fit, image_size=size)

    def work(source: Path, target: Path) -> str:
        from stellar_hub.modeling.atomic_write import write_atomically
        from stellar_hub.visualization import draw_page

        page, facts = draw_page(network, processor, source, title=f"{source.name} by {model}")
        buffer = io.BytesIO()
        page.save(buffer, format="PNG")
        write_atomically(target, buffer.getvalue())
        return f"{source} -> {target}" + (f": PSNR {facts.psnr:.2f} dB" if facts.psnr is not None else "")

    for_each(jobs, work, debug)
