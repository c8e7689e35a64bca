"""The page: its parts, and which function of the desk each event calls."""

from collections.abc import Callable, Sequence
from typing import Any

import stellar_hub.app.session as steps
from stellar_hub.app.desk import Desk, Step, answered
from stellar_hub.app.parts import asset, board, choices, drop_zone, figures, gradio
from stellar_hub.app.requests import key_of, numbers_of, uploaded_path
from stellar_hub.app.session import LARGEST, SMALLEST, Session
from stellar_hub.app.views import Value, View, examples
from stellar_hub.modeling.image_loading import IMAGE_SUFFIXES
from stellar_hub.modeling.limits import max_allowed

SESSION_SECONDS = 3600  # that a session is kept after its last use
MAX_SESSIONS = 128
MAX_WAITING = 64  # requests
CACHE_SECONDS = (60, 600)  # how often uploads are looked at, and how old those get that nobody opened

ADDED, PUT_THERE, INSTEAD = "where it was in its image", "at the place I clicked last", "in place of the chosen token"
TITLE = "STELLAR: what a few tokens hold"
INTRODUCTION = (
    "The model turns a photograph into a few tokens: **what** they are (*S*) and **where** they are (*L*). It decodes "
    "the image from these alone. **Click** a place to choose its token, and **drag** it to move it."
)
PLACE, STEP = ("row", "column"), ("rows", "columns")  # numbers of events
KEYS = "Keys, on an image: the arrows move the chosen token, Delete drops it, Ctrl+Z takes the last edit back."


class Page:
    """Builds the page of a desk; `blocks` is what gradio serves.

    Args:
        desk: What the page does.
    """

    def __init__(self, desk: Desk):
        self.desk, self.gr = desk, gradio()
        blocks = self.gr.Blocks(title="STELLAR tokens", analytics_enabled=False, delete_cache=CACHE_SECONDS)
        with blocks as self.blocks:
            self._build()
            self._connect()
        self.blocks.state_session_capacity = MAX_SESSIONS
        self.blocks.queue(max_size=MAX_WAITING, api_open=False)

    def _build(self) -> None:
        gr, names = self.gr, self.desk.models.names
        self.session = gr.State(Session(names[0]), time_to_live=SESSION_SECONDS)
        gr.Markdown(f"# {TITLE}\n\n{INTRODUCTION}", elem_id="introduction")
        with gr.Row(elem_id="start"):
            with gr.Column(scale=1, min_width=260):
                self.upload = self._drop_zone("Drop a photograph here, or click", "upload")
                self.model = gr.Dropdown(list(names), value=names[0], label="Model", elem_id="model")
            with gr.Column(scale=2, min_width=260):
                self.examples = choices("or take an example", examples(), "examples")
        self.message = gr.Textbox(visible=False, show_label=False, container=False, lines=1, elem_id="message")
        with gr.Row(elem_id="boards"):
            self.boards = [
                board("Photograph", "photograph"),
                board("Tokens", "tokens"),
                board("Decoded image", "decoding"),
            ]
        self.maps = choices("Maps of the tokens", {"items": []}, "maps")
        self._build_tools()
        with gr.Tabs(elem_id="more"):
            with gr.Tab("Python"):
                self.code = gr.Code(
                    label="The same in Python",
                    language="python",
                    interactive=False,
                    show_line_numbers=False,
                    wrap_lines=True,
                    elem_id="code",
                )
            with gr.Tab("Second image"):
                self._build_second()
            with gr.Tab("Compare"):
                self._build_comparison()
            if self.desk.search is not None:
                with gr.Tab("Search"):
                    self._build_search(len(self.desk.search.store))

    def _build_tools(self) -> None:
        gr = self.gr
        with gr.Group(elem_id="tools"):
            self.tools_title = gr.Markdown("", elem_id="tools-title")
            with gr.Row():
                self.rows = gr.Slider(-1, 1, 0, step=0.1, label="Move down (patches)", elem_id="rows", min_width=180)
                self.columns = gr.Slider(
                    -1, 1, 0, step=0.1, label="Move right (patches)", elem_id="columns", min_width=180
                )
                self.size = gr.Slider(
                    100 * SMALLEST, 100 * LARGEST, 100, step=5, label="Size (%)", elem_id="size", min_width=180
                )
            with gr.Row(elem_id="buttons"):
                self.drop = gr.Button("Drop", elem_id="drop", min_width=90)
                self.keep = gr.Button("Keep only", elem_id="keep", min_width=90)
                self.mirror = gr.Button("Mirror ↔", elem_id="mirror", min_width=90)
                self.flip = gr.Button("Mirror ↕", elem_id="flip", min_width=90)
                self.undo = gr.Button("Undo", elem_id="undo", min_width=90)
                self.reset = gr.Button("Reset", elem_id="reset", min_width=90)

    def _build_second(self) -> None:
        gr = self.gr
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                self.upload_second = self._drop_zone("Drop a second image here, or click", "upload-second")
                self.examples_second = choices("or take an example", examples(), "examples-second")
            with gr.Column(scale=1, min_width=260):
                self.second = board("Second image: click a place to choose its token", "second", draggable=False)
                self.how = gr.Radio([ADDED, PUT_THERE, INSTEAD], value=ADDED, label="Put its token", elem_id="how")
                self.transplant = gr.Button("Transplant", variant="primary", elem_id="transplant")

    def _build_comparison(self) -> None:
        gr, names = self.gr, list(self.desk.models.names)
        gr.Markdown(
            "The image by another model, without the edits. Start the page with several `--model` to have them here."
        )
        with gr.Row():
            self.other = gr.Dropdown(names, value=names[-1], label="Other model", elem_id="other", min_width=200)
            self.compare = gr.Button("Compare", elem_id="compare", min_width=120)
        self.comparison = figures("comparison")

    def _build_search(self, size: int) -> None:
        gr = self.gr
        with gr.Row():
            self.count = gr.Slider(1, 24, min(size, 8), step=1, label="Images to find", elem_id="count")
            self.find = gr.Button("Search for the chosen token", elem_id="find", min_width=160)
        self.found_text = gr.Markdown("", elem_id="found-text")
        self.found = figures("found")

    def _drop_zone(self, name: str, elem_id: str) -> Any:
        return drop_zone(name, elem_id, max_allowed("image_bytes"), tuple(sorted(IMAGE_SUFFIXES)))

    def _connect(self) -> None:
        desk = self.desk
        self.blocks.load(self._answer(lambda _: desk.open()), self.session, self._outputs, **self._options())
        self._on(self.upload.upload, lambda s, data: desk.upload(s, uploaded_path(data)))
        self._on(self.examples.select, lambda s, data: desk.example(s, key_of(data)))
        self._on(self.upload_second.upload, lambda s, data: desk.upload_second(s, uploaded_path(data)))
        self._on(self.examples_second.select, lambda s, data: desk.example_second(s, key_of(data)))
        for each in self.boards:
            self._on(each.select, lambda s, data: steps.choose_at(s, *numbers_of(data, *PLACE)))
            self._on(each.release, lambda s, data: desk.drag(s, *numbers_of(data, *PLACE, *STEP)))
            self._on(each.key_up, lambda s, data: steps.move(s, *numbers_of(data, *STEP)), "multiple")
            self._on(each.delete, lambda s, data: steps.drop(s))
            self._on(each.undo, lambda s, data: steps.undo(s))
        self._on(self.maps.select, lambda s, data: desk.choose(s, key_of(data)))
        self._on(self.second.select, lambda s, data: steps.choose_second_at(s, *numbers_of(data, *PLACE)))
        for slider in self._sliders:
            self._with(slider.input, desk.put, *self._sliders, mode="always_last", kept=self._sliders)
        self._with(self.model.input, desk.change_model, self.model)
        self._with(self.drop.click, steps.drop)
        self._with(self.keep.click, steps.keep)
        self._with(self.mirror.click, lambda s: steps.mirror(s, "horizontal"))
        self._with(self.flip.click, lambda s: steps.mirror(s, "vertical"))
        self._with(self.undo.click, steps.undo)
        self._with(self.reset.click, steps.reset)
        self._with(
            self.transplant.click, lambda s, how: steps.transplant(s, how == PUT_THERE, how == INSTEAD), self.how
        )
        self.compare.click(
            self._compared, [self.session, self.other], [self.message, self.comparison], **self._options()
        )
        if desk.search is not None:
            outputs = [self.message, self.found_text, self.found]
            self.find.click(self._found, [self.session, self.count], outputs, **self._options())

    def _options(self, mode: str = "once") -> dict[str, Any]:
        """Returns the options of every event: it is not offered as an API, and all are done one after the other.

        Args:
            mode: What happens to events of the kind that come before the last one is answered: "once" drops them,
                "always_last" keeps the last, "multiple" keeps all.
        """
        queue = {"concurrency_limit": 1, "concurrency_id": "page"}
        return {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": mode} | queue

    @property
    def _outputs(self) -> list[Any]:
        return [
            self.session,
            self.message,
            *self.boards,
            self.maps,
            self.second,
            self.code,
            self.tools_title,
            *self._sliders,
            *self._needs_token,
            *self._needs_edits,
        ]

    @property
    def _sliders(self) -> list[Any]:
        return [self.rows, self.columns, self.size]

    @property
    def _needs_token(self) -> list[Any]:
        return [self.drop, self.keep, self.mirror, self.flip]

    @property
    def _needs_edits(self) -> list[Any]:
        return [self.undo, self.reset]

    def _on(self, event: Callable[..., Any], step: Step, mode: str = "once") -> None:
        """Connects an event of one of our parts, whose data the step gets as a dictionary."""
        answer = self._answer(step)

        def respond(session: Session, event_data: Any) -> Any:
            return answer(session, event_data._data)

        respond.__annotations__["event_data"] = self.gr.EventData  # so gradio knows what to pass
        event(respond, self.session, self._outputs, **self._options(mode))

    def _with(
        self, event: Callable[..., Any], step: Step, *inputs: Any, mode: str = "once", kept: Sequence[Any] = ()
    ) -> None:
        """Connects an event of one of gradio's parts; the step gets the values of the inputs.

        Args:
            event: The event.
            step: What it does.
            inputs: Parts whose values the step gets.
            mode: See `_options`.
            kept: Parts that are not set anew, because the user is moving them.
        """
        event(self._answer(step, kept), [self.session, *inputs], self._outputs, **self._options(mode))

    def _answer(self, step: Step, kept: Sequence[Any] = ()) -> Callable[..., list[Any]]:
        """Returns the function that gradio calls: it takes a step, and gives the values of all outputs."""
        skip = self.gr.skip

        def answer(session: Session, *values: Any) -> list[Any]:
            after, problem = self.desk.do(step, session, *values)
            view, trouble = answered(lambda: self.desk.view(after), None)
            if view is None:  # such as a model that cannot be loaded any more
                return [session, self._message(trouble), *(skip() for _ in self._outputs[2:])]
            shown = [after, self._message(problem), *self._values(after, view)]
            return [skip() if part in kept else value for part, value in zip(self._outputs, shown, strict=True)]

        return answer

    def _values(self, session: Session, view: View) -> list[Any]:
        gr = self.gr
        placement = session.placement
        height, width = session.grid if session.photograph else (1, 1)
        enabled = session.photograph is not None and session.token is not None
        sliders = [
            gr.Slider(minimum=-height, maximum=height, value=placement.rows, interactive=enabled),
            gr.Slider(minimum=-width, maximum=width, value=placement.columns, interactive=enabled),
            gr.Slider(value=round(100 * placement.factor), interactive=enabled),
        ]
        return [
            view.photograph,
            view.tokens,
            view.decoding,
            view.maps,
            view.second,
            view.code,
            _tools_title(session),
            *sliders,
            *(gr.Button(interactive=enabled) for _ in self._needs_token),
            *(gr.Button(interactive=bool(session.edits)) for _ in self._needs_edits),
        ]

    def _message(self, text: str) -> Any:
        return self.gr.Textbox(value=text, visible=bool(text))

    def _compared(self, session: Session, name: str) -> tuple[Any, Value]:
        shown, problem = answered(lambda: self.desk.compare(session, name), {"items": []})
        return self._message(problem), shown

    def _found(self, session: Session, count: float) -> tuple[Any, str, Value]:
        (text, shown), problem = answered(lambda: self.desk.find(session, int(count)), ("", {"items": []}))
        return self._message(problem), text, shown


def _tools_title(session: Session) -> str:
    if session.token is None:
        return f"**Edit**: choose a token first. {KEYS}"
    count = len(session.edits)
    done = f" {count} edit{'' if count == 1 else 's'} so far." if count else ""
    return f"**Edit token {session.token}.**{done} {KEYS}"


def style() -> dict[str, Any]:
    """Returns the looks of the page as options of gradio; all fonts are those of the system."""
    themes = gradio().themes
    theme = themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )
    return {"theme": theme, "css": asset("style.css")}
