"""`stellar-hub export-store` writes the features of a store into a database, or into files of other programs."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from stellar_hub.cli.errors import WrongUsage, reports_errors, wrong_usage
from stellar_hub.cli.messages import say
from stellar_hub.cli.options import Debug, at_least

API_KEY = "QDRANT_API_KEY"


class Kind(StrEnum):
    """Where the features go."""

    lance = "lance"
    qdrant = "qdrant"
    parquet = "parquet"
    npy = "npy"


class ExportDtype(StrEnum):
    """Type of the features outside of the store."""

    float32 = "float32"
    float16 = "float16"


# The options that a kind takes beside those of all kinds; those of the first list must be given.
NEEDS = {
    Kind.lance: (("--output",), ("--table", "--batch-size")),
    Kind.qdrant: (("--collection",), ("--url", "--path", "--batch-size")),
    Kind.parquet: (("--output",), ("--rows-per-file", "--overwrite")),
    Kind.npy: (("--output",), ("--overwrite",)),
}


@reports_errors
def export_store(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the store, as extract writes it.")],
    to: Annotated[
        Kind,
        typer.Option(
            "--to",
            help="Where the features go: lance (a table of LanceDB), qdrant (a collection of Qdrant), parquet (a file, "
            "or a folder of files), or npy (a folder of arrays).",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PLACE",
            help="lance: folder or address of the database. parquet: file to write. npy: folder to write.",
        ),
    ] = None,
    table: Annotated[
        str | None, typer.Option("--table", metavar="NAME", help="Table of LanceDB. Default: features.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help=f"Address of the Qdrant server, such as http://localhost:6333. The environment variable {API_KEY} has "
            "the key, if the server wants one.",
        ),
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option("--path", metavar="FOLDER", help="Folder of a local Qdrant, in the place of a server."),
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", metavar="NAME", help="Collection of Qdrant.")
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(
            "--outputs",
            metavar="NAME,...",
            help="Features, separated by commas. Default: S, pooled and cls for databases, and all for files; those "
            "that the store holds.",
        ),
    ] = None,
    dtype: Annotated[
        ExportDtype, typer.Option("--dtype", help="Type of the features outside of the store.")
    ] = ExportDtype.float32,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="NAME",
            help="Name of the store in the column source, which is part of the ids: give the stores of one collection "
            "different names. Default: the name of the store's folder.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            callback=at_least(1),
            help="Number of rows that a database gets at a time. Default: chosen by the size of a row.",
        ),
    ] = None,
    rows_per_file: Annotated[
        int | None,
        typer.Option(
            "--rows-per-file",
            metavar="N",
            callback=at_least(1),
            help="Write parquet as a folder of files with N rows each. Default: one file.",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace a parquet file that exists, or a folder that an earlier export wrote."
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """Export the features of a store to a vector database or to files.

    Rows keep their ids: run the same command again after an interruption, or after the store has grown, and only rows
    that are missing or have changed are sent. Rows with an error are left out and counted. A collection with features
    of another model is refused.

    Example: stellar-hub export-store features --to npy --output arrays
    """
    given = {
        "--output": output,
        "--table": table,
        "--url": url,
        "--path": path,
        "--collection": collection,
        "--batch-size": batch_size,
        "--rows-per-file": rows_per_file,
        "--overwrite": overwrite or None,
    }
    check_options(to, given)
    names = None if outputs is None else [name.strip() for name in outputs.split(",") if name.strip()]
    common: dict[str, Any] = {"outputs": names, "dtype": dtype.value, "source": source}
    from stellar_hub.store import FeatureStore
    from stellar_hub.store.databases.places import check_outside

    opened = FeatureStore(store)
    if to is Kind.qdrant:
        if path is not None:
            check_outside(path, opened)
        client = open_qdrant(url, path)
        try:
            report = opened.to_qdrant(client, str(collection), batch_size=batch_size, **common)
        finally:
            client.close()
    elif to is Kind.lance:
        report = opened.to_lance(str(output), table or "features", batch_size=batch_size, **common)
    elif to is Kind.parquet:
        report = opened.to_parquet(str(output), rows_per_file=rows_per_file, overwrite=overwrite, **common)
    else:
        report = opened.to_npy(str(output), overwrite=overwrite, **common)
    say(str(report))


def check_options(to: Kind, given: dict[str, Any]) -> None:
    """Raises WrongUsage if an option is missing, or belongs to another kind, or would show a secret."""
    needed, allowed = NEEDS[to]
    missing = [name for name in needed if given[name] is None]
    if to is Kind.qdrant and (given["--url"] is None) == (given["--path"] is None):
        raise WrongUsage("--to qdrant needs --url of a server or --path of a folder, and not both")
    if missing:
        raise WrongUsage(f"--to {to.value} needs {missing[0]}")
    other = [name for name, value in given.items() if value is not None and name not in (*needed, *allowed)]
    if other:
        kinds = [kind.value for kind, names in NEEDS.items() if other[0] in (*names[0], *names[1])]
        raise WrongUsage(f"{other[0]} belongs to --to {' and '.join(kinds)}, not to {to.value}")
    with wrong_usage():
        parts = urlsplit(given["--url"] or "")
    if parts.username or parts.password or parts.query:
        raise WrongUsage(f"--url must not hold a user, a key or a query: set {API_KEY} to the key")


def open_qdrant(url: str | None, path: Path | None) -> Any:
    """Returns a client of a server, with the key in the environment, or of a local folder."""
    from stellar_hub.extras import require

    library = require("qdrant_client", "qdrant", "export to Qdrant")
    if path is not None:
        return library.QdrantClient(path=str(path))
    return library.QdrantClient(url=url, api_key=os.environ.get(API_KEY) or None, check_compatibility=False)
