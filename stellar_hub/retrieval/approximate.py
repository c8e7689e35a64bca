"""Approximate search through faiss, faster than a comparison with every row."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stellar_hub.extras import require
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.retrieval.hits import Hits, unit_queries, unit_vectors
from stellar_hub.store import FeatureStore

MAX_TRAINING_VECTORS = 262_144
HEADER = b"stellar_hub\n"


def build_index(store: FeatureStore, output: str = "pooled", factory: str = "HNSW32") -> Any:
    """Builds a faiss index of a store that compares by cosine similarity.

    The ids of the index are rows or, for "S", `row * num_tokens + token`: see `rows_and_tokens`. Rows with an error are
    not in the index.

    Args:
        store: Store that holds `output`.
        output: Feature to index, "pooled", "cls" or "S".
        factory: Kind of index, in the language of `faiss.index_factory`: "Flat" (exact), "HNSW32", "IVF1024,PQ48".

    Returns:
        The faiss index.

    Raises:
        ImportError: if faiss is not installed.
        KeyError: if the store does not hold the output.
        ValueError: if faiss does not know the factory, or has too few rows to train it.
    """
    faiss = _faiss()
    shape = store.shape(output)
    try:
        index = faiss.index_factory(shape[-1], f"IDMap2,{factory}", faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(_training_vectors(store, output).numpy())
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"faiss cannot build {factory!r} for {len(store)} rows: {reason}") from error
    for rows, vectors in unit_vectors(store, output):
        if vectors.ndim == 3:
            rows = (rows[:, None] * shape[0] + torch.arange(shape[0])).flatten()
            vectors = vectors.flatten(0, 1)
        index.add_with_ids(vectors.numpy(), rows.numpy())
    return index


def rows_and_tokens(ids: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Splits ids of an index of "S" into rows and token indices."""
    return ids // num_tokens, ids % num_tokens


class ApproximateIndex:
    """A faiss index that knows its model and preprocessing, and refuses a store of another model.

    `build` and `load` make one.

    Attributes:
        index: The faiss index.
        facts: Origin of the index: `output` and its `shape`, `weights_sha256` and `preprocessing` of the store.
    """

    def __init__(self, index: Any, facts: dict[str, Any]):
        self.index = index
        self.facts = facts

    @classmethod
    def build(cls, store: FeatureStore, output: str = "pooled", factory: str = "HNSW32") -> "ApproximateIndex":
        """Builds an index of a store. Arguments and errors are those of `build_index`."""
        return cls(build_index(store, output, factory), _origin(store, output))

    def search(self, queries: Tensor, k: int = 10) -> Hits:
        """Finds the images that are nearest to each query.

        Args:
            queries: Vectors of shape `(Q, d)`. Their lengths do not matter.
            k: Number of hits for each query.

        Returns:
            Rows, or `row * num_tokens + token` in an index of "S". A missing hit has the row -1 and a score of minus
            infinity.

        Raises:
            ValueError: if the queries do not fit.
        """
        unit = unit_queries(queries, tuple(self.facts["shape"][-1:]), k)
        scores, rows = self.index.search(unit.numpy(), k)
        rows = torch.from_numpy(rows)
        return Hits(rows, torch.from_numpy(scores).masked_fill(rows < 0, -torch.inf))

    def check_store(self, store: FeatureStore) -> None:
        """Raises ValueError if a store has another model or preprocessing than the index, and names the difference."""
        now = _origin(store, self.facts["output"])
        different = [name for name in now if now[name] != self.facts[name]]
        if different:
            raise ValueError(
                f"the index does not belong to {store.path}, it differs in {', '.join(different)}: build it again"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the index to a file. The file is complete, or it is not there."""
        facts = json.dumps(self.facts, sort_keys=True).encode()
        write_atomically(path, HEADER + facts + b"\n" + _faiss().serialize_index(self.index).tobytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ApproximateIndex":
        """Reads an index that `save` wrote.

        Raises:
            FileNotFoundError: if the file does not exist.
            ImportError: if faiss is not installed.
            ValueError: if the file is damaged or is not an index.
        """
        import numpy as np

        faiss, data = _faiss(), Path(path).read_bytes()
        try:
            if not data.startswith(HEADER):
                raise ValueError("it does not begin with stellar_hub's header")
            facts, content = data.removeprefix(HEADER).split(b"\n", 1)
            return cls(faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8)), json.loads(facts))
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path} cannot be read as an index: {str(error).splitlines()[0]}") from error


def _faiss() -> Any:
    return require("faiss", "retrieval", "approximate search")


def _training_vectors(store: FeatureStore, output: str) -> Tensor:
    """Reads vectors that are spread over the whole store, `(N, d)`."""
    vectors, stride = [], -(-len(store) // MAX_TRAINING_VECTORS)
    for _, chunk in unit_vectors(store, output):
        vectors.append(chunk[::stride].flatten(0, -2))
    return torch.cat(vectors)[:MAX_TRAINING_VECTORS]


def _origin(store: FeatureStore, output: str) -> dict[str, Any]:
    """Returns what an index and its store must have in common."""
    return {
        "output": output,
        "shape": list(store.shape(output)),
        "weights_sha256": store.manifest.model["weights_sha256"],
        "preprocessing": store.manifest.preprocessing["id"],
    }
