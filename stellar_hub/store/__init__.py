"""Feature stores: features of many images on disk, and how a store is filled, by one process, several or Ray."""

from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.plan import ExtractionOptions
from stellar_hub.store.to_store import ExtractionReport, extract_to_store

__all__ = ["ExtractionOptions", "ExtractionReport", "FeatureStore", "extract_to_store"]
