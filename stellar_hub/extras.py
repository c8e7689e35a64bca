"""Optional dependencies: `require` imports one, or says which extra of the package installs it."""

from importlib import import_module
from typing import Any


def require(name: str, extra: str, purpose: str) -> Any:
    """Imports an optional dependency.

    Args:
        name: Name of the module, such as "pyarrow.parquet".
        extra: Extra of this package that installs it, such as "extract".
        purpose: Part of the library that needs it, as the subject of a sentence: "the index of a feature store".

    Returns:
        The top-level package of the module, such as `pyarrow`.

    Raises:
        ImportError: if the module cannot be imported; the message has the command that installs it.
    """
    package = name.partition(".")[0]
    try:
        import_module(name)
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package}: pip install 'stellar_hub[{extra}]' ({error})") from error
