"""The pictures that a model reconstructs worst, beside what it makes of them."""

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from stellar_hub.modeling.localization_maps import to_pil
from stellar_hub.visualization.canvas import FAINT, Canvas, shorten

MARGIN, HEAD, GAP, FOOT = 24, 70, 10, 24
SIDE = 190
TEXT, SMALL = 17, 12


def draw_worst(originals: Tensor, decoded: Tensor, captions: Sequence[str], title: str) -> Image.Image:
    """A column for each picture: above as the model saw it, below as it came back.

    Args:
        originals: `(N, 3, H, W)` in [0, 1].
        decoded: The same shape.
        captions: `N` lines.
        title: Above all.
    """
    width = 2 * MARGIN + len(originals) * (SIDE + GAP) - GAP
    canvas = Canvas(max(width, 460), HEAD + 2 * (SIDE + GAP) + FOOT + MARGIN)
    canvas.text(MARGIN, 14, shorten(title, 60), TEXT)
    canvas.text(MARGIN, 42, "above: as the model saw it; below: reconstructed", SMALL, FAINT)
    for column, caption in enumerate(captions):
        left = MARGIN + column * (SIDE + GAP)
        for row, pictures in enumerate((originals, decoded)):
            picture = to_pil(pictures[column]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            canvas.picture(left, HEAD + row * (SIDE + GAP), picture)
        canvas.text(left, HEAD + 2 * (SIDE + GAP), shorten(caption, 30), SMALL, FAINT)
    return canvas.image
