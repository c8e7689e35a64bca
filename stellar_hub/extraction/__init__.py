"""Features of many pictures: for a loop of one's own, or into a store on the disk.

`extract_features` yields batches (`StellarModel.extract` calls it); `extract_to_store` writes a store, which
`FeatureStore` reads. Rows are told by the picture's index in its source, and none is ever lost: a picture that cannot
be read keeps its row, with its error.
"""

from stellar_hub.extraction.feature_batch import FeatureBatch, FeatureRow
from stellar_hub.extraction.in_memory import extract_features
from stellar_hub.extraction.picture_record import PictureRecord
from stellar_hub.extraction.store.feature_store import FeatureStore
from stellar_hub.extraction.to_store import extract_to_store

__all__ = [
    "FeatureBatch",
    "FeatureRow",
    "FeatureStore",
    "PictureRecord",
    "extract_features",
    "extract_to_store",
]
