"""The card of a model's folder with the images that it shows, and how it goes along to another folder."""

import io
import os
import re
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from .model_card import read_card
from .safe_paths import path_below, read_bounded

# Images in Markdown and HTML that a card shows.
_SHOWN = re.compile(r"""!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img[^>]*?\ssrc\s*=\s*["']([^"']+)""", re.IGNORECASE)
SHOWN_SUFFIXES = (".gif", ".jpeg", ".jpg", ".png", ".webp")


def card_of(name_or_path: str | os.PathLike[str] | None) -> str | None:
    """Returns the card in the folder that a model was loaded from, or None without a folder or a card.

    Raises:
        ValueError: if it is not a regular file, or is too large.
    """
    return read_card(Path(name_or_path) / "README.md") if name_or_path and Path(name_or_path).is_dir() else None


def carry_card(source: str | os.PathLike[str] | None, target: Path) -> None:
    """Copies the card of a model's folder, if there is one, and the images that it shows, to another folder."""
    card = card_of(source)
    if card is not None:
        (target / "README.md").write_bytes(card.encode(errors="surrogateescape"))
        copy_shown_images(card, Path(str(source)), target)


def copy_shown_images(card: str, source: Path, target: Path) -> None:
    """Copies the images that a card shows, if they are images and lie in the folder of the card, links resolved."""
    for markdown, html in _SHOWN.findall(card):
        name = unquote((markdown or html).split("?")[0].split("#")[0])
        if not name.lower().endswith(SHOWN_SUFFIXES):
            continue
        try:
            path = path_below(target, os.path.normpath(name))
            data = read_bounded(source / name, "image_bytes", root=source)
            with Image.open(io.BytesIO(data)) as image:
                image.verify()
        except Exception:  # an address, a file of another folder, or not an image: it stays where it is
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
