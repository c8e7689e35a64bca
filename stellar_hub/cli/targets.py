"""Where a command writes: names of outputs that do not clash, and a check that no file of the user is lost."""

import hashlib
import os
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_NAME_BYTES = 255  # where the file system does not say


@dataclass(frozen=True)
class Job:
    """One file to read and the file to write for it."""

    source: Path
    target: Path


def with_folder(target: Path) -> Path:
    """Makes the folder of an output that is ready to be written, and returns the path of the output."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def plan_names(names: Sequence[str], suffix: str, folder: Path) -> list[str]:
    """Returns the name of each output, relative to the output folder.

    Args:
        names: Names of the images with their extension; folders are separated by "/".
        suffix: Suffix of the outputs.
        folder: Folder on the disk that is written to, which limits the length of names.
    """
    planned = [os.path.splitext(name)[0] + suffix for name in names]
    for _ in range(2):  # a name that keeps its extension can clash with one that had no clash before
        counts = Counter(map(_without_case, planned))
        planned = [
            name + suffix if counts[_without_case(plan)] > 1 else plan
            for name, plan in zip(names, planned, strict=True)
        ]
    longest = _max_name_bytes(folder)
    return [_cut(plan, suffix, longest) for plan in planned]


def check_targets(
    sources: Sequence[Path],
    targets: Sequence[Path],
    overwrite: bool,
    may_stay: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Checks that the outputs are different files, replace no input, and replace others only if told.

    Args:
        sources: Files to read.
        targets: The output of each.
        overwrite: Whether outputs that exist are replaced.
        may_stay: Whether an output that exists may be kept, as the work of an earlier run.

    Raises:
        FileExistsError: if an output exists and may not be replaced.
        ValueError: if two sources would be written to the same file, or an output would replace an input.
    """
    _check_all_differ(sources, targets)
    inputs = {identity: source for source in sources if (identity := _identity(source))}
    for target in targets:
        replaced = inputs.get(_identity(target) or (-1, -1))
        if replaced is not None:
            raise ValueError(f"{target} would replace {replaced}, which is read: pass another --output")
    existing = [] if overwrite else [path for path in targets if os.path.lexists(path) and not may_stay(path)]
    if existing:
        what = f"{existing[0]} and {len(existing) - 1} more exist" if len(existing) > 1 else f"{existing[0]} exists"
        raise FileExistsError(f"{what} already: pass --overwrite or another --output")


def _check_all_differ(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    """Raises ValueError if two sources would be written to the same file, also on a disk that ignores case."""
    keys = [str(target) for target in targets]
    folded = [_without_case(key) for key in keys]
    if len(set(folded)) < len(set(keys)) and _ignores_case(targets[0]):
        keys = folded
    repeated = [key for key, count in Counter(keys).items() if count > 1]
    if repeated:
        clashing = [str(source) for source, key in zip(sources, keys, strict=True) if key == repeated[0]]
        more = f" and {len(clashing) - 3} more" if len(clashing) > 3 else ""
        raise ValueError(
            f"{', '.join(clashing[:3])}{more} would all be written to {targets[keys.index(repeated[0])]}: name the "
            "folder that holds them, so that its tree is kept, or use one command for each"
        )


def _without_case(name: str) -> str:
    """Returns a name as file systems compare it that ignore case and know one form of accents."""
    return unicodedata.normalize("NFC", name).casefold()


def _ignores_case(target: Path) -> bool:
    """Whether the disk of a file takes two names for one that differ in case alone."""
    folder = next(parent for parent in target.absolute().parents if parent.is_dir())
    probe = folder / f".stellar-hub-{uuid.uuid4().hex}-case.part"
    try:
        probe.touch()
        return (folder / probe.name.replace("case", "CASE")).exists()
    except OSError:  # not to be written to, which is reported when it is written to
        return False
    finally:
        probe.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    """Returns what tells a file from all others, whatever names and links it has; None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _max_name_bytes(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows has no pathconf
        return MAX_NAME_BYTES


def _cut(name: str, suffix: str, longest: int) -> str:
    """Cuts the last part of a name to a number of bytes; a digest of the whole name keeps it apart from others."""
    head, last = os.path.split(name)
    if len(os.fsencode(last)) <= longest:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    room = longest - len(suffix) - len(digest) - 1
    kept = os.fsencode(last.removesuffix(suffix))[:room].decode("utf-8", "ignore")
    return os.path.join(head, f"{kept}-{digest}{suffix}")
