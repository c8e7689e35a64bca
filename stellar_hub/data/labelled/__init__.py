"""Images with labels for evaluation: one class per image, or one class per pixel.

A new way to write labels on disk belongs here.
"""

from stellar_hub.data.labelled.labelled_images import LabelledImages, hold_out
from stellar_hub.data.labelled.open_labelled import list_classes, open_labelled
from stellar_hub.data.labelled.segmentation_folders import SegmentationImages, read_segmentation_folder

__all__ = [
    "LabelledImages",
    "SegmentationImages",
    "hold_out",
    "list_classes",
    "open_labelled",
    "read_segmentation_folder",
]
