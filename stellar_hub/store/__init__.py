"""Feature stores: features of many images on disk, and the extraction that fills them, in one process, several or Ray.

Search in a store belongs to `stellar_hub.retrieval`.
"""

from stellar_hub.store.databases.outgoing import ExportReport
from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.fill import ExtractionReport
from stellar_hub.store.manifest import Manifest
from stellar_hub.store.plan import ExtractionOptions
from stellar_hub.store.to_store import extract_to_store

__all__ = ["ExportReport", "ExtractionOptions", "ExtractionReport", "FeatureStore", "Manifest", "extract_to_store"]
