"""Searching in less time than a look at each row takes: cosine similarity through faiss."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.retrieval.image_search import Hits, check_queries, normed_vectors
from stellar_hub.store.feature_store import FeatureStore

INSTALL = "approximate search is done by faiss: pip install 'stellar_hub[retrieval]'"
MAX_FOR_TRAINING = 262_144  # vectors
HEADER = b"stellar_hub\n"


def faiss() -> Any:
    """The library, or how to get it.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import faiss as library
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return library


def build_index(store: FeatureStore, output: str = "pooled", factory: str = "HNSW32") -> Any:
    """A faiss index over a store, by inner product of vectors of length 1.

    Its ids are rows or, for "S", `row * num_tokens + token`. Rows with an error are not in it.

    Args:
        store: It must hold `output`.
        output: "pooled", "cls" or "S".
        factory: What kind, as `faiss.index_factory` spells it: "Flat" (exact), "HNSW32", "IVF1024,PQ48", ...

    Raises:
        ImportError: if faiss is not installed.
        KeyError: if the store does not hold the output.
        ValueError: if faiss does not know the factory, or has too few rows to train it.
    """
    library = faiss()
    shape = store.shape(output)
    try:
        index = library.index_factory(shape[-1], f"IDMap2,{factory}", library.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(training_vectors(store, output).numpy())
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"faiss cannot build {factory!r} for {len(store)} rows: {reason}") from error
    for rows, vectors in normed_vectors(store, output):
        if vectors.ndim == 3:
            rows = (rows[:, None] * shape[0] + torch.arange(shape[0])).flatten()
            vectors = vectors.flatten(0, 1)
        index.add_with_ids(vectors.numpy(), rows.numpy())
    return index


def training_vectors(store: FeatureStore, output: str) -> Tensor:
    """Some vectors of a store, spread over all of it, `(N, d)`."""
    vectors, stride = [], -(-len(store) // MAX_FOR_TRAINING)
    for _, part in normed_vectors(store, output):
        vectors.append(part[::stride].flatten(0, -2))
    return torch.cat(vectors)[:MAX_FOR_TRAINING]


class ApproximateIndex:
    """A faiss index that knows what it was made of, so that it is not asked about another model's vectors.

    Make it with `build` or `load`.

    Attributes:
        index: The faiss index.
        facts: `output` and `shape`, and of the store `weights_sha256` and `preprocessing`.
    """

    def __init__(self, index: Any, facts: dict[str, Any]):
        self.index = index
        self.facts = facts

    @classmethod
    def build(cls, store: FeatureStore, output: str = "pooled", factory: str = "HNSW32") -> "ApproximateIndex":
        """Index a store; see `build_index`."""
        return cls(build_index(store, output, factory), facts_of(store, output))

    def search(self, queries: Tensor, k: int = 10) -> Hits:
        """The images nearest to each query.

        Args:
            queries: Vectors `(Q, d)`; their lengths do not matter.
            k: How many to find.

        Returns:
            Rows, or `row * num_tokens + token` in an index over "S"; -1, with a score of minus infinity, where nothing
            was found.

        Raises:
            ValueError: if the queries do not fit.
        """
        normed = check_queries(queries, tuple(self.facts["shape"][-1:]), k)
        scores, rows = self.index.search(normed.numpy(), k)
        rows = torch.from_numpy(rows)
        return Hits(rows, torch.from_numpy(scores).masked_fill(rows < 0, -torch.inf))

    def check_store(self, store: FeatureStore) -> None:
        """Refuse a store of another model or preprocessing.

        Raises:
            ValueError: naming what differs.
        """
        now = facts_of(store, self.facts["output"])
        different = [name for name in now if now[name] != self.facts[name]]
        if different:
            raise ValueError(f"the index is not of {store.path}, it differs in {', '.join(different)}: build it anew")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file, whole or not at all."""
        facts = json.dumps(self.facts, sort_keys=True).encode()
        write_atomically(path, HEADER + facts + b"\n" + faiss().serialize_index(self.index).tobytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ApproximateIndex":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged or something else.
        """
        import numpy as np

        data = Path(path).read_bytes()
        try:
            if not data.startswith(HEADER):
                raise ValueError("it does not begin as one")
            facts, content = data.removeprefix(HEADER).split(b"\n", 1)
            return cls(faiss().deserialize_index(np.frombuffer(content, dtype=np.uint8)), json.loads(facts))
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path} cannot be read as an index: {str(error).splitlines()[0]}") from error


def facts_of(store: FeatureStore, output: str) -> dict[str, Any]:
    """What an index must have in common with a store."""
    return {
        "output": output,
        "shape": list(store.shape(output)),
        "weights_sha256": store.manifest.model["weights_sha256"],
        "preprocessing": store.manifest.preprocessing["id"],
    }


def rows_and_tokens(ids: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Ids of an index over "S" as rows and tokens."""
    return ids // num_tokens, ids % num_tokens


__all__: Sequence[str] = ["ApproximateIndex", "build_index", "rows_and_tokens"]
