"""Graphs for other runtimes, at a fixed image size and any batch size, checked against the model they come from."""

from stellar_hub.export.formats import FORMATS, export_model

__all__ = ["FORMATS", "export_model"]
