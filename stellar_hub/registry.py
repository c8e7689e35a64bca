"""The names that `from_pretrained` knows."""

from pathlib import Path

EMBEDDED = Path(__file__).parent / "checkpoints"


def locate(name: str) -> str:
    """Folder."""
    folder = EMBEDDED / name
    return str(folder) if folder.is_dir() else name
