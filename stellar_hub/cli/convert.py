"""`stellar-hub convert` writes an original checkpoint as a folder that `from_pretrained` loads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.messages import announce_loading
from stellar_hub.cli.options import Debug, at_least

if TYPE_CHECKING:
    from stellar_hub.modeling import StellarModel


@reports_errors
def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="Original checkpoint file: .safetensors, .ckpt, .bin or .pt."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder to create.")],
    vqgan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Weights of the MaskGIT-VQGAN (.bin). A model with a vq head needs them to decode."
        ),
    ] = None,
    num_attention_heads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            callback=at_least(1),
            help="Number of attention heads of the encoder. Needed if its width is not 192, 384, 768, 1024 or 1280.",
        ),
    ] = None,
    decoder_num_attention_heads: Annotated[
        int | None,
        typer.Option(
            metavar="N", callback=at_least(1), help="Number of the decoder's attention heads, if its width is not 512."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Convert an original STELLAR checkpoint to a folder with weights, configuration and image processor.

    The command loads the new folder and compares its outputs with the original's before it keeps the folder.

    Example: stellar-hub convert stellar-b16.safetensors --vqgan maskgit-vqgan-imagenet-f16-256.bin --output stellar-b16
    """
    from transformers.utils import logging

    from stellar_hub.conversion import load_original
    from stellar_hub.modeling.atomic_write import replaced_folder
    from stellar_hub.modeling.safe_text import escape_control

    logging.disable_progress_bar()
    if output.exists():
        raise FileExistsError(f"--output {output} exists already; name a folder that does not")
    announce_loading(str(checkpoint))
    model = load_original(
        checkpoint,
        vqgan=vqgan,
        num_attention_heads=num_attention_heads,
        decoder_num_attention_heads=decoder_num_attention_heads,
    )
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with replaced_folder(output) as folder:
        save_and_compare(model, folder, output.name)
    config = model.config
    typer.echo(
        f"{escape_control(str(checkpoint))} -> {escape_control(str(output))}: "
        f"{config.num_sparse_tokens} tokens of {config.hidden_size}, {config.num_hidden_layers} layers, "
        f"patch {config.patch_size}, {config.image_size} pixels, {config.reconstruction_head} head"
    )
    if config.use_decoder and config.reconstruction_head == "vq" and not config.use_tokenizer:
        typer.echo("Without --vqgan the model encodes but cannot decode.")
    typer.echo(f'Load it with StellarModel.from_pretrained("{escape_control(str(output))}").')


def save_and_compare(model: "StellarModel", folder: Path, name: str) -> None:
    """Saves model and image processor, loads them again, and compares the outputs for a random image bit by bit.

    Args:
        model: The converted model.
        folder: Empty folder to save to.
        name: Name of the model on its card.

    Raises:
        ValueError: if the outputs differ.
    """
    import torch

    from stellar_hub.modeling import StellarImageProcessor, StellarModel

    model.save_pretrained(folder, save_original_format=False, name=name)
    StellarImageProcessor.from_config(model.config).save_pretrained(folder)
    again = StellarModel.from_pretrained(folder)
    side = model.config.image_size
    pixel_values = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        same = all(
            torch.equal(*pair) for pair in zip(model.encode(pixel_values), again.encode(pixel_values), strict=True)
        )
    if not same:
        raise ValueError("the saved model gives other outputs than the original; the folder was removed")
