"""The demo page `stellar-hub app`: see what the tokens of a photograph hold, and edit them in a browser.

`Desk` does what the page does, without gradio; `Page` gives it its looks; `serve` serves it. What turns encodings into
others is in `stellar_hub.editing`, and what draws them in `stellar_hub.visualization`.
"""

from stellar_hub.app.concepts import ConceptSearch
from stellar_hub.app.desk import Desk
from stellar_hub.app.models import Models
from stellar_hub.app.page import Page
from stellar_hub.app.parts import gradio
from stellar_hub.app.server import application, launch_options, serve
from stellar_hub.app.session import Session
from stellar_hub.listening import is_local

__all__ = [
    "ConceptSearch",
    "Desk",
    "Models",
    "Page",
    "Session",
    "application",
    "gradio",
    "is_local",
    "launch_options",
    "serve",
]
