"""`stellar-hub edit` changes the tokens of an image and decodes the result."""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stellar_hub.cli.edit_words import Edit, edit_option, edits_in_order
from stellar_hub.cli.errors import WrongUsage, reports_errors
from stellar_hub.cli.messages import say, warn
from stellar_hub.cli.options import (
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
    from PIL.Image import Image
    from torch import Tensor

    from stellar_hub.modeling import StellarEncoding, StellarImageProcessor, StellarModel

CODES = ".safetensors"
SUFFIXES = (CODES, ".png", "-before-after.png")  # of the code, the decoded image and the page
MAX_NAMED = 8  # tokens that a line names
Texts = list[str] | None


@reports_errors
def edit(
    context: typer.Context,
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="An image, or a .safetensors file of S and L of one image.")
    ],
    output: Output,
    drop_edits: Annotated[
        Texts, edit_option("--drop", "Take tokens out of the image, such as --drop 3 or --drop 3,7.")
    ] = None,
    keep_edits: Annotated[
        Texts, edit_option("--keep", "Take all other tokens out of the image, such as --keep 2,5.")
    ] = None,
    swap_edits: Annotated[
        Texts, edit_option("--swap", "Let two tokens exchange their places, such as --swap 2:9.")
    ] = None,
    move_edits: Annotated[
        Texts,
        edit_option("--move", "Move a token by so many pixels to the right and down; negative is left and up."),
    ] = None,
    scale_edits: Annotated[
        Texts,
        edit_option("--scale", "Make a token larger or smaller about its centre, by a factor from 0.01 to 100."),
    ] = None,
    mirror_edits: Annotated[
        Texts,
        edit_option("--mirror", "Exchange left and right of a token about its centre; with :vertical, top and bottom."),
    ] = None,
    paint_edits: Annotated[
        Texts,
        edit_option(
            "--paint",
            "Give a rectangle to a token; its edges are in pixels. STRENGTH is from 0 to 1. Default of STRENGTH: 1.",
        ),
    ] = None,
    from_edits: Annotated[
        Texts,
        edit_option(
            "--from",
            "Add a token of another image or code, with its map, such as --from other.jpg:7@120,80. @X,Y is where its "
            "centre goes. Default of @X,Y: where it is in its own image.",
        ),
    ] = None,
    replace_edits: Annotated[
        Texts,
        edit_option("--replace", "Put a token of another image in place of a token, such as --replace 5:other.jpg:7."),
    ] = None,
    blend_edits: Annotated[
        Texts,
        edit_option("--blend", "Lay another image over this one, with a weight from 0 to 1. Default of WEIGHT: 0.5."),
    ] = None,
    interpolate_edits: Annotated[
        Texts,
        edit_option(
            "--interpolate",
            "Go a part of the way to another image, from 0 to 1: matched tokens change what and where they are. "
            "Default of FRACTION: 0.5.",
        ),
    ] = None,
    model: ModelName = "stellar-tiny",
    fit: Fit = FitOption.crop,
    image_size: ImageSize = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Edit the tokens of an image, decode it, and draw a page with the difference.

    It writes NAME.png (the decoded image), NAME.safetensors (its S and L) and NAME-before-after.png (the page). Every
    edit may be given several times. Edits are applied in the order in which they are written. Positions and
    offsets are pixels of the image as the model sees it (after resizing and cropping), x before y, and 0,0 is at the
    top left. A TOKEN is a number, as `stellar-hub visualize` draws it, or @X,Y for the strongest token of a place.

    Example: stellar-hub edit photo.jpg --drop 3 --move 5:+40,-12 --from other.jpg:7@120,80 --output edited
    """
    edits = edits_in_order(context)
    if not edits:
        raise WrongUsage("no edit was given: pass at least one, such as --drop 3 or --move @60,40:+20,0")
    size = parse_image_size(image_size)
    others = list(dict.fromkeys(each.file for each in edits if each.file is not None))
    targets = plan_targets(image, others, output, overwrite)

    from stellar_hub.cli.models import open_model
    from stellar_hub.cli.reconstruct import check_options_of_codes

    check_options_of_codes([image, *others], image_size, fit)
    network, processor = open_model(model, device, fit, decoder=True, image_size=size)
    if network.config.reconstruction_head == "vq":
        warn(
            "note: the codes of this model's vq head are an argmax: a small edit may change nothing, and no gradient "
            "reaches S and L"
        )
    run_edits(network, processor, model, image, edits, targets)


def plan_targets(image: Path, others: Sequence[Path], output: Path, overwrite: bool) -> list[Path]:
    """Returns the paths of the code, the image and the page; nothing is written yet.

    Raises:
        FileNotFoundError: if a file to read does not exist.
        FileExistsError: if an output exists and may not be replaced.
        ValueError: if a path is not a file, or an output would replace a file that is read.
    """
    from stellar_hub.cli.images import check_exists, plan_jobs
    from stellar_hub.cli.targets import check_targets

    for path in (image, *others):
        check_exists(path)
        if not path.is_file():
            raise ValueError(f"{path} is not a file: name one image, or one .safetensors file of S and L")
    targets = [plan_jobs([image], output, suffix, True, {CODES})[0].target for suffix in SUFFIXES]
    check_targets([image] * len(targets), targets, overwrite)
    for other in others:
        check_targets([other] * len(targets), targets, overwrite)
    return targets


def run_edits(
    network: "StellarModel",
    processor: "StellarImageProcessor",
    name: str,
    image: Path,
    edits: Sequence[Edit],
    targets: Sequence[Path],
) -> None:
    """Reads an image, applies the edits, and writes the code, the decoded image and the page.

    Args:
        network: Model that decodes.
        processor: Its image processor.
        name: Name of the model, as the user wrote it.
        image: Image or code to edit.
        edits: Edits in their order.
        targets: Paths of the three outputs.
    """
    import torch

    from stellar_hub.cli.edit_steps import Step, apply_edit
    from stellar_hub.modeling.localization_maps import to_pil
    from stellar_hub.visualization import EditedImage, draw_edit

    @cache
    def read(path: Path) -> "tuple[StellarEncoding, Tensor | None]":
        return read_encoding(network, processor, name, path)

    with torch.inference_mode():
        before, pixel_values = read(image)
        encoding, captions = before, dict[int, str]()
        for each in edits:
            step = Step(each, encoding, lambda path: read(path)[0], network.config.patch_size)
            encoding, touched = apply_edit(step)
            captions |= {token: _joined(captions.get(token), caption) for token, caption in touched.items()}
            say(f"{each.option} {each.text}: {describe(touched)}")
            note_lost(each, encoding, touched)
        first, last = (
            EditedImage(network.decode(state)[0].float().cpu(), state.localization[0].float().cpu())
            for state in (before, encoding)
        )
    assert encoding.grid_size is not None
    page, facts = draw_edit(
        first, last, encoding.grid_size, captions, f"{image.name}, edited with {name}", pixel_values
    )
    facts_of_image = facts_for_metadata(network, processor, name, image, edits)
    write_all(
        targets,
        [
            lambda path: encoding.save(path, metadata=facts_of_image),
            lambda path: _write_png(path, to_pil(last.decoded), facts_of_image),
            lambda path: _write_png(path, page, facts_of_image),
        ],
    )
    say(f"{image} -> {', '.join(map(str, targets))}")
    say(
        f"the decoded image changed by {facts.mean:.3f} on average and {facts.largest:.3f} at most, of 1; this says "
        "how much, not how well"
    )


def read_encoding(
    network: "StellarModel", processor: "StellarImageProcessor", name: str, path: Path
) -> "tuple[StellarEncoding, Tensor | None]":
    """Returns the encoding of an image or of a code, and the image as the model sees it, `(3, H, W)`, None for a code.

    Raises:
        ValueError: if the file is damaged, holds several images, or another model made it.
    """
    from stellar_hub.cli.reconstruct import load_code
    from stellar_hub.modeling.input_checks import resolve_grid_size

    if path.suffix.lower() != CODES:
        pixel_values = processor(path, return_tensors="pt")["pixel_values"]
        return network.encode(pixel_values.to(network.device)), pixel_values[0]
    code = load_code(path, name)
    width, expected = code.semantics.shape[2], network.config.hidden_size
    if width != expected:
        raise ValueError(f"{path} has tokens of width {width}, and {name} has {expected}: encode it with this model")
    grid_size = resolve_grid_size(code.localization.shape[1], code.grid_size)
    return code._replace(grid_size=grid_size).to(network.device), None


def describe(touched: dict[int, str]) -> str:
    """Returns one line about the tokens that an edit touched."""
    by_caption: dict[str, list[int]] = {}
    for token, caption in touched.items():
        by_caption.setdefault(caption, []).append(token)
    if len(by_caption) > 2:  # the tokens of two images
        return f"{len(touched)} tokens"
    return "; ".join(f"{_spelled(tokens)} {caption}" for caption, tokens in by_caption.items())


def note_lost(edit: Edit, encoding: "StellarEncoding", touched: Iterable[int]) -> None:
    """Says which tokens an edit left without any weight, unless it was to drop them."""
    lost = [token for token in touched if not (encoding.localization[..., token] > 0).any()]
    if lost and edit.option != "--drop":
        warn(
            f"note: {_spelled(lost)} without any weight after {edit.option} {edit.text}: no part of the image shows it"
        )


def _spelled(tokens: list[int]) -> str:
    if len(tokens) > MAX_NAMED:
        return f"{len(tokens)} tokens"
    return f"token{'s' if len(tokens) > 1 else ''} {', '.join(map(str, tokens))}"


def facts_for_metadata(
    network: "StellarModel", processor: "StellarImageProcessor", name: str, image: Path, edits: Sequence[Edit]
) -> dict[str, str]:
    """Returns what each output records: how it was made, from which image, by which edits."""
    from stellar_hub.cli.earlier_runs import record_of, with_image
    from stellar_hub.features.rows import printable
    from stellar_hub.version import __version__

    return with_image(record_of("edit", name, network, processor, decoder=True), image) | {
        "library": f"stellar_hub {__version__}",
        "source": printable(str(image)),
        "edits": json.dumps([f"{each.option} {printable(each.text)}" for each in edits]),
    }


def write_all(targets: Sequence[Path], writers: Sequence[Callable[[Path], None]]) -> None:
    """Writes several files that belong together; if one cannot be written, none of them stays."""
    from stellar_hub.cli.targets import with_folder

    written: list[Path] = []
    try:
        for target, write in zip(targets, writers, strict=True):
            write(with_folder(target))
            written.append(target)
    except BaseException:
        for target in written:
            target.unlink(missing_ok=True)
        raise


def _write_png(path: Path, image: "Image", record: dict[str, str]) -> None:
    from stellar_hub.cli.earlier_runs import png_with_record
    from stellar_hub.modeling.atomic_write import write_atomically

    write_atomically(path, png_with_record(image, record))


def _joined(earlier: str | None, caption: str) -> str:
    return caption if earlier is None else f"{earlier}, {caption}"
