"""A store in Qdrant: one point for each row, with named vectors; sets of tokens are compared by MAX_SIM."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from stellar_hub.extras import require
from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.store.databases.identity import KEY, check_identity, identity_of
from stellar_hub.store.databases.outgoing import DIGEST, ID, Export, ExportReport, OutgoingRows, plan_export
from stellar_hub.store.databases.upsert import BusyError, upsert

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from stellar_hub.store.feature_store import FeatureStore

MAX_BATCH = 256  # rows
_BYTES_PER_REQUEST = 8 * 2**20  # servers refuse requests of 32 MiB and more
_BYTES_PER_VALUE = 21  # of a float32 as JSON
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that may be another in a moment
_PASSING_CODES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL")
_KEY_HINT = "pass the client an api_key, or set QDRANT_API_KEY for the command"


def to_qdrant(
    store: "FeatureStore",
    client: "QdrantClient",
    collection: str,
    outputs: Sequence[str] | None,
    dtype: str,
    source: str | None,
    batch_size: int | None,
    show_progress: bool,
) -> ExportReport:
    """Writes a store into a collection, as `FeatureStore.to_qdrant` describes it."""
    library = require("qdrant_client", "qdrant", "export to Qdrant")
    if not isinstance(client, library.QdrantClient):
        raise TypeError(f"client must be a qdrant_client.QdrantClient, got {type(client).__name__}")
    export = plan_export(store, outputs, dtype, source, to_search=True)
    fitting = max(1, _BYTES_PER_REQUEST // (_BYTES_PER_VALUE * export.row_size))
    return upsert(export, _Collection(client, collection, export), batch_size or min(fitting, MAX_BATCH), show_progress)


class _Collection:
    """A collection of Qdrant that takes the rows of an export.

    Raises:
        ConnectionError: if the server cannot be reached.
        ValueError: if the collection holds something else, or the server is too old.
    """

    def __init__(self, client: "QdrantClient", collection: str, export: Export):
        self.name = f"the collection {one_line(collection, 100)}"
        self._client, self._collection = client, collection
        try:
            with _plain_errors():
                self.is_new = not client.collection_exists(collection)
                (self._create if self.is_new else self._check)(export)
        except ConnectionError as error:
            raise ConnectionError(f"{error}: see that it runs, and that its address is right") from error

    def _create(self, export: Export) -> None:
        self._client.create_collection(
            self._collection, vectors_config=_parameters(export), metadata={KEY: identity_of(export)}
        )
        if KEY not in (self._client.get_collection(self._collection).config.metadata or {}):
            self._client.delete_collection(self._collection)  # it is empty
            raise ValueError(
                "the Qdrant server does not keep metadata of collections, which say what made the features: use a "
                "server of version 1.16 or newer"
            )

    def _check(self, export: Export) -> None:
        config = self._client.get_collection(self._collection).config
        check_identity(self.name, (config.metadata or {}).get(KEY), export)
        found, wanted = config.params.vectors, _parameters(export)
        known = found if isinstance(found, dict) else {}
        for name, parameters in wanted.items():
            if name not in known or _comparison(known[name]) != _comparison(parameters):
                has = _comparison(known[name]) if name in known else "no such vector"
                raise ValueError(
                    f"{self.name} compares {name} in another way: {has}, and not {_comparison(parameters)}: name "
                    "another collection, or delete this one first"
                )

    def digests(self, ids: list[str]) -> dict[str, str]:
        """Returns the digests of the points that are there, by id."""
        with _plain_errors():
            points = self._client.retrieve(self._collection, ids, with_payload=[DIGEST], with_vectors=False)
        return {str(point.id): str((point.payload or {}).get(DIGEST)) for point in points}

    def write(self, rows: OutgoingRows) -> None:
        """Adds points, in place of those with the same ids; returns when the server has them."""
        from qdrant_client import models

        vectors = {name: values.tolist() for name, values in rows.features.items()}
        points = [
            models.PointStruct(
                id=payload.pop(ID), vector={name: vectors[name][place] for name in vectors}, payload=payload
            )
            for place, payload in enumerate(rows.table.to_pylist())
        ]
        with _plain_errors():
            self._client.upsert(self._collection, points, wait=True)


def _parameters(export: Export) -> dict[str, Any]:
    """Returns Qdrant's parameters of each vector; a feature `(r, d)` is a set of r vectors."""
    from qdrant_client import models

    max_sim = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    shapes = {name: export.store.shape(name) for name in export.outputs}
    return {
        name: models.VectorParams(
            size=shape[-1],
            distance=models.Distance.COSINE,
            datatype=models.Datatype.FLOAT16 if export.dtype == "float16" else None,
            multivector_config=max_sim if len(shape) == 2 else None,
        )
        for name, shape in shapes.items()
    }


def _comparison(parameters: Any) -> str:
    """Returns how vectors are compared, such as "192 values, Cosine, max_sim"."""
    several = parameters.multivector_config
    sets = several.comparator.value if several else "one vector"
    return f"{parameters.size} values, {parameters.distance.value}, {sets}"


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Turns errors of the client into Python's own: a ConnectionError may pass, others do not.

    Raises:
        ConnectionError: if the server is away or busy.
        PermissionError: if it refuses the key.
        ValueError: if it refuses the request.
    """
    import grpc
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    try:
        yield
    except ResourceExhaustedResponse as error:
        raise BusyError(f"the Qdrant server is busy ({_said(error)})", error.retry_after_s) from error
    except ResponseHandlingException as error:
        raise ConnectionError(f"the Qdrant server does not answer ({_said(error.source)})") from error
    except UnexpectedResponse as error:
        raise _plain(error, error.status_code in _PASSING, error.status_code in (401, 403)) from error
    except grpc.RpcError as error:
        code = error.code().name if hasattr(error, "code") else ""
        raise _plain(error, code in _PASSING_CODES, code in ("UNAUTHENTICATED", "PERMISSION_DENIED")) from error


def _plain(error: Exception, passes: bool, is_key: bool) -> Exception:
    if passes:
        return ConnectionError(f"the Qdrant server failed ({_said(error)})")
    if is_key:
        return PermissionError(f"the Qdrant server refuses the key ({_said(error)}): {_KEY_HINT}")
    return ValueError(f"the Qdrant server refuses the request ({_said(error)})")


def _said(error: Exception) -> str:
    return one_line(mask_secrets(str(error)) or type(error).__name__, 200)
