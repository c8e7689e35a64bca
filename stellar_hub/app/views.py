"""What the page shows of a session, as values of its parts: drawings as data addresses, captions, numbers."""

import base64
import functools
import io
import math
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from stellar_hub.app.models import Models, fitted
from stellar_hub.app.photographs import ImageFiles, Photograph, example_names, example_path
from stellar_hub.app.python_code import python_of
from stellar_hub.app.session import Session, grid_of
from stellar_hub.editing import token_center
from stellar_hub.measures import psnr
from stellar_hub.modeling import StellarEncoding
from stellar_hub.modeling.image_loading import read_encoded
from stellar_hub.modeling.localization_maps import to_pil, token_colors
from stellar_hub.visualization import draw_assignment, draw_token, is_used, resize_panel, size_in_square

MAX_TOKENS = 64  # maps that the page shows
MAP_SIDE = 112  # pixels of a small map
EXAMPLE_SIDE = 96
JPEG_QUALITY = 88

Value = dict[str, Any]  # what a part of the page gets, as JSON


@dataclass(frozen=True)
class View:
    """What the page shows.

    Attributes:
        photograph: The image, with the place of the chosen token.
        tokens: The image in the colours of its tokens.
        decoding: The decoded image.
        maps: The small maps.
        second: The second image, with the place of its chosen token.
        code: The Python that does the same.
    """

    photograph: Value
    tokens: Value
    decoding: Value
    maps: Value
    second: Value
    code: str


def view_of(session: Session, models: Models) -> View:
    """Draws a session."""
    empty = View(board(), board(), board(), {"items": []}, second_board(session), "")
    if session.photograph is None:
        return empty
    encoding, seen = session.encoding, session.photograph.seen
    decoded = models.decode(session.model, encoding)
    localization, grid = encoding.localization[0], session.grid
    place = center_of(encoding, session.token)
    lit = seen if session.token is None else draw_token(seen, localization, session.token, grid)
    colored = draw_assignment(seen, localization, grid)
    facts: Value = {"grid": grid, "center": place}
    return View(
        photograph=board(lit, _photograph_caption(session), session.photograph.title, **facts),
        tokens=board(colored, _tokens_caption(encoding), "the token that each place belongs to most", **facts),
        decoding=decoding_board(decoded, session, **facts),
        maps=small_maps(encoding, seen, grid, session.token),
        second=empty.second,
        code=python_of(session.model, session.photograph, session.edits, decoded is not None),
    )


def board(
    image: Image.Image | None = None,
    caption: str = "",
    alt: str = "",
    grid: tuple[int, int] = (1, 1),
    center: tuple[float, float] | None = None,
    lossless: bool = False,
) -> Value:
    """Returns the value of a board: an image on which a place can be clicked, and a token dragged.

    Args:
        image: The image; None shows an empty board.
        caption: Text below.
        alt: The image in words.
        grid: Rows and columns of patches.
        center: Row and column of the chosen token's centre, in patches; None shows none.
        lossless: Whether the image is sent as PNG.
    """
    address = "" if image is None else data_address(image, lossless)
    return {"image": address, "caption": caption, "alt": alt, "grid": list(grid), "center": center and list(center)}


def decoding_board(decoded: Tensor | None, session: Session, **facts: Any) -> Value:
    """Returns the board of the decoded image, with its PSNR."""
    if decoded is None:
        return board(caption=f"{session.model} has no decoder.")
    count = int(is_used(session.encoding.localization[0]).sum())
    decibels = psnr(decoded, session.original.pixels)
    what = "edited" if session.edits else "as it was"
    caption = f"{count} tokens, {what}: PSNR {spell_decibels(decibels)}"
    return board(to_pil(decoded), caption, f"the image as the model decodes it, {what}", lossless=True, **facts)


def second_board(session: Session) -> Value:
    """Returns the board of the second image, with the place of its chosen token."""
    second, token = session.second, session.second_token
    if second is None or token is None:
        return board()
    grid = grid_of(second)
    lit = draw_token(second.seen, second.encoding.localization[0], token, grid)
    center = center_of(second.encoding, token)
    return board(lit, f"token {token} of {second.title}", f"{second.title}, where token {token} is", grid, center)


def small_maps(
    encoding: StellarEncoding, seen: Image.Image, grid: tuple[int, int], chosen: int | None, count: int = MAX_TOKENS
) -> Value:
    """Returns the small maps of an image's tokens, in the order of their numbers.

    Args:
        encoding: Its encoding, a batch of one.
        seen: The image to draw on.
        grid: Rows and columns of patches.
        chosen: Number of the chosen token.
        count: Number of maps, at most; the tokens with the largest shares are shown.
    """
    localization = encoding.localization[0]
    shares = localization.mean(dim=0)
    used = is_used(localization).tolist()
    panel = resize_panel(seen, size_in_square(seen.width / seen.height, MAP_SIDE))
    colors = (token_colors(len(shares)) * 255).round().int().tolist()
    shown = sorted(shares.argsort(descending=True)[:count].tolist())
    return {
        "items": [
            {
                "key": str(token),
                "label": str(token),
                "title": f"choose token {token}",
                "note": f"{shares[token]:.1%}" if used[token] else "unused",
                "color": "#{:02x}{:02x}{:02x}".format(*colors[token]),
                "image": data_address(draw_token(panel, localization, token, grid)),
                "chosen": token == chosen,
                "used": used[token],
            }
            for token in shown
        ]
    }


def compared(session: Session, models: Models, kept: ImageFiles, name: str) -> list[Value]:
    """Returns the decoding and the tokens of the image by another model, for comparison; without the edits.

    Raises:
        OSError: if the model cannot be loaded.
        ValueError: if it is no model of the page, or there is no image.
    """
    photograph = session.original
    data, loaded = kept.read(photograph.file, photograph.title), models.load(name)
    pixels = fitted(loaded.processor, data, photograph.title)
    seen = to_pil(fitted(loaded.sharp, data, photograph.title))
    encoding = models.encode(name, pixels)
    decoded = models.decode(name, encoding)
    other = Photograph(photograph.title, "", photograph.file, pixels, seen, encoding)
    colored = draw_assignment(seen, encoding.localization[0], grid_of(other))
    figures = [figure(colored, f"{name}: {encoding.semantics.shape[1]} tokens")]
    if decoded is not None:
        height, width = decoded.shape[1:]
        caption = f"{name}: PSNR {spell_decibels(psnr(decoded, pixels))}, {height} x {width} pixels"
        figures.append(figure(to_pil(decoded), caption, lossless=True))
    return figures


def figure(image: Image.Image, caption: str, lossless: bool = False) -> Value:
    """Returns an image with a caption, which is also what it is in words."""
    return {"image": data_address(image, lossless), "caption": caption}


@functools.cache
def examples() -> Value:
    """Returns the photographs of the package, small."""
    shown = []
    for name in example_names():
        with Image.open(io.BytesIO(read_encoded(example_path(name))[0])) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.convert("RGB").crop((left, top, left + side, top + side))
        title = name.removesuffix(".jpg").replace("_", " ")
        small = data_address(resize_panel(square, (EXAMPLE_SIDE, EXAMPLE_SIDE)))
        shown.append({"key": name, "label": title, "title": f"open {title}", "image": small})
    return {"items": shown}


def center_of(encoding: StellarEncoding, token: int | None) -> tuple[float, float] | None:
    """Returns the row and column of a token's centre of mass, in patches; None if it is nowhere."""
    if token is None or not float(encoding.localization[0, :, token].sum()) > 0:
        return None
    row, column = token_center(encoding, token)[0].tolist()
    return (row, column) if math.isfinite(row + column) else None


def data_address(image: Image.Image, lossless: bool = False) -> str:
    """Returns an image as a `data:` address, so that no file has to be served."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG") if lossless else image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def spell_decibels(decibels: float) -> str:
    """Returns a PSNR with its unit."""
    return f"{decibels:.1f} dB" if math.isfinite(decibels) else "infinite"


def _photograph_caption(session: Session) -> str:
    height, width = session.original.pixels.shape[1:]
    title = f"{session.original.title}, seen as {height} x {width} pixels"
    if session.token is None:
        return title
    share = float(session.encoding.localization[0, :, session.token].mean())
    return f"token {session.token}: {share:.1%} of the image"


def _tokens_caption(encoding: StellarEncoding) -> str:
    return f"{encoding.semantics.shape[1]} tokens, each place in the colour of its strongest"
