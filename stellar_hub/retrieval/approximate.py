"""Approximate search through faiss, faster than a comparison with every row."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from logging import getLogger
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stellar_hub.extras import require
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.modeling.safe_paths import regular_file
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.retrieval.hits import Hits, check_store, unit_queries, unit_vectors
from stellar_hub.retrieval.queries import as_features, spell_shape
from stellar_hub.store import FeatureStore

MAX_TRAINING_VECTORS = 262_144
MAX_PROBES = 1024  # vectors that a new graph must find again
FOUND = 1 - 1e-3  # cosine of a vector with the one that is found for it
HEADER = b"stellar_hub index 2\n"
OLD_HEADER = b"stellar_hub\n"
_GRAPH = re.compile(r"(?:^|,)HNSW(\d*)", re.IGNORECASE)  # not "IVF64_HNSW32", whose graph is one of centroids
_INEXACT = ("PQ", "SQ", "PCA", "OPQ", "RR", "ITQ")  # the scores of compressed or turned vectors are not exact
_PLACE_IN_FAISS = re.compile(r"^Error in .*? at /\S+:\d+: ")

_logger = getLogger(__name__)


def build_index(store: FeatureStore, output: str = "pooled", factory: str = "HNSW32") -> Any:
    """Builds a faiss index of a store that compares by cosine similarity.

    A graph (HNSW) that does not reach all vectors, because many of them are equal, is replaced by an exact index, and a
    warning is logged.

    The ids of the index are rows or, for "S", `row * num_tokens + token`: see `rows_and_tokens`. Rows with an error are
    not in the index.

    Args:
        store: Store that holds `output`.
        output: Feature to index, "pooled", "cls" or "S".
        factory: Kind of index, in the language of `faiss.index_factory`: "Flat" (exact), "HNSW32", "IVF1024,PQ48"; all
            but those with NSG.

    Returns:
        The faiss index.

    Raises:
        ImportError: if faiss is not installed.
        KeyError: if the store does not hold the output.
        ValueError: if faiss does not know the factory, or has too few rows to train it; or if the factory has an NSG
            graph, which faiss builds without an end where many vectors are equal.
    """
    if "NSG" in factory.upper():
        raise ValueError(
            f"factory {one_line(repr(factory))} has an NSG graph, which faiss builds without an end where many vectors "
            "are equal: take 'HNSW32'"
        )
    index = _filled_index(store, output, factory)
    if _GRAPH.search(factory) and (reason := _unreachable(store, output, factory, index)):
        _logger.warning("%s, which %s does not reach: the index is exact (Flat) instead", reason, factory)
        return _filled_index(store, output, "Flat")
    return index


def _filled_index(store: FeatureStore, output: str, factory: str) -> Any:
    check_store(store)
    faiss = _faiss()
    shape = store.shape(output)
    try:
        index = faiss.index_factory(shape[-1], f"IDMap2,{factory}", faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(_training_vectors(store, output).numpy())
        for ids, vectors in _vectors_with_ids(store, output, "building the index"):
            index.add_with_ids(vectors.numpy(), ids.numpy())
    except RuntimeError as error:
        reason = _PLACE_IN_FAISS.sub("", one_line(error))
        raise ValueError(f"faiss cannot build {factory!r} for {len(store)} rows: {reason}") from error
    return index


def _vectors_with_ids(store: FeatureStore, output: str, description: str = "") -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the ids of vectors in an index, `(N,)`, and the vectors `(N, d)`, in chunks; see `unit_vectors`."""
    shape = store.shape(output)
    for rows, vectors in unit_vectors(store, output, description=description):
        if vectors.ndim == 3:
            rows = (rows[:, None] * shape[0] + torch.arange(shape[0])).flatten()
            vectors = vectors.flatten(0, 1)
        yield rows, vectors


def _unreachable(store: FeatureStore, output: str, factory: str, index: Any) -> str:
    """Returns why a graph does not reach all vectors, or "" if no reason is seen.

    A graph links each vector to its nearest neighbours. If more of them are equal than it has links, they link to each
    other alone, and a search that comes upon them never leaves them.
    """
    hashes = [_hashes(part) for _, part in _vectors_with_ids(store, output)]
    if not hashes:
        return ""
    most_equal = int(torch.cat(hashes).unique(return_counts=True)[1].max())
    graph = _GRAPH.search(factory)
    if most_equal > int(graph[1] if graph and graph[1] else 32):
        return f"{most_equal} vectors are equal"
    if any(kind in factory for kind in _INEXACT):
        return ""
    probes = _sample(store, output, MAX_PROBES)
    scores, _ = index.search(probes.numpy(), 1)
    lost = int((torch.from_numpy(scores) < FOUND).sum())
    return f"{lost} of {len(probes)} vectors were not found again" if lost else ""


def _hashes(vectors: Tensor) -> Tensor:
    """Returns a number for each vector of a chunk, `(N,)` int64: equal vectors have the same one."""
    factors = torch.randint(-(2**62), 2**62, (vectors.shape[-1],), generator=torch.Generator().manual_seed(0)) | 1
    return ((vectors + 0.0).contiguous().view(torch.int32).long() * factors).sum(dim=-1)  # + 0.0 makes -0.0 to 0.0


def rows_and_tokens(ids: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Splits ids of an index of "S" into rows and token indices."""
    return ids // num_tokens, ids % num_tokens


class ApproximateIndex:
    """A faiss index that knows the content of its store, and refuses a store of another content.

    `build` and `load` make one.

    Attributes:
        index: The faiss index.
        facts: Origin of the index: `output` and its `shape`, `weights_sha256`, `preprocessing`, and `content`, the
            SHA-256 of the store.
    """

    def __init__(self, index: Any, facts: dict[str, Any]):
        self.index = index
        self.facts = facts

    @classmethod
    def build(cls, store: FeatureStore, output: str = "pooled", factory: str = "HNSW32") -> "ApproximateIndex":
        """Builds an index of a store. Arguments and errors are those of `build_index`."""
        facts = _origin(store, output) | {"content": store.digest}
        return cls(build_index(store, output, factory), facts)

    def __repr__(self) -> str:
        return f"ApproximateIndex({self.index.ntotal:,} vectors of {self.facts['output']})"

    def search(self, queries: Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray], k: int = 10) -> Hits:
        """Finds the images that are nearest to each query.

        Args:
            queries: Vectors of shape `(Q, d)`, or `(d,)` for one query, as a tensor, an array, or a list of either.
                Their lengths do not matter.
            k: Number of hits for each query.

        Returns:
            Rows, or `row * num_tokens + token` in an index of "S". A missing hit has the row -1 and a score of minus
            infinity.

        Raises:
            TypeError: if the queries are something else.
            ValueError: if the queries do not fit.
        """
        shape = tuple(self.facts["shape"][-1:])
        vectors = as_features(queries, shape)
        if vectors is None:
            raise TypeError(
                f"queries must be vectors {spell_shape(shape)} as a tensor or an array, got {type(queries).__name__}: "
                "an index has no model to encode images with, and search_images takes them"
            )
        unit = unit_queries(vectors, shape, k)
        scores, rows = self.index.search(unit.numpy(), k)
        rows = torch.from_numpy(rows)
        return Hits(rows, torch.from_numpy(scores).masked_fill(rows < 0, -torch.inf))

    def check_store(self, store: FeatureStore) -> None:
        """Raises ValueError if a store has another content than the index, and names the difference."""
        now = _origin(store, self.facts["output"])
        different = [name for name in now if now[name] != self.facts.get(name)]
        if not different and store.digest != self.facts.get("content"):
            different = ["content"]
        if different:
            raise ValueError(
                f"the index does not belong to {store.path}, it differs in {', '.join(different)}: build it again"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the index to a file. The file is complete, or it is not there."""
        facts = json.dumps(self.facts, sort_keys=True).encode()
        content = facts + b"\n" + _faiss().serialize_index(self.index).tobytes()
        write_atomically(path, HEADER + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)

    @classmethod
    def load(cls, path: str | os.PathLike[str], store: FeatureStore | None = None) -> "ApproximateIndex":
        """Reads an index that `save` wrote.

        Args:
            path: File of the index.
            store: Store that the index must belong to, as `check_store` checks it; None checks none.

        Raises:
            FileNotFoundError: if the file does not exist.
            ImportError: if faiss is not installed.
            ValueError: if the file is damaged, is not an index, or belongs to another content of the store.
        """
        faiss, data = _faiss(), regular_file(path).read_bytes()
        try:
            facts, content = _checked_content(data)
            index = cls(faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8)), facts)
        except (ValueError, RuntimeError, LookupError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read as an index: {one_line(str(error).splitlines()[0])}") from error
        if store is not None:
            index.check_store(store)
        return index


def _checked_content(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns the facts and the index in a file that `save` wrote, whose SHA-256 must be right.

    Raises:
        ValueError: if the file is damaged or is not an index.
    """
    if data.startswith(OLD_HEADER):
        raise ValueError("an earlier release wrote it, without a digest of its store: build it again")
    if not data.startswith(HEADER):
        raise ValueError("it does not begin with stellar_hub's header")
    digest, _, rest = data.removeprefix(HEADER).partition(b"\n")
    if hashlib.sha256(rest).hexdigest().encode() != digest:
        raise ValueError("it is damaged: it is not what was written")
    facts, content = rest.split(b"\n", 1)
    return json.loads(facts), content


def _faiss() -> Any:
    return require("faiss", "retrieval", "approximate search")


def _training_vectors(store: FeatureStore, output: str) -> Tensor:
    """Returns vectors at random places that are spread over the whole store, `(N, d)`."""
    return _sample(store, output, MAX_TRAINING_VECTORS)


def _sample(store: FeatureStore, output: str, count: int) -> Tensor:
    """Returns `count` vectors of a store, `(N, d)`, one at random from each of as many equal parts.

    A store with fewer vectors gives all of them. The sample is the same at every call.
    """
    per_row = store.shape(output)[0] if len(store.shape(output)) == 2 else 1
    total = int(store.ok.sum()) * per_row
    if total > count:
        parts = torch.arange(count, dtype=torch.float64)
        places = parts + torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        places = (places * (total / count)).long().clamp(max=total - 1).unique()
    else:
        places = torch.arange(total)
    found, first = [], 0
    for _, vectors in _vectors_with_ids(store, output):
        inside = places[(places >= first) & (places < first + len(vectors))] - first
        found.append(vectors[inside])
        first += len(vectors)
    return torch.cat(found) if found else torch.empty(0, store.shape(output)[-1])


def _origin(store: FeatureStore, output: str) -> dict[str, Any]:
    """Returns what an index and its store must have in common beside the content."""
    check_store(store)
    return {
        "output": output,
        "shape": list(store.shape(output)),
        "weights_sha256": store.manifest.model["weights_sha256"],
        "preprocessing": store.manifest.preprocessing["id"],
    }
