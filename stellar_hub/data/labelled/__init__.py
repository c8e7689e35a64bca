"""Images of known class: folders by class, split files, tables; one small object for evaluation."""

from stellar_hub.data.labelled.labelled_images import LabelledImages
from stellar_hub.data.labelled.open_labelled import open_labelled

__all__ = ["LabelledImages", "open_labelled"]
