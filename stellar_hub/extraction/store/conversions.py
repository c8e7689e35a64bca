"""A store as what other libraries read."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stellar_hub.data.sources.table import datasets
from stellar_hub.extraction.store.index_file import records_to_table

if TYPE_CHECKING:
    from stellar_hub.extraction.store.feature_store import FeatureStore


class StoreDataset(Dataset[dict[str, Any]]):
    """The rows of a store for a data loader: dictionaries with "row" and the features, float32.

    Args:
        store: The store.
        outputs: Features; None for all.
        with_errors: Whether rows with an error come too, as NaN.
    """

    def __init__(self, store: "FeatureStore", outputs: Sequence[str] | None = None, with_errors: bool = False):
        self.store = store
        self.outputs = tuple(outputs or store.outputs)
        self.rows = torch.arange(len(store)) if with_errors else store.ok.nonzero().flatten()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows[index])
        features: dict[str, Tensor] = {name: self.store.read(name, range(row, row + 1))[0] for name in self.outputs}
        return {"row": row} | {name: tensor.float() for name, tensor in features.items()}


def to_datasets(store: "FeatureStore", outputs: Sequence[str] | None = None, with_errors: bool = False) -> Any:
    """A `datasets.Dataset`, written to its cache: the columns of the index, and features as float32 arrays.

    Raises:
        ImportError: if `datasets` is not installed.
    """
    library = datasets()
    names = tuple(outputs or store.outputs)
    columns: dict[str, Any] = library.Features.from_arrow_schema(records_to_table(store.records([0])).schema)
    for name in names:
        shape = tuple(store.manifest.features["shapes"][name])
        value = library.Value("float32")
        columns[name] = library.Array2D(shape, "float32") if len(shape) == 2 else library.List(value, length=shape[0])

    def rows(plan: str) -> Iterator[dict[str, Any]]:
        for batch in store.batches(outputs=names):
            lines = records_to_table(batch.records).to_pylist()
            for index, line in enumerate(lines):
                if with_errors or line["status"] == "ok":
                    yield line | {name: batch[name][index].float().numpy() for name in names}

    # What a cached table is told by: the store's content, not the generator's code.
    identity = {"plan": f"{store.manifest.plan} {with_errors}"}
    return library.Dataset.from_generator(rows, features=library.Features(columns), gen_kwargs=identity)
