"""How an image is fitted to the model, as numbers: sizes, crop and the way back to the original's pixels."""

from dataclasses import dataclass
from typing import Literal

Fit = Literal["crop", "aspect", "pad"]

# Attention costs the square of the number of patches; beyond this an image takes minutes and gigabytes.
MAX_ASPECT = 16


@dataclass(frozen=True)
class ImageGeometry:
    """The fitting of one image; heights come before widths, all in pixels.

    Attributes:
        original_size: `(height, width)` of the image, EXIF orientation applied.
        resized_size: `(height, width)` it is resized to.
        offset: `(top, left)` of the output's corner in the resized image; negative where it is padded.
        output_size: `(height, width)` of what the model gets.
    """

    original_size: tuple[int, int]
    resized_size: tuple[int, int]
    offset: tuple[int, int]
    output_size: tuple[int, int]

    @property
    def crop_box(self) -> tuple[float, float, float, float]:
        """`(top, left, bottom, right)` of the output in the original's pixels; outside of it where padded."""
        (height, width), (top, left) = self.output_size, self.offset
        # Multiplied before divided, so that a box that ends with the image ends exactly there.
        (rows, columns), (resized_rows, resized_columns) = self.original_size, self.resized_size
        return (
            top * rows / resized_rows,
            left * columns / resized_columns,
            (top + height) * rows / resized_rows,
            (left + width) * columns / resized_columns,
        )


def fit_geometry(
    original_size: tuple[int, int], fit: Fit, shortest_edge: int | None, output_size: tuple[int, int], patch_size: int
) -> ImageGeometry:
    """Plan how an image is brought to the model.

    Args:
        original_size: `(height, width)` of the image.
        fit: "crop": shortest side to `shortest_edge`, then the centre. "aspect": the whole image, shortest side to
            the shorter side of `output_size`, sides rounded to the patch. "pad": the whole image inside
            `output_size`, centred, with bars.
        shortest_edge: Side to resize to before cropping; None crops without resizing.
        output_size: `(height, width)` wanted, multiples of the patch.
        patch_size: Side of a patch.

    Raises:
        ValueError: if the fit is unknown or the crop is larger than the resized image.
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
                f"cannot crop {output_size} from an image resized to {resized}: "
                'make size["shortest_edge"] at least as large as crop_size, or use fit="pad"'
            )
    else:
        raise ValueError(f"fit must be 'crop', 'aspect' or 'pad', got {fit!r}")
    # Floor division is right for both: a crop starts at or before the middle, bars above and left are the smaller ones.
    offset = (margin(resized[0], output_size[0]), margin(resized[1], output_size[1]))
    return ImageGeometry(original_size, resized, offset, output_size)


def margin(resized: int, output: int) -> int:
    """Start of a centred window of `output` pixels on a side of `resized` pixels; negative for bars."""
    return (resized - output) // 2 if resized >= output else -((output - resized) // 2)


def shortest_edge_size(original_size: tuple[int, int], shortest_edge: int) -> tuple[int, int]:
    """The size with this shortest side and the same aspect; the longer side is rounded down, as in transformers."""
    height, width = original_size
    if height <= width:
        return shortest_edge, int(shortest_edge * width / height)
    return int(shortest_edge * height / width), shortest_edge


def aspect_size(original_size: tuple[int, int], shortest_edge: int, patch_size: int) -> tuple[int, int]:
    """The size nearest to this shortest side and the same aspect whose sides are multiples of the patch.

    Raises:
        ValueError: if the image is so long that it would become a huge number of patches.
    """
    if max(original_size) > MAX_ASPECT * min(original_size):
        raise ValueError(
            f"an image of {original_size[0]} x {original_size[1]} pixels is too long for fit='aspect' (at most "
            f"{MAX_ASPECT} times as long as wide): use fit='pad' or 'crop', or cut it up"
        )
    scale = shortest_edge / min(original_size)
    height, width = (max(1, round(side * scale / patch_size)) * patch_size for side in original_size)
    return height, width
