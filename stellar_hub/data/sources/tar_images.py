"""Which members of a tar are the images: by their suffix, by their sample's key, and through links inside the tar."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from stellar_hub.data.sources.files import IMAGE_SUFFIXES, counted
from stellar_hub.data.sources.tar_members import Member
from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_text import escape_control

_MAX_HELD, _MAX_HELD_BYTES = 16, 2**26  # images of one sample that wait for the one with the plain name
_MAX_LINKS_IN_A_ROW = 40
_MAX_SUFFIXES = 4  # that are named
_MAX_COUNTED = 10_000  # different suffixes


class NamedImage(Protocol):
    """What `choose_by_key` needs to know of an image."""

    @property
    def name(self) -> str:
        """Name in the tar."""
        ...

    @property
    def size(self) -> int:
        """Number of bytes."""
        ...


ImageT = TypeVar("ImageT", bound=NamedImage)


@dataclass
class PassedOver:
    """What is passed over in tars, counted, with an example of each kind.

    Attributes:
        suffixes: Number of files by suffix that are not images.
        counts: Number of other things by their kind.
        examples: The first of each kind.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, name: str, count: int = 1) -> None:
        """Counts something."""
        self.counts[kind] += count
        self.examples.setdefault(kind, name)

    def add_all(self, other: "PassedOver") -> None:
        """Adds the counts of another tar."""
        self.suffixes.update(other.suffixes)
        self.counts.update(other.counts)
        self.examples = other.examples | self.examples

    def counted_notes(self) -> dict[str, str]:
        """Returns what was counted in words, by its kind."""
        return {
            kind: f"{kind}: {count}, such as {escape_control(self.examples[kind])}"
            for kind, count in self.counts.items()
        }

    def suffix_notes(self) -> tuple[str, ...]:
        """Returns how many files are not images by their suffix, in words; nothing if there are none."""
        if not self.suffixes:
            return ()
        named = [escape_control(suffix) or "none" for suffix, _ in self.suffixes.most_common(_MAX_SUFFIXES)]
        more = ", ..." if len(self.suffixes) > _MAX_SUFFIXES else ""
        total = counted(sum(self.suffixes.values()), "file is not an image by its", "files are not images by their")
        return (f"{total} suffix ({', '.join(named)}{more})",)


BESIDE = "images passed over because their sample has one with a plain name"
SEVERAL = "images beside others with the same name and another suffix, all of them taken"
LINK = "links that lead to no file of the tar, passed over"
SPARSE = "files stored without their zeros (tar --sparse), passed over"
SPECIAL = "members with an image's name that are no files, passed over"


def is_image(member: str) -> bool:
    """Returns whether a member's name ends like an image's and does not start with "."; "photo.left.jpg" does."""
    name = member.rpartition("/")[2]
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_image_file(member: Member, passed_over: PassedOver) -> bool:
    """Returns whether a member is an image, and counts what is not. Links are left to `Links`."""
    if member.kind == "file":
        if not is_image(member.name):
            name = member.name.rpartition("/")[2]
            if not name.startswith(".") and len(passed_over.suffixes) < _MAX_COUNTED:
                passed_over.suffixes[os.path.splitext(name)[1].lower()[:20]] += 1
            return False
        if member.is_sparse:
            passed_over.add(SPARSE, member.name)
        return not member.is_sparse
    if member.kind == "other" and is_image(member.name):
        passed_over.add(SPECIAL, member.name)
    return False


def choose_by_key(images: Iterable[ImageT], passed_over: PassedOver) -> Iterator[ImageT]:
    """Leaves out "photo.seg.png" beside "photo.jpg", as WebDataset names the parts of one sample.

    The parts of a sample follow one another, in any order, and have the same name up to its first dot. Without an image
    of the plain name, all are images of their own.
    """
    held: list[ImageT] = []
    key, has_plain, is_long = "", False, False
    for image in images:
        folder, _, name = image.name.rpartition("/")
        stem = os.path.splitext(name)[0]
        own_key = f"{folder}/{stem.partition('.')[0]}"
        if own_key != key:
            yield from held
            held, key, has_plain, is_long = [], own_key, False, False
        if "." not in stem:
            if has_plain:
                passed_over.add(SEVERAL, image.name)
            for other in held:
                passed_over.add(BESIDE, other.name)
            held, has_plain = [], not is_long
            yield image
        elif has_plain:
            passed_over.add(BESIDE, image.name)
        else:
            held.append(image)
            if is_long or len(held) > _MAX_HELD or sum(each.size for each in held) > _MAX_HELD_BYTES:
                yield from held
                held, is_long = [], True
    yield from held


class _Link(NamedTuple):
    name: str
    target: str


class Links:
    """The hard and the symbolic links of a tar. They stand for the file of the same tar that they lead to."""

    def __init__(self) -> None:
        self._targets: dict[str, str] = {}
        self._images: list[str] = []

    def add(self, member: Member) -> None:
        """Notes a member if it is a link."""
        if member.kind not in ("link", "symlink"):
            return
        is_symbolic = member.kind == "symlink"
        target = posixpath.join(posixpath.dirname(member.name), member.target) if is_symbolic else member.target
        self._targets[_plain(member.name)] = _plain(target) if not (is_symbolic and target.startswith("/")) else "/"
        if is_image(member.name):
            self._images.append(member.name)

    def of_files(self) -> dict[str, list[str]]:
        """Returns the names of the image links by the name of the file that each should lead to."""
        found: dict[str, list[str]] = {}
        for name in self._images:
            target = _plain(name)
            for _ in range(_MAX_LINKS_IN_A_ROW):
                if target not in self._targets:
                    break
                target = self._targets[target]
            found.setdefault(target, []).append(name)
        return found


def linked_images(
    members: Iterable[Member], wanted: dict[str, list[str]], passed_over: PassedOver
) -> Iterator[tuple[Member, list[str]]]:
    """Yields the files that links lead to, each with the links' names, and counts the links that lead to none.

    Args:
        members: Members of the tar.
        wanted: Names of links by file, as `Links.of_files` returns them. What is found is removed.
        passed_over: Where links that lead to nothing are counted.
    """
    for member in members:
        if not wanted:
            break
        if member.kind == "file" and not member.is_sparse and (names := wanted.pop(_plain(member.name), None)):
            yield member, names
    for names in wanted.values():
        passed_over.add(LINK, names[0], len(names))


def refusal_of_size(size: int, name: str) -> str:
    """Returns why an image is too large to be read, or ""."""
    try:
        check_limit("image_bytes", size, name)
    except ValueError as error:
        return str(error)
    return ""


def _plain(name: str) -> str:
    """Returns a name without "." and "..", and without the slash at its beginning that tar takes away."""
    return posixpath.normpath(name).lstrip("/")
