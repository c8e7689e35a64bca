"""A store in other forms: decoded images, and data sets of torch and of the library datasets."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from stellar_hub.data.sources.table_files import reading_table
from stellar_hub.extras import require
from stellar_hub.features.identity import weights_sha256
from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.localization_maps import to_pil
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.store.index import records_to_table
from stellar_hub.store.manifest import Manifest
from stellar_hub.store.reader import COLUMNS, LABEL, ROW
from stellar_hub.store.row_selection import Rows, check_row, select_rows

if TYPE_CHECKING:
    import datasets
    import pandas

    from stellar_hub.store.feature_store import FeatureStore

DECODED_AT_A_TIME = 32  # images
# Of each model that was hashed: the places and versions of its tensors, and the hash.
_hashes: "WeakKeyDictionary[StellarModel, tuple[object, str]]" = WeakKeyDictionary()


def load_model_of(manifest: Manifest) -> StellarModel:
    """Loads the model that made a store, by its name; `decode_rows` checks whether it is still the same.

    Raises:
        OSError: if the model does not exist any more.
    """
    known = manifest.model
    model = StellarModel.from_pretrained(
        known["name"], revision=known["revision"], dtype=getattr(torch, known["dtype"])
    )
    return model.eval().requires_grad_(False)


def decode_rows(store: "FeatureStore", rows: Sequence[int], model: StellarModel) -> list[Image.Image]:
    """Decodes the images of some rows, a few at a time.

    Raises:
        ValueError: if the store lacks `S` or `L`, or another model made it.
    """
    if not {"S", "L"} <= set(store.outputs):
        raise ValueError(f"{store.path} cannot be decoded: it holds {', '.join(store.outputs)}, not S and L")
    check_weights(store, model)
    grid_size = tuple(store.manifest.features["grid_size"])
    images = []
    for start in range(0, len(rows), DECODED_AT_A_TIME):
        chosen = rows[start : start + DECODED_AT_A_TIME]
        semantics, localization = (store._view(name, chosen).to(model.device, model.dtype) for name in ("S", "L"))
        with torch.inference_mode():
            decoded = model.decode(semantics, localization, grid_size=grid_size)
        images += [to_pil(image) for image in decoded.float().cpu()]
    return images


def check_weights(store: "FeatureStore", model: StellarModel) -> None:
    """Raises ValueError unless a model has the weights that made a store.

    The hash of a model is computed again only if its weights may have changed.
    """
    state = tuple((tensor.data_ptr(), tensor._version) for tensor in [*model.parameters(), *model.buffers()])
    known = _hashes.get(model)
    if known is None or known[0] != state:
        known = _hashes[model] = (state, weights_sha256(model))
    if known[1] != store.manifest.model["weights_sha256"]:
        name = one_line(store.manifest.model["name"])
        raise ValueError(f"{store.path} was made by another model, {name}: its weights differ")


class StoreDataset(Dataset[dict[str, Any]]):
    """The rows of a store for a data loader: dictionaries with "row", "label" and the features, float32.

    Args:
        store: The store.
        outputs: Names of the features; None takes all.
        with_errors: Whether to include rows with an error, as NaN.

    Attributes:
        classes: Names of the classes, as in `torchvision.datasets.ImageFolder`.
        class_to_idx: Number of each class, which is the "label" of its images.
        targets: Number of the class of each item.
    """

    def __init__(self, store: "FeatureStore", outputs: Sequence[str] | None = None, with_errors: bool = False):
        self.store = store
        self.outputs = store.known_outputs(outputs)
        self.rows = torch.arange(len(store)) if with_errors else store.ok.nonzero().flatten()
        self.classes = list(store.classes)
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        self.targets: list[int] = store._class_numbers(self.rows.tolist())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = check_row(index, len(self))
        row = int(self.rows[place])
        features: dict[str, Tensor] = {name: self.store.read(name, range(row, row + 1))[0] for name in self.outputs}
        return {
            ROW: row,
            LABEL: self.targets[place],
            **{name: tensor.float() for name, tensor in features.items()},
        }

    def __repr__(self) -> str:
        path = one_line(repr(str(self.store.path)))
        return f"StoreDataset({len(self)} rows of {path}: row, label, {', '.join(self.outputs)})"


def to_datasets(
    store: "FeatureStore", outputs: Sequence[str] | None = None, with_errors: bool = False
) -> "datasets.Dataset":
    """Returns a `datasets.Dataset` with the columns of the index, the labels, and the features as float32 arrays.

    The library writes it to its cache.

    Raises:
        ImportError: if `datasets` is not installed.
        ValueError: if a shard of the store is missing or damaged.
    """
    library = require("datasets", "datasets", "a table of features")
    names = store.known_outputs(outputs)
    columns: dict[str, Any] = library.Features.from_arrow_schema(records_to_table(store.records([0])).schema)
    columns[LABEL] = library.ClassLabel(names=list(store.classes))
    for name in names:
        shape = store.shape(name)
        value = library.Value("float32")
        columns[name] = library.Array2D(shape, "float32") if len(shape) == 2 else library.List(value, length=shape[0])

    def rows(content: str) -> Iterator[dict[str, Any]]:
        for batch in store.batches(outputs=names):
            lines = records_to_table(batch.records).to_pylist()
            for index, line in enumerate(lines):
                if with_errors or line["status"] == "ok":
                    features = {name: batch[name][index].float().numpy() for name in names}
                    yield {**line, LABEL: batch.records[index].label, **features}

    # The cache recognizes a table by what the store holds and by what is read of it.
    identity = {"content": f"{store.manifest.plan} {store.digest} {','.join(names)} {with_errors}"}
    with reading_table(store.path):  # else the library hides what is wrong
        table: datasets.Dataset = library.Dataset.from_generator(
            rows, features=library.Features(columns), gen_kwargs=identity
        )
    return table


def to_numpy(
    store: "FeatureStore", output: str | Sequence[str] | None, rows: Rows | None
) -> np.ndarray | dict[str, np.ndarray]:
    """Returns features as arrays, as `FeatureStore.to_numpy` describes it."""
    chosen = select_rows(rows, len(store))
    names = (output,) if isinstance(output, str) else (*COLUMNS, *store.known_outputs(output))
    values = {name: store.read(name, chosen) for name in names}
    arrays = {name: (each if name in COLUMNS else each.float()).numpy() for name, each in values.items()}
    return arrays[output] if isinstance(output, str) else arrays


def to_pandas(store: "FeatureStore", outputs: Sequence[str] | None, rows: Rows | None) -> "pandas.DataFrame":
    """Returns a `pandas.DataFrame` of some rows, as `FeatureStore.to_pandas` describes it."""
    library = require("pandas", "datasets", "a pandas table of features")
    chosen = select_rows(rows, len(store))
    records = store.records(chosen)
    columns: dict[str, Any] = records_to_table(records).to_pydict()
    columns[LABEL] = [record.label for record in records]
    for name in store.known_outputs(outputs):
        columns[name] = list(store.read(name, chosen).float().numpy())
    table: pandas.DataFrame = library.DataFrame(columns)
    return table
