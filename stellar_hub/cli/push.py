"""`stellar-hub push` uploads a model to the Hugging Face Hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from stellar_hub.cli.errors import WrongUsage, reports_errors
from stellar_hub.cli.messages import announce_loading, safe, say, warn
from stellar_hub.cli.models import check_name
from stellar_hub.cli.options import Debug


@reports_errors
def push(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name or folder of the model.")],
    repository: Annotated[
        str,
        typer.Argument(
            metavar="REPOSITORY",
            help="Repository to push to, USER/NAME or ORGANIZATION/NAME; NAME alone belongs to the user of your token. "
            "It is created if it does not exist.",
        ),
    ],
    license: Annotated[
        str,
        typer.Option(
            "--license",
            metavar="LICENSE",
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
    from huggingface_hub.utils import logging, validate_repo_id

    from stellar_hub.features import load_model
    from stellar_hub.hub.push import license_of
    from stellar_hub.hub.push import push as push_model
    from stellar_hub.modeling.loading import check_source

    check_name(model)
    try:
        validate_repo_id(repository)
    except ValueError as error:
        raise WrongUsage(
            f"the repository must be USER/NAME or NAME, of letters, digits, '-', '_' and '.', got {repository!r}"
        ) from error
    if Path(model).is_dir():  # before its card is asked for: the folder may be one of images
        check_source(model, {})
    license, known = license.strip(), license_of(model)
    if not license and not known and Path(model).is_dir():
        raise WrongUsage(f"the card of {model} names no license: pass --license, such as mit, apache-2.0 or other")
    if license and known and license != known:
        warn(f"note: --license {license} replaces {known}, the license of {model}")
    announce_loading(model)
    network, _ = load_model(model, "cpu")
    logging.set_verbosity_error()  # the client prints each try to reach the Hub; its error says the same
    warn(f"asking the Hub for {repository}")
    done = push_model(network, repository, license=license, private=not public, dry_run=dry_run, replace=replace)
    lines = _lines_of_files(done.files)
    width = max(map(len, lines))
    for name, size in lines.items():
        typer.echo(f"{name:<{width}}  {_in_words(size):>9}")
    total = f"{len(done.files)} files, {_in_words(sum(done.files.values()))}, license {license or known}"
    if dry_run:
        say(f"{total}, would be pushed to {done.url}; a new repository would be {'public' if public else 'private'}")
    else:
        say(f"{total}, pushed: {done.url}")


def _lines_of_files(files: Mapping[str, int]) -> dict[str, int]:
    """Returns the sizes in bytes of what is listed: each file by its name, and all files of code together."""
    code = [size for name, size in files.items() if name.endswith(".py")]
    lines = {safe(name): size for name, size in files.items() if not name.endswith(".py")}
    return {**lines, f"*.py ({len(code)} files of the model's code)": sum(code)} if code else lines


def _in_words(size: float) -> str:
    """Returns a number of bytes as people read it: "317 B", "1.2 kB", "40.1 MB"."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
