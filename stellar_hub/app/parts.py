"""The parts of the page that gradio does not have: boards, choices with small images, figures, and a drop zone.

Each is a `gr.HTML` with a script of `assets/`. What it shows is its value, as JSON. Scripts set texts as text, never as
HTML, so that the name of a file cannot be read as a tag.
"""

import os
from functools import cache
from importlib.resources import files
from typing import Any

from stellar_hub.app.views import Value
from stellar_hub.app.views import board as empty_board
from stellar_hub.extras import require

BOARD = """
<figure class="board">
  <p class="name">NAME</p>
  <div class="frame" tabindex="0" role="group"><img draggable="false" alt=""><span class="handle" hidden></span></div>
  <figcaption></figcaption>
</figure>
"""
CHOICES = '<p class="name">NAME</p><div class="choices" role="group"></div>'
FIGURES = '<div class="figures"></div>'
DROP_ZONE = '<label class="drop-zone"><input type="file"><span></span></label>'


def gradio() -> Any:
    """Imports gradio, which then reports nothing to anybody.

    Raises:
        ImportError: if it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when it is imported, and later
    return require("gradio", "app", "the demo page")


@cache
def asset(name: str) -> str:
    """Returns the text of a file in `assets/`."""
    return files("stellar_hub.app").joinpath("assets", name).read_text(encoding="utf-8")


def board(name: str, elem_id: str, draggable: bool = True) -> Any:
    """Makes a board: an image with "select" (a place), "release" (a drag), "key_up", "delete" and "undo"."""
    return _part(BOARD.replace("NAME", name), "board.js", empty_board(), elem_id, name=name, draggable=draggable)


def choices(name: str, value: Value, elem_id: str) -> Any:
    """Makes buttons with small images; "select" has the key of the one that was pressed."""
    return _part(CHOICES.replace("NAME", name), "choices.js", value, elem_id, name=name)


def figures(elem_id: str) -> Any:
    """Makes a row of images with captions."""
    return _part(FIGURES, "figures.js", {"items": []}, elem_id)


def drop_zone(name: str, elem_id: str, max_bytes: int, suffixes: tuple[str, ...]) -> Any:
    """Makes a place to drop a file; "upload" has its name, and its path on the server or its size."""
    options: dict[str, Any] = {"name": name, "max_bytes": max_bytes, "accept": ",".join(("image/*", *suffixes))}
    return _part(DROP_ZONE, "drop_zone.js", None, elem_id, **options)


def _part(template: str, script: str, value: Any, elem_id: str, **properties: Any) -> Any:
    return gradio().HTML(
        value,
        html_template=template,
        js_on_load=asset(script),
        apply_default_css=False,
        elem_id=elem_id,
        **properties,
    )
