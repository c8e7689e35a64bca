"""A store as images again, and as what other libraries read."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from stellar_hub.extras import require
from stellar_hub.features.identity import weights_sha256
from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.localization_maps import to_pil
from stellar_hub.store.index_file import records_to_table
from stellar_hub.store.manifest import Manifest

if TYPE_CHECKING:
    from stellar_hub.store.feature_store import FeatureStore


def load_model_of(manifest: Manifest) -> StellarModel:
    """The model that made a store, by its name; whether it is still the same is seen when it decodes.

    Raises:
        OSError: if there is no such model any more.
    """
    known = manifest.model
    return StellarModel.from_pretrained(known["name"], revision=known["revision"], dtype=getattr(torch, known["dtype"]))


def decode_rows(store: "FeatureStore", rows: Sequence[int], model: StellarModel) -> list[Image.Image]:
    """Images of some rows.

    Raises:
        ValueError: if the store lacks `S` or `L`, or the model is another one.
    """
    if not {"S", "L"} <= set(store.outputs):
        raise ValueError(f"{store.path} cannot be decoded: it holds {', '.join(store.outputs)}, not S and L")
    if weights_sha256(model) != store.manifest.model["weights_sha256"]:
        raise ValueError(f"{store.path} was made by another model, {store.manifest.model['name']}: its weights differ")
    semantics, localization = (store.read(name, rows).to(model.device, model.dtype) for name in ("S", "L"))
    with torch.inference_mode():
        images = model.decode(semantics, localization, grid_size=tuple(store.manifest.features["grid_size"]))
    return [to_pil(image) for image in images.float().cpu()]


if TYPE_CHECKING:
    from stellar_hub.store.feature_store import FeatureStore


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
    library = require("datasets", "datasets", "a table of features")
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
