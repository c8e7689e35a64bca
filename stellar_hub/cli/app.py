"""`stellar-hub app` opens the demo page; it needs no network."""

from pathlib import Path
from typing import Annotated

import typer

from stellar_hub.cli.errors import WrongUsage, reports_errors
from stellar_hub.cli.messages import announce_loading, say, warn
from stellar_hub.cli.models import check_name
from stellar_hub.cli.options import Debug, Device, check_port

ModelNames = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Name, folder or Hub repository of a model. Repeat it to compare models; the page opens with the first. "
        "On 127.0.0.1 the page offers the pretrained models too, and downloads one when it is chosen.",
    ),
]
Store = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="FOLDER",
        help="Feature store with S and L, as `stellar-hub extract --outputs S L` writes it, to search by a token. "
        "Default: no search.",
        show_default=False,
    ),
]
StoreImages = Annotated[
    list[str] | None,
    typer.Option(
        "--store-images",
        metavar="SOURCE",
        help="Images that the store was made from, to show what is found: a folder, a list, tars or a table. Default: "
        "names alone.",
        show_default=False,
    ),
]
Host = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Address to bind to. 127.0.0.1 is for this machine alone; 0.0.0.0 lets everybody in who reaches it.",
    ),
]
Port = Annotated[
    int, typer.Option("--port", metavar="PORT", callback=check_port, help="Port of the page; 0 takes a free one.")
]


@reports_errors
def open_app(
    model: ModelNames = ["stellar-tiny"],  # noqa: B006  # typer's way
    store: Store = None,
    store_images: StoreImages = None,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Open the demo page: see what the tokens of a photograph hold, and drop, move, mirror or transplant them.

    The page works offline and sends nothing to anybody. Ctrl-C ends it. Install it with: pip install
    'stellar_hub[app]'.

    Example: stellar-hub app --model stellar-tiny --port 7860
    """
    for name in model:
        check_name(name)
    if store_images and store is None:
        raise WrongUsage("--store-images goes with --store FOLDER")
    from stellar_hub.app import ConceptSearch, Desk, Models, gradio, is_local, serve
    from stellar_hub.registry import list_models

    gradio()  # before anything is loaded, so that a missing extra is told at once
    search = None if store is None else ConceptSearch(store, store_images)
    # Only who sits at this machine may have others downloaded.
    models = Models([*model, *list_models()] if is_local(host) else model, device)
    announce_loading(models.names[0])
    models.load(models.names[0])  # before the page is there, so that a wrong model is an error of the command
    if not is_local(host):
        warn(f"note: everybody who reaches {host}:{port} can use this page; there is no password")
    serve(Desk(models, search), host, port, lambda address: say(f"the page is open at {address} (Ctrl-C ends it)"))
