"""`stellar-hub visualize` draws a page about each image."""

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
    Output,
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
    overwrite: Again = False,
    debug: Debug = False,
) -> None:
    """Draw a page for each image, NAME.png: the input, the reconstruction with its PSNR, and the map of each token.

    Two images of a folder that differ in their extension alone keep it: a.jpg.png and a.webp.png. An interrupted
    command goes on when you run it again.

    Example: stellar-hub visualize photo.jpg --output pages
    """
    from stellar_hub.cli.earlier_runs import left_to_do, png_with_record, record_of, with_image
    from stellar_hub.cli.images import for_each, plan_jobs
    from stellar_hub.cli.models import open_model
    from stellar_hub.cli.targets import with_folder

    size = parse_image_size(image_size)
    jobs = plan_jobs(images, output, ".png", overwrite)
    network, processor = open_model(model, device, fit, image_size=size)
    record = record_of("visualize", model, network, processor, decoder=True)

    def work(source: Path, target: Path) -> str:
        from stellar_hub.modeling.atomic_write import write_atomically
        from stellar_hub.visualization import draw_page

        written = with_image(record, source)
        page, facts = draw_page(network, processor, source, title=f"{source.name} by {model}")
        write_atomically(with_folder(target), png_with_record(page, written))
        return f"{source} -> {target}" + (f": PSNR {facts.psnr:.2f} dB" if facts.psnr is not None else "")

    for_each(left_to_do(jobs, partial(with_image, record), overwrite), work, debug)
