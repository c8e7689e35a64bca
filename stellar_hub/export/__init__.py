"""Export of a model as graphs for other runtimes, at a fixed image size and any batch size.

A new export format belongs here. Each graph is compared with the model that it comes from.
"""

from stellar_hub.export.formats import FORMATS, ExportedGraph, export_model

__all__ = ["FORMATS", "ExportedGraph", "export_model"]
