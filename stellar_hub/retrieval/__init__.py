"""Searching a store of features: by image, by set of tokens, by one concept and its region."""

from stellar_hub.retrieval.approximate import ApproximateIndex, build_index
from stellar_hub.retrieval.concept_search import ConceptHits, search_concepts
from stellar_hub.retrieval.image_search import Hits, find_duplicates, search_images
from stellar_hub.retrieval.recall import recall_at
from stellar_hub.retrieval.set_search import search_sets, set_similarity

__all__ = [
    "ApproximateIndex",
    "ConceptHits",
    "Hits",
    "build_index",
    "find_duplicates",
    "recall_at",
    "search_concepts",
    "search_images",
    "search_sets",
    "set_similarity",
]
