"""A page to place captioned images on, and the panels that are placed there."""

from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from stellar_hub.modeling.image_loading import load_rgb
from stellar_hub.modeling.localization_maps import overlay_assignment, overlay_token
from stellar_hub.modeling.safe_text import escape_control

INK = (28, 30, 34)
FAINT = (105, 110, 118)
PAPER = (255, 255, 255)
RULE = (214, 217, 222)
EMPTY_BAR = (238, 240, 243)
MAX_LETTERS = 200  # of a line, however wide the page is

Color = tuple[int, int, int]


@dataclass
class Canvas:
    """A white page with methods that place text and images. Positions are pixels from its top left corner.

    Args:
        width: Width of the page in pixels.
        height: Height of the page in pixels.
    """

    width: int
    height: int
    image: Image.Image = field(init=False)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (self.width, self.height), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def text(self, left: int, top: int, text: str, size: int, color: Color = INK) -> None:
        """Writes one line of text with its top left corner at `(left, top)`; control characters are written out."""
        self._draw.text((left, top), escape_control(text), fill=color, font=_font(size))

    def text_width(self, text: str, size: int) -> int:
        """Returns the width of a line of text in pixels."""
        return round(self._draw.textlength(escape_control(text), font=_font(size)))

    def fit(self, text: str, size: int, width: int) -> str:
        """Returns a line of text, shortened until it is at most `width` pixels wide; dots replace its middle."""
        text = escape_control(text)
        limit = min(len(text), MAX_LETTERS)
        while limit > 3 and self.text_width(shorten(text, limit), size) > width:
            limit -= 1
        return shorten(text, limit)

    def paste(self, left: int, top: int, image: Image.Image) -> None:
        """Places an image with a thin frame."""
        self.image.paste(image, (left, top))
        self._draw.rectangle((left - 1, top - 1, left + image.width, top + image.height), outline=RULE, width=1)

    def swatch(self, left: int, top: int, side: int, color: Color) -> None:
        """Draws a filled square, the key to a colour."""
        self._draw.rectangle((left, top, left + side - 1, top + side - 1), fill=color)

    def bar(self, left: int, top: int, width: int, height: int, share: float, color: Color) -> None:
        """Draws a horizontal bar that is filled to `share`, in [0, 1]."""
        self._draw.rectangle((left, top, left + width - 1, top + height - 1), fill=EMPTY_BAR)
        filled = round(width * share)
        if filled:
            self._draw.rectangle((left, top, left + filled - 1, top + height - 1), fill=color)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # Pillow's own font, so that pages look the same on every machine.
    return ImageFont.load_default(size)


def shorten(text: str, limit: int) -> str:
    """Shortens text to at most `limit` characters; dots replace its middle, and control characters are written out."""
    text = escape_control(text)
    if len(text) <= limit:
        return text
    head = (limit - 3) // 2
    return f"{text[:head]}...{text[len(text) - (limit - 3 - head) :]}"


def size_in_square(aspect: float, side: int) -> tuple[int, int]:
    """Returns the `(width, height)` in pixels of an image that fills a square of `side` pixels.

    Args:
        aspect: Width of the image divided by its height.
        side: Side of the square in pixels.
    """
    return size_in_box(aspect, side, side)


def size_in_box(aspect: float, width: int, height: int) -> tuple[int, int]:
    """Returns the `(width, height)` in pixels of an image that fills a box of `width` by `height` pixels.

    Args:
        aspect: Width of the image divided by its height.
        width: Width of the box in pixels.
        height: Height of the box in pixels.
    """
    if aspect * height >= width:
        return width, max(1, round(width / aspect))
    return max(1, round(height * aspect)), height


def resize_panel(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resizes an image to `(width, height)` with Pillow's bicubic filter, which antialiases."""
    return image.resize(size, Image.Resampling.BICUBIC)


def draw_assignment(panel: Image.Image, localization: Tensor, grid_size: tuple[int, int]) -> Image.Image:
    """Draws the strongest token of each place over a panel, in the colours of the tokens.

    Args:
        panel: Image that shows exactly what the model saw, in any size.
        localization: `L` of the image, `(n, r)`.
        grid_size: Rows and columns of patches, `(h, w)`.
    """
    return overlay_assignment(load_rgb(panel), localization, _whole(panel), grid_size)


def draw_token(
    panel: Image.Image,
    localization: Tensor,
    token: int,
    grid_size: tuple[int, int],
    value_range: tuple[float, float] | None = None,
) -> Image.Image:
    """Draws the map of one token over a panel: dim where the map is lowest, bright at its peak.

    Args:
        panel: Image that shows exactly what the model saw, in any size.
        localization: `L` of the image, `(n, r)`.
        token: Index of the token.
        grid_size: Rows and columns of patches, `(h, w)`.
        value_range: Values that are drawn dim and bright, the same for maps that are compared. None takes the lowest
            and the highest value of this map.
    """
    return overlay_token(load_rgb(panel), localization, token, _whole(panel), grid_size, value_range)


def is_used(localization: Tensor) -> Tensor:
    """Returns which tokens an image uses, `(r,)` bool: those that reach a tenth of an equal share in some patch.

    Args:
        localization: `L` of the image, `(n, r)`.
    """
    return localization.max(dim=0).values >= 0.1 / localization.shape[1]


def _whole(panel: Image.Image) -> tuple[float, float, float, float]:
    """Returns the crop box `(top, left, bottom, right)` of a panel that the model saw as a whole."""
    return 0.0, 0.0, float(panel.height), float(panel.width)
