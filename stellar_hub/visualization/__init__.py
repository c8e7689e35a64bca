"""Images of what the model does, drawn with Pillow alone."""

from stellar_hub.visualization.page import draw_page

__all__ = ["draw_page"]
