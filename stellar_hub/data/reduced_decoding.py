"""Decoding a JPEG at a half, a quarter or an eighth of its size, where its views are smaller still.

Libjpeg leaves out the finer waves of each block of 8 x 8 pixels: the work falls with the pixels that are left.
"""

import os
from collections.abc import Callable, Sequence

from PIL import Image
from torch import Tensor

from stellar_hub.data.crops import View
from stellar_hub.data.sources import EncodedPicture, read_picture
from stellar_hub.data.sources.picture_source import Picture, open_undecoded
from stellar_hub.modeling.image_loading import UNREADABLE, decode_picture, pil_to_rgb

REDUCTIONS = (8, 4, 2)
ORIENTATION = 0x0112  # EXIF's tag
SIDEWAYS = (5, 6, 7, 8)  # its values for pictures that lie on their side

Plan = Callable[[int, int], Sequence[View]]  # the views of a picture of this height and width


def read_for_views(picture: Picture, plan: Plan) -> tuple[Tensor, tuple[int, int]]:
    """Read a picture at a size that is enough for its views.

    Args:
        picture: What a source gives.
        plan: Called once with the picture's height and width, upright.

    Returns:
        The picture, `(3, H, W)`, and its height and width in the file, upright. No view's part is smaller at the size
        read than it will be shown; pictures that are no JPEGs, or whose views need all pixels, are read whole.

    Raises:
        FileNotFoundError: if it is a path to nothing.
        ValueError: if it is no readable picture; it is named.
    """
    name = str(picture)
    if not isinstance(picture, EncodedPicture) and not os.path.isfile(picture):
        read_picture(picture)  # says what is wrong
    with open_undecoded(picture) as opened:
        height, width = upright_size(opened, name)
        factor = reduction(plan(height, width))
        if opened.format == "JPEG" and factor > 1:
            opened.draft(None, (opened.width // factor, opened.height // factor))
        return pil_to_rgb(decode_picture(opened, name), name), (height, width)


def reduction(views: Sequence[View]) -> int:
    """How many times smaller a picture may be so that no view has to be enlarged for it: 1, 2, 4 or 8."""
    room = min(min(view.box[2:]) / view.size for view in views)
    return next((factor for factor in REDUCTIONS if factor <= room), 1)


def upright_size(opened: Image.Image, name: str) -> tuple[int, int]:
    """Height and width of an opened picture once EXIF's orientation is applied."""
    try:
        sideways = opened.getexif().get(ORIENTATION) in SIDEWAYS
    except UNREADABLE as error:
        raise ValueError(f"{name} cannot be read as a picture: {error}") from error
    return (opened.width, opened.height) if sideways else (opened.height, opened.width)
