"""Names of earlier releases and their new names, which are data in `old_names.json`.

For one release, an old name is refused and the error says the new one. Files with old names still open.
"""

import json
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
