"""How an image is resized, cropped or padded for the model, as numbers, and the way back to the original's pixels."""

from dataclasses import dataclass
from typing import Literal

Fit = Literal["crop", "aspect", "pad"]

# The longest side over the shortest. Attention costs the square of the number of patches: beyond this an image takes
# minutes and gigabytes.
MAX_ASPECT = 16


@dataclass(frozen=True)
class ImageGeometry:
    """The sizes and the position that say how one image becomes the model's input, in pixels, heights before widths.

    Attributes:
        original_size: `(height, width)` of the image, after its EXIF orientation is applied.
        resized_size: `(height, width)` of the resized image.
        offset: `(top, left)` of the output's corner in the resized image; negative where the output is padded.
        output_size: `(height, width)` of the model's input.
    """

    original_size: tuple[int, int]
    resized_size: tuple[int, int]
    offset: tuple[int, int]
    output_size: tuple[int, int]

    @property
    def crop_box(self) -> tuple[float, float, float, float]:
        """The output's `(top, left, bottom, right)` in the original's pixels; beyond its edges where it is padded."""
        (height, width), (top, left) = self.output_size, self.offset
        # Multiplication before division, so that a box that ends with the image ends exactly there.
        (rows, columns), (resized_rows, resized_columns) = self.original_size, self.resized_size
        return (
            top * rows / resized_rows,
            left * columns / resized_columns,
            (top + height) * rows / resized_rows,
            (left + width) * columns / resized_columns,
        )

    @property
    def reduction(self) -> int:
        """How many times smaller the image may be read, 1, 2, 4 or 8, so that each side has two pixels for each one."""
        sides = zip(self.original_size, self.resized_size, strict=True)
        enough = min(side // (2 * resized) for side, resized in sides)
        return next((factor for factor in (8, 4, 2) if factor <= enough), 1)


def fit_geometry(
    original_size: tuple[int, int], fit: Fit, shortest_edge: int | None, output_size: tuple[int, int], patch_size: int
) -> ImageGeometry:
    """Plans how an image becomes the model's input.

    Args:
        original_size: `(height, width)` of the image in pixels.
        fit: "crop" resizes the shortest side to `shortest_edge` and keeps the centre. "aspect" keeps the whole image:
            its shortest side becomes the shorter side of `output_size`, and both sides are rounded to the patch. "pad"
            puts the whole image in the middle of `output_size`, between bars.
        shortest_edge: Length in pixels of the shortest side before the crop; None crops without resizing.
        output_size: `(height, width)` of the model's input in pixels, multiples of the patch size.
        patch_size: Side of a patch in pixels.

    Raises:
        ValueError: if the fit is unknown, the crop is larger than the resized image, or the image is too long for
            "aspect".
    """
    height, width = original_size
    if fit == "aspect":
        resized = aspect_size(original_size, min(output_size), patch_size)
        return ImageGeometry(original_size, resized, (0, 0), resized)
    if fit == "pad":
        scale = min(output_size[0] / height, output_size[1] / width)
        resized = (
            min(output_size[0], max(1, round(height * scale))),
            min(output_size[1], max(1, round(width * scale))),
        )
    elif fit == "crop":
        resized = original_size if shortest_edge is None else shortest_edge_size(original_size, shortest_edge)
        if resized[0] < output_size[0] or resized[1] < output_size[1]:
            raise ValueError(
                f"cannot crop {output_size} pixels from an image resized to {resized}: "
                'make size["shortest_edge"] at least as large as crop_size, or use fit="pad"'
            )
    else:
        raise ValueError(f"fit must be 'crop', 'aspect' or 'pad', got {fit!r}")
    # A crop starts at or before the middle; the bars above and on the left are the smaller ones.
    offset = (margin(resized[0], output_size[0]), margin(resized[1], output_size[1]))
    return ImageGeometry(original_size, resized, offset, output_size)


def margin(resized: int, output: int) -> int:
    """Returns where a centred window of `output` pixels starts on a side of `resized` pixels; negative for bars."""
    return (resized - output) // 2 if resized >= output else -((output - resized) // 2)


def shortest_edge_size(original_size: tuple[int, int], shortest_edge: int) -> tuple[int, int]:
    """Returns the size with this shortest side and the same aspect ratio.

    The longer side is rounded down, as in transformers.
    """
    height, width = original_size
    if height <= width:
        return shortest_edge, int(shortest_edge * width / height)
    return int(shortest_edge * height / width), shortest_edge


def aspect_size(original_size: tuple[int, int], shortest_edge: int, patch_size: int) -> tuple[int, int]:
    """Returns the size nearest to this shortest side and the same aspect ratio whose sides are multiples of the patch.

    Raises:
        ValueError: if the image is so long that it would become a huge number of patches.
    """
    if max(original_size) > MAX_ASPECT * min(original_size):
        raise ValueError(
            f"an image of {original_size[0]} x {original_size[1]} pixels is too long for fit='aspect', which takes at "
            f"most {MAX_ASPECT} times the shorter side: use fit='pad' or 'crop', or cut the image into pieces"
        )
    scale = shortest_edge / min(original_size)
    height, width = (max(1, round(side * scale / patch_size)) * patch_size for side in original_size)
    return height, width
