"""`stellar-hub push` uploads a model to the Hugging Face Hub."""

from typing import Annotated

import typer

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.messages import safe
from stellar_hub.cli.options import Debug


@reports_errors
def push(
    model: Annotated[str, typer.Argument(help="Name or folder of the model.")],
    repository: Annotated[
        str, typer.Argument(help='Repository to push to, "user/name". It is created if it does not exist.')
    ],
    license: Annotated[
        str,
        typer.Option(
            "--license",
            help="License of the weights: mit, apache-2.0, ... Default: that of a pretrained model, or that in the "
            "card of the model's folder.",
        ),
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public. Default: private.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace all files of a repository that holds another model.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files that would be sent, with their sizes, and send nothing.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Push a model with its image processor, code and card to the Hub.

    A card that stands in the model's folder or in the repository is kept, with the images that it shows: only the
    sections and the metadata that this library wrote are renewed. No other file of the folder is sent.

    Example: stellar-hub push ./my-model user/my-model --license mit --dry-run
    """
    from stellar_hub.features import load_model
    from stellar_hub.hub.push import push as push_model

    network, _ = load_model(model, "cpu")
    done = push_model(network, repository, license=license, private=not public, dry_run=dry_run, replace=replace)
    width = max(len(safe(name)) for name in done.files)
    for name, size in done.files.items():
        typer.echo(f"{safe(name):<{width}}  {_in_words(size):>9}")
    total = f"{len(done.files)} files, {_in_words(sum(done.files.values()))}"
    typer.echo(f"{total}, {'would be pushed to' if dry_run else 'pushed:'} {done.url}")


def _in_words(size: float) -> str:
    """Returns a number of bytes as people read it: "317 B", "1.2 kB", "40.1 MB"."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
