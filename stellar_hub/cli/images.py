"""The images of a command: which files to read, where to write, and one run over all of them."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import typer

from stellar_hub.cli.errors import one_line


def find_files(paths: Iterable[Path], other_suffixes: Collection[str] = ()) -> list[Path]:
    """Returns the files that the arguments name, and the images in the folders that they name.

    Hidden files and folders are skipped, as everywhere in the library.

    Args:
        paths: Files and folders.
        other_suffixes: Suffixes of files in folders that are returned too.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a folder has no such file.
    """
    paths = list(paths)
    for path in paths:  # before the imports below, which take seconds
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
    from stellar_hub.data.sources import IMAGE_SUFFIXES, find_images

    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += [path / name for name in find_images(path, IMAGE_SUFFIXES | set(other_suffixes))]
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def plan_outputs(sources: list[Path], folder: Path, suffix: str, overwrite: bool) -> list[Path]:
    """Returns the output path of each source, `folder / f"{stem}{suffix}"`, and creates the folder.

    Raises:
        ValueError: if two sources would be written to the same file.
        FileExistsError: if an output exists and may not be replaced, or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--output {folder} is a file; name a folder")
    outputs = [folder / f"{source.stem}{suffix}" for source in sources]
    repeated = [path for path, count in Counter(outputs).items() if count > 1]
    if repeated:
        clashing = ", ".join(str(source) for source in sources if source.stem == repeated[0].stem)
        raise ValueError(
            f"{clashing} would all be written to {repeated[0]}: give them different names, or use one command for each"
        )
    existing = [path for path in outputs if path.exists()]
    if existing and not overwrite:
        what = f"{existing[0]} and {len(existing) - 1} more exist" if len(existing) > 1 else f"{existing[0]} exists"
        raise FileExistsError(f"{what} already: pass --overwrite or another --output")
    folder.mkdir(parents=True, exist_ok=True)
    return outputs


def for_each(sources: list[Path], outputs: list[Path], work: Callable[[Path, Path], str], debug: bool) -> None:
    """Calls `work(source, output)` for each source and prints the line it returns; a failure does not stop the others.

    Raises:
        typer.Exit: with code 1 at the end, if any source failed.
    """
    from tqdm import tqdm

    failed = 0
    progress = tqdm(total=len(sources), unit="image", disable=True if len(sources) < 2 else None, leave=False)
    with progress:
        for source, output in zip(sources, outputs, strict=True):
            try:
                line = work(source, output)
            except (ValueError, TypeError, OSError) as error:
                if debug:
                    raise
                failed += 1
                progress.write(f"error: {one_line(error)}", file=_standard_error())
            else:
                progress.write(line)
            progress.update()
    if failed:
        typer.echo(f"{failed} of {len(sources)} failed", err=True)
        raise typer.Exit(1)


def _standard_error() -> object:
    import sys

    return sys.stderr
