"""Pictures of known class: folders by class, split files, tables; one small object for evaluation."""

from stellar_hub.data.labelled.labelled_pictures import LabelledPictures
from stellar_hub.data.labelled.open_labelled import open_labelled

__all__ = ["LabelledPictures", "open_labelled"]
