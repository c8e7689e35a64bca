"""What `benchmarks/fuzz.py` attacks: a module for each kind of file.

A module has

- `make(rng, folder) -> Path`: writes one mutated file, or folder, below `folder`;
- `attempt(path) -> str`: gives it to the library and returns "ok", "refused" or another word that is counted. It
  catches the errors that the library promises (`ValueError`, `OSError`) with `refusal`, and lets all others escape. It
  raises `SilentDifference` if the library takes a damaged file for a whole one;
- optionally `prepare()`, which the process calls once, for example to load a model.
"""


class SilentDifference(Exception):  # noqa: N818  # it is an outcome
    """The library accepted a damaged file and returned something else than what was saved."""


def refusal(error: BaseException, *names: object) -> str:
    """Returns "refused" for an error that the library raised on purpose.

    Raises:
        SilentDifference: if the message has several lines or control characters, or names none of `names`.
    """
    message = str(error)
    if not message.strip() or not message.isprintable():
        raise SilentDifference(f"the message is empty or not one printable line: {message[:300]!r}")
    if names and not any(str(name) in message for name in names):
        raise SilentDifference(f"the message names none of {names}: {message[:300]}")
    return "refused"
