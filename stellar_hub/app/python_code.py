"""The Python that does what the page did."""

from collections.abc import Sequence

from stellar_hub.app.edits import Edit
from stellar_hub.app.photographs import Photograph

ENCODE = 'model.encode(processor({}, return_tensors="pt")["pixel_values"])'


def python_of(model: str, photograph: Photograph, edits: Sequence[Edit], can_decode: bool = True) -> str:
    """Writes the program: load, encode, edit, decode, save.

    Args:
        model: Name of the model.
        photograph: The image that is edited.
        edits: What was done, in its order.
        can_decode: Whether the model can decode.
    """
    functions = sorted({call.function for edit in edits for call in edit.calls})
    sources = list(dict.fromkeys(edit.source for edit in edits if edit.source is not None))
    names = {source: "other" if number == 1 else f"other_{number}" for number, source in enumerate(sources, 1)}
    lines = [
        *(["from importlib.resources import files", ""] if _needs_files([photograph, *sources]) else []),
        *(["from torchvision.utils import save_image", ""] if can_decode else []),
        "from stellar_hub import StellarImageProcessor, StellarModel",
        *([f"from stellar_hub.editing import {', '.join(functions)}"] if functions else []),
        "",
        f"model = StellarModel.from_pretrained({model!r})",
        f"processor = StellarImageProcessor.from_pretrained({model!r})",
        f"encoding = {ENCODE.format(photograph.written)}",
        *(f"{name} = {ENCODE.format(source.written)}" for source, name in names.items()),
        *(call.python(names) for edit in edits for call in edit.calls),
        *(['save_image(model.decode(encoding), "edited.png")'] if can_decode else []),
    ]
    return "\n".join(lines) + "\n"


def _needs_files(photographs: Sequence[Photograph]) -> bool:
    return any(photograph.written.startswith("files(") for photograph in photographs)
