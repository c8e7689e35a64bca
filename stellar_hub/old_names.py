"""Names of earlier releases and their new names, which are data in `old_names.json`.

For one release, an old name is refused and the error says the new one. Files with old names still open.
"""

import difflib
import json
from collections.abc import Iterable
from functools import cache
from importlib import resources


@cache
def old_names(kind: str) -> dict[str, str]:
    """Returns the table of a kind of names, such as "options"; the kinds are the keys of `old_names.json`.

    Keys are old names and values are new names. Two tables are different: in "store_format_1" keys are attributes, in
    "fingerprints" keys are words, and values are their spelling in files that were written before.
    """
    text = (resources.files("stellar_hub") / "old_names.json").read_text(encoding="utf-8")
    return dict(json.loads(text)[kind])


def hint_of_new_name(kind: str, name: str) -> str:
    """Returns "; 'OLD' is now called 'NEW'" for an old name, and "" for any other name."""
    new = old_names(kind).get(name)
    return f"; {name!r} is now called {new!r}" if new is not None else ""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns "; did you mean 'a' or 'b'?" with the two known names spelled most like `name`, or "" without any.

    A name that differs in case, "-" and "_" alone is suggested alone.

    Args:
        name: The name that is unknown.
        known: The names that are allowed.
        cutoff: Smallest similarity of a name, in [0, 1]; see `difflib.get_close_matches`.
    """
    known = list(known)
    same = [other for other in known if _plain(other) == _plain(name)]
    close = same[:1] or difflib.get_close_matches(name, known, n=2, cutoff=cutoff)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-")
