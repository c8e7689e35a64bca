"""A sheet to place captioned images on."""

from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

INK = (28, 30, 34)
FAINT = (105, 110, 118)
PAPER = (255, 255, 255)
RULE = (214, 217, 222)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that pages look the same on every machine."""
    return ImageFont.load_default(size)


@dataclass
class Canvas:
    """A white page that knows how to place text and images, in pixels from its top left corner."""

    width: int
    height: int
    image: Image.Image = field(init=False)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (self.width, self.height), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def text(self, left: int, top: int, text: str, size: int, color: tuple[int, int, int] = INK) -> None:
        """One line of text with its top left corner at `(left, top)`."""
        self._draw.text((left, top), text, fill=color, font=font(size))

    def text_width(self, text: str, size: int) -> int:
        """Width of a line of text."""
        return round(self._draw.textlength(text, font=font(size)))

    def paste(self, left: int, top: int, image: Image.Image) -> None:
        """An image with a thin frame."""
        self.image.paste(image, (left, top))
        self._draw.rectangle((left - 1, top - 1, left + image.width, top + image.height), outline=RULE, width=1)

    def swatch(self, left: int, top: int, side: int, color: tuple[int, int, int]) -> None:
        """A filled square: the key to a colour."""
        self._draw.rectangle((left, top, left + side - 1, top + side - 1), fill=color)

    def bar(self, left: int, top: int, width: int, height: int, share: float, color: tuple[int, int, int]) -> None:
        """A horizontal bar filled to `share`, in [0, 1]."""
        self._draw.rectangle((left, top, left + width - 1, top + height - 1), fill=(238, 240, 243))
        filled = round(width * share)
        if filled:
            self._draw.rectangle((left, top, left + filled - 1, top + height - 1), fill=color)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, the middle left out."""
    if len(text) <= limit:
        return text
    head = (limit - 3) // 2
    return f"{text[:head]}...{text[len(text) - (limit - 3 - head) :]}"
