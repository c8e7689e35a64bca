"""The images of a command: which files to read, where to write, and one run over all of them."""

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import typer

from stellar_hub.cli.earlier_runs import is_recorded
from stellar_hub.cli.errors import is_full_disk, one_line
from stellar_hub.cli.messages import say, warn
from stellar_hub.cli.targets import Job, check_targets, plan_names

SYSTEM_FILES = {".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", ".directory"}
_ADDRESS = re.compile(r"(https?:|s3:|gs:|hf:|ftp:)/+(.*)")  # a path has one slash where an address has two
APPLE_DOUBLE = b"\0\5\x16\7"  # the beginning of the file ._NAME that macOS puts beside NAME on other systems' disks


def plan_jobs(
    paths: Sequence[Path], output: Path, suffix: str, overwrite: bool, other_suffixes: Collection[str] = ()
) -> list[Job]:
    """Returns what to read and where to write it; nothing is written yet.

    The outputs of a folder have the tree of that folder. If several folders are named, each has a folder of its name in
    the output. An output is named as its image without the extension; where two images of a folder differ in their
    extension alone, both outputs keep it ("a.jpg.png"). Names that are too long for the disk are cut, and end in a
    digest.

    Hidden files and folders, and those of operating systems such as Thumbs.db, are passed over, and so are files in the
    output folder.

    Args:
        paths: Files and folders.
        output: Folder to write to.
        suffix: Suffix of the files to write.
        overwrite: Whether files that exist are replaced. Otherwise files that this program has recorded may stay, and
            `left_to_do` decides about them.
        other_suffixes: Suffixes of files in folders that are read too.

    Raises:
        FileNotFoundError: if a path does not exist.
        FileExistsError: if an output exists and may not be replaced, or the output folder is a file.
        PermissionError: if the output folder cannot be written to.
        ValueError: if there is nothing to read, the output folder is one of the paths, two files would be written to
            the same place, or an output would replace an input.
    """
    for path in paths:  # before the imports below, which take seconds
        check_exists(path)
    _check_output(paths, output)
    note_repeated(paths, "is read once")
    found = _find_files(paths, output, other_suffixes)
    existing = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    names = plan_names([name for _, name in found], suffix, existing)
    jobs = list(dict.fromkeys(Job(source, output / name) for (source, _), name in zip(found, names, strict=True)))
    check_targets([job.source for job in jobs], [job.target for job in jobs], overwrite, is_recorded)
    if not existing.is_dir():
        raise NotADirectoryError(f"--output {output} is below {existing}, which is a file; name a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"--output {output} may not be written to: change its permissions or name another folder")
    return jobs


def check_exists(path: Path) -> None:
    """Raises FileNotFoundError if there is no such file or folder; it says that an address is one."""
    if not path.exists():
        if address := _ADDRESS.match(str(path)):
            shown = f"{address[1]}//{address[2]}"
            raise FileNotFoundError(f"{shown} is an address, and images are not downloaded: download it first")
        raise FileNotFoundError(f"no such file or folder: {path}")


def note_repeated(paths: Sequence[str | Path], effect: str) -> None:
    """Says which file or folder was named more than once, and what that does."""
    repeated = [path for path, count in Counter(os.path.abspath(path) for path in paths).items() if count > 1]
    if repeated:
        more = f" and {len(repeated) - 1} more" if len(repeated) > 1 else ""
        named = next(path for path in paths if os.path.abspath(path) == repeated[0])
        warn(f"note: {named}{more} is named more than once and {effect}")


def _check_output(paths: Sequence[Path], output: Path) -> None:
    """Refuses an output folder that is a file or one of the folders to read."""
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"--output {output} is a file; name a folder")
    for path in paths:
        if path.is_dir() and output.exists() and path.samefile(output):
            raise ValueError(
                f"--output {output} is the folder of the images: name another folder, such as {output}-new"
            )


def _find_files(paths: Sequence[Path], output: Path, other_suffixes: Collection[str]) -> list[tuple[Path, str]]:
    """Returns each file with the name that its output has in the output folder, before the suffix is replaced."""
    from stellar_hub.data.sources import IMAGE_SUFFIXES, scan_images

    folders = {path.resolve() for path in paths if path.is_dir()}
    found: dict[Path, str] = {}
    system_files = []
    for path in paths:
        if path.is_dir():
            prefix = path.resolve().name if len(folders) > 1 else ""
            images = scan_images(path, IMAGE_SUFFIXES | set(other_suffixes))
            found |= {path / name: os.path.join(prefix, name) for name in images.names}
            for note in images.notes:
                warn(f"note: {path}: {note}")
        elif _is_system_file(path):
            system_files.append(path)
        else:
            found.setdefault(path, path.name)
    if system_files:
        warn(f"passed over files of the operating system ({len(system_files)}, such as {system_files[0]})")
    return _without_outputs(found, folders, output)


def _without_outputs(found: dict[Path, str], folders: set[Path], output: Path) -> list[tuple[Path, str]]:
    """Leaves out what is in the output folder, if that is in a folder to read."""
    real_output = output.resolve()
    if any(folder in real_output.parents for folder in folders):
        inside = {path for path in found if real_output in path.resolve().parents}
        if inside:
            warn(f"passed over files in the output folder {output} ({len(inside)})")
        found = {path: name for path, name in found.items() if path not in inside}
    if not found:
        raise ValueError("no images are left to read: name image files, or folders with images")
    return list({path.absolute(): (path, name) for path, name in reversed(found.items())}.values())[::-1]


def _is_system_file(path: Path) -> bool:
    """Whether a file belongs to an operating system; a pattern such as `photos/*` names it by accident."""
    if path.name.startswith("._") and path.is_file():
        with open(path, "rb") as file:
            return file.read(len(APPLE_DOUBLE)) == APPLE_DOUBLE
    return path.name.lower() in SYSTEM_FILES


def for_each(jobs: Sequence[Job], work: Callable[[Path, Path], str], debug: bool) -> None:
    """Calls `work(source, target)` for each job and prints the line it returns; a failure does not stop the others.

    Raises:
        MemoryError: if memory ends; likewise other faults of the machine, such as a full disk, because the other jobs
            would fail too.
        typer.Exit: with code 1 at the end, if any job failed.
    """
    from tqdm import tqdm

    from stellar_hub.modeling.image_loading import is_fault_of_machine
    from stellar_hub.progress import Progress

    failed = 0
    with Progress(len(jobs), "image", enabled=len(jobs) > 1, leave=False) as progress:
        for job in jobs:
            try:
                line = _do(job, work)
            except Exception as error:  # decoders and models raise many kinds
                if debug or is_full_disk(error):
                    raise
                if is_fault_of_machine(error):
                    raise _with_source(error, job.source) from error
                failed += 1
                with tqdm.external_write_mode(file=sys.stderr):
                    warn(f"error: {_line_about(job.source, error)}")
            else:
                with tqdm.external_write_mode(file=sys.stdout):
                    say(line)
            progress.update()
    if failed:
        warn(f"{failed} of {len(jobs)} failed")
        raise typer.Exit(1)


def _do(job: Job, work: Callable[[Path, Path], str]) -> str:
    """Does one job."""
    if not job.source.is_file():
        raise ValueError(f"{job.source} is not a regular file: pipes and devices are not read")
    return work(job.source, job.target)


def _with_source(error: Exception, source: Path) -> Exception:
    """Returns an error of the machine with the image that was worked on; an error that names a file stays as it is."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, str(error.filename or source))
    return MemoryError(f"at {source}")


def _line_about(source: Path, error: Exception) -> str:
    """Returns the message of an error on one line, with the name of the file that was read."""
    message = one_line(error)
    return message if one_line(ValueError(source.name)) in message else f"{source}: {message}"
