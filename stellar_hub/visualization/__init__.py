"""Drawings of what a model does: pages and sheets of images, drawn with Pillow, and figures, drawn with matplotlib.

A function belongs here if it turns numbers into an image. It computes no features and reads no file but its images.
"""

from stellar_hub.visualization.canvas import (
    FAINT,
    Canvas,
    draw_assignment,
    draw_token,
    is_used,
    resize_panel,
    size_in_box,
    size_in_square,
)
from stellar_hub.visualization.duplicate_sheet import SheetGroup, SheetImage, draw_duplicates
from stellar_hub.visualization.edit_page import EditedImage, EditFacts, draw_edit
from stellar_hub.visualization.figures import Curve, draw_confusion, draw_curves, draw_spectra
from stellar_hub.visualization.page import PageFacts, draw_page
from stellar_hub.visualization.search_page import Region, draw_regions
from stellar_hub.visualization.sheets import SegmentExample, choose_spread, draw_segments, draw_worst

__all__ = [
    "FAINT",
    "Canvas",
    "Curve",
    "EditFacts",
    "EditedImage",
    "PageFacts",
    "Region",
    "SegmentExample",
    "SheetGroup",
    "SheetImage",
    "choose_spread",
    "draw_assignment",
    "draw_confusion",
    "draw_curves",
    "draw_duplicates",
    "draw_edit",
    "draw_page",
    "draw_regions",
    "draw_segments",
    "draw_spectra",
    "draw_token",
    "draw_worst",
    "is_used",
    "resize_panel",
    "size_in_box",
    "size_in_square",
]
