"""Optional dependencies: importing one, or saying which extra of the package installs it."""

from importlib import import_module
from typing import Any


def require(name: str, extra: str, purpose: str) -> Any:
    """Imports an optional dependency.

    Args:
        name: Module to import, such as "pyarrow.parquet"; its top-level package is returned.
        extra: The package's extra that installs it, such as "extract".
        purpose: What needs it, as the subject of a sentence: "the index of a feature store".

    Returns:
        The top-level package of the module.

    Raises:
        ImportError: if the module cannot be imported; the message has the command that installs it.
    """
    package = name.partition(".")[0]
    try:
        import_module(name)
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package}: pip install 'stellar_hub[{extra}]' ({error})") from error
