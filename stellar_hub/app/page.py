"""The page: its parts, and which function of the desk each event calls."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from stellar_hub.app import session as steps
from stellar_hub.app.concepts import ConceptSearch
from stellar_hub.app.desk import Desk, Step, answered
from stellar_hub.app.models import Models
from stellar_hub.app.parts import board, choices, figures, gradio, message, message_value
from stellar_hub.app.session import Session
from stellar_hub.app.views import examples
from stellar_hub.modeling.image_loading import IMAGE_SUFFIXES

SESSION_SECONDS = 3600  # that a session is kept after its last use
MAX_WAITING = 64  # requests
CACHE_SECONDS = (60, 600)  # how often files of uploads are looked at, and how old they get

ADDED, PUT_THERE, INSTEAD = "where it was", "at the place that I clicked last", "in place of the chosen token"
INTRODUCTION = """
# STELLAR: what sparse tokens hold

The model turns a photograph into a few tokens: **what** they are (*S*), and **where** (*L*). The image at the right is
decoded from these alone. Click a place to choose its token, and drag it; the decoded image follows.
"""


class Page:
    """Builds the page of a desk.

    Args:
        desk: What the page does.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        self.gr = gradio()
        blocks = self.gr.Blocks(title="STELLAR tokens", analytics_enabled=False, delete_cache=CACHE_SECONDS)
        with blocks as self.blocks:
            self._build()
        self.blocks.queue(max_size=MAX_WAITING, api_open=False)

    def _build(self) -> None:
        gr, names = self.gr, self.desk.models.names
        self.session = gr.State(Session(names[0]), time_to_live=SESSION_SECONDS)
        gr.Markdown(INTRODUCTION, elem_id="introduction")
        with gr.Row(elem_id="start"):
            with gr.Column(scale=1, min_width=280):
                self.upload = self._upload("Drop a photograph here, or click", "upload")
                self.model = gr.Dropdown(list(names), value=names[0], label="Model", elem_id="model")
            with gr.Column(scale=2, min_width=280):
                self.examples = choices("Examples", examples(), "examples")
        self.message = message("message")
        with gr.Row(elem_id="boards"):
            self.photograph = board("Photograph", "photograph")
            self.tokens = board("Tokens", "tokens")
            self.decoding = board("Decoded image", "decoding")
        self.maps = choices("Maps of the tokens", {"items": []}, "maps")
        self._build_tools()
        with gr.Tabs(elem_id="more"):
            with gr.Tab("Python"):
                self.code = gr.Code(label="The same in Python", language="python", interactive=False, elem_id="code")
            with gr.Tab("Second image"):
                self._build_second()
            with gr.Tab("Compare models"):
                self._build_comparison()
            if self.desk.search is not None:
                with gr.Tab("Search"):
                    self._build_search(self.desk.search)
        self._connect()
