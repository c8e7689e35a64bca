"""Search in a feature store: by image, by set of tokens, or by one concept and its region.

A way to search a store belongs here. How two features are compared belongs to `stellar_hub.measures`.
"""

from stellar_hub.measures import maxsim, set_similarity
from stellar_hub.retrieval.approximate import ApproximateIndex, build_index, rows_and_tokens
from stellar_hub.retrieval.concept_search import ConceptHits, place_in_crop, search_concepts, token_at
from stellar_hub.retrieval.duplicates import DuplicateGroup, find_duplicates, group_duplicates
from stellar_hub.retrieval.hits import Hits, recall_at, without_self
from stellar_hub.retrieval.image_search import search_images
from stellar_hub.retrieval.set_search import search_sets

__all__ = [
    "ApproximateIndex",
    "ConceptHits",
    "DuplicateGroup",
    "Hits",
    "build_index",
    "find_duplicates",
    "group_duplicates",
    "maxsim",
    "place_in_crop",
    "recall_at",
    "rows_and_tokens",
    "search_concepts",
    "search_images",
    "search_sets",
    "set_similarity",
    "token_at",
    "without_self",
]
