"""`stellar-hub visualize` draws a page about each image."""

import io
from pathlib import Path

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.options import Debug, Device, Fit, FitOption, Images, ModelName, Output, Overwrite


@reports_errors
def visualize(
    images: Images,
    output: Output,
    model: ModelName = "stellar-tiny",
    fit: Fit = FitOption.crop,
    device: Device = "auto",
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Draw a page for each image, NAME.png: the input, the reconstruction with its PSNR, and the map of each token.

    Example: stellar-hub visualize photo.jpg --output pages
    """
    from stellar_hub.cli.images import find_files, for_each, plan_outputs

    sources = find_files(images)
    outputs = plan_outputs(sources, output, ".png", overwrite)

    # Late: a wrong path is reported without the seconds that these imports take.
    from stellar_hub.features import load_model

    network, processor = load_model(model, device, fit)

    def work(source: Path, target: Path) -> str:
        from stellar_hub.modeling.atomic_write import write_atomically
        from stellar_hub.visualization import draw_page

        page, facts = draw_page(network, processor, source, title=f"{source.name} by {model}")
        buffer = io.BytesIO()
        page.save(buffer, format="PNG")
        write_atomically(target, buffer.getvalue())
        return f"{source} -> {target}" + (f": PSNR {facts.psnr:.2f} dB" if facts.psnr is not None else "")

    for_each(sources, outputs, work, debug)
