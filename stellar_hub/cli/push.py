"""`stellar-hub push` uploads a model to the Hugging Face Hub."""

from typing import Annotated

import typer

from stellar_hub.cli.errors import reports_errors
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
            help="License of the weights: mit, apache-2.0, ... Default: that of a pretrained model.",
        ),
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public. Default: private.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the content of a repository that holds another model.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files that would be sent, and send nothing.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Push a model with its image processor, code and card to the Hub.

    Example: stellar-hub push ./my-model user/my-model --license mit --dry-run
    """
    from stellar_hub.features.loading import load_model
    from stellar_hub.hub.push import push as push_model

    network, _ = load_model(model, "cpu")
    done = push_model(network, repository, license=license, private=not public, dry_run=dry_run, replace=replace)
    for name, size in done.files.items():
        typer.echo(f"{size / 1e6:10.2f} MB  {name}")
    typer.echo(f"{'would be pushed to' if dry_run else 'pushed:'} {done.url}")
