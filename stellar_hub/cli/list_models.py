"""`stellar-hub list` prints the pretrained models."""

from pathlib import Path

import typer

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.options import Debug


@reports_errors
def list_models(debug: Debug = False) -> None:
    """List the pretrained models with the size of their weights, and say which are on this machine.

    Example: stellar-hub list
    """
    from huggingface_hub import try_to_load_from_cache

    from stellar_hub.registry import EMBEDDED_FOLDER, MODELS, TOKENIZER, HubFile

    def place(file: HubFile | None) -> str:
        if file is None:
            return "in the package"
        cached = try_to_load_from_cache(file.repository, file.name, revision=file.revision)
        return "cached" if isinstance(cached, str) else f"{file.repository} on the Hub"

    rows = [("name", "MB", "license", "model", "where")]
    for model in MODELS.values():
        size = str(model.file.megabytes if model.file else round(weights_bytes(EMBEDDED_FOLDER / model.name) / 1e6))
        rows.append((model.name, size, model.license, f"{model.architecture}: {model.notes}", place(model.file)))
    rows.append(("(tokenizer)", str(TOKENIZER.megabytes), TOKENIZER.license, "decodes for vq models", place(TOKENIZER)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if column == 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())


def weights_bytes(folder: Path) -> int:
    """Returns the size of the files of weights in the folder of a model in bytes."""
    return sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
