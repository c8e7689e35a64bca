import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from stellar_hub.data.sources import open_sources
from stellar_hub.modeling import StellarModel
from stellar_hub.store import feature_store
from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.plan import ExtractionOptions
from stellar_hub.store.to_store import extract_to_store


def test_row__has_all_features_and_its_record(shared_store: FeatureStore) -> None:
    row = shared_store[9]
    assert row.record.row == 9
    assert {name: tuple(tensor.shape) for name, tensor in row.features.items()} == {
        "S": (4, 48),
        "L": (16, 4),
        "pooled": (48,),
        "cls": (48,),
        "patches": (16, 48),
    }
    torch.testing.assert_close(row.features["S"].mean(dim=0), row.features["pooled"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(row.features["L"].sum(dim=1), torch.ones(16), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [slice(5, 18), slice(3, 3), slice(20, 99)])
def test_slice__is_its_rows(shared_store: FeatureStore, rows: slice) -> None:
    chosen = range(23)[rows]
    batch = shared_store[rows]
    assert batch.row_ids.tolist() == list(chosen)
    assert batch["S"].shape == (len(chosen), 4, 48)
    for index, row in enumerate(chosen):
        torch.testing.assert_close(batch["S"][index], shared_store[row].features["S"], equal_nan=True, atol=0, rtol=0)


def test_slice__may_have_steps(shared_store: FeatureStore) -> None:
    assert shared_store[20:2:-7].row_ids.tolist() == [20, 13, 6]
    torch.testing.assert_close(shared_store[20:2:-7]["cls"][1], shared_store[13].features["cls"], atol=0, rtol=0)


def test_negative_row__counts_from_the_end(shared_store: FeatureStore) -> None:
    assert shared_store[-1].record.row == 22
    for row in (23, -24):
        with pytest.raises(IndexError, match=f"row {row} of 23"):
            shared_store[row]
    with pytest.raises(IndexError, match="of 23"):
        shared_store.read("S", range(20, 24))


def test_batches__are_all_rows_in_order(shared_store: FeatureStore) -> None:
    batches = list(shared_store.batches(5, ["pooled"]))
    assert torch.cat([batch.row_ids for batch in batches]).tolist() == list(range(23))
    assert all(set(batch.features) == {"pooled"} for batch in batches)


def test_feature_that_is_not_there__is_named(shared_store: FeatureStore) -> None:
    with pytest.raises(KeyError, match="'dense', only S, L, pooled, cls, patches"):
        shared_store.read("dense", range(2))


def test_few_files__are_open_at_a_time(shared_store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_store, "MAX_OPEN", 1)
    store = FeatureStore(shared_store.path)
    assert [row.record.row for row in store] == list(range(23))
    assert len(store._shards) == 1


def test_store__goes_into_workers(shared_store: FeatureStore) -> None:
    assert pickle.loads(pickle.dumps(shared_store))[3].record == shared_store[3].record


def test_decode__shows_the_row(shared_store: FeatureStore, pixel_model: StellarModel) -> None:
    image = shared_store.decode(3, pixel_model)
    assert image.size == (32, 32)
    with torch.inference_mode():
        row = shared_store[3].features
        expected = pixel_model.decode(row["S"][None], row["L"][None])[0]
    shown = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1)
    torch.testing.assert_close(shown / 255, expected, atol=1 / 255, rtol=0)


def test_decode__refuses_what_it_cannot_show(shared_store: FeatureStore, pixel_model: StellarModel) -> None:
    with pytest.raises(ValueError, match=r"row 4 .*0004\.png"):
        shared_store.decode(4, pixel_model)
    with torch.no_grad():
        pixel_model.encoder.cls_token += 1
    with pytest.raises(ValueError, match="another model"):
        shared_store.decode(3, pixel_model)


def test_decode__loads_the_model_by_its_name(pixel_model: StellarModel, image_folder: Path, tmp_path: Path) -> None:
    pixel_model.save_pretrained(tmp_path / "model")
    model = StellarModel.from_pretrained(tmp_path / "model", decoder=False)
    extract_to_store(model, open_sources([image_folder]), tmp_path / "store", show_progress=False)
    assert FeatureStore(tmp_path / "store").decode(0).size == (32, 32)


def test_source__is_opened_again(shared_store: FeatureStore, image_folder: Path) -> None:
    source = shared_store.source()
    assert str(source[7]) == shared_store[7].record.image


def test_compatible__stores_of_one_model_and_preprocessing(
    shared_store: FeatureStore, pixel_model: StellarModel, image_folder: Path, tmp_path: Path
) -> None:
    source = open_sources([image_folder])
    options = ExtractionOptions(("pooled",), "float16")
    extract_to_store(pixel_model, source, tmp_path / "same", options, show_progress=False)
    assert shared_store.compatible(FeatureStore(tmp_path / "same"))
    with torch.no_grad():
        pixel_model.encoder.cls_token += 1
    extract_to_store(pixel_model, source, tmp_path / "other", options, show_progress=False)
    other = FeatureStore(tmp_path / "other")
    assert not shared_store.compatible(other)
    with pytest.raises(ValueError, match=r"model: .*weights"):
        shared_store.check_compatible(other)


def test_compatible__not_with_other_preprocessing(shared_store: FeatureStore) -> None:
    other = FeatureStore(shared_store.path)
    settings = dict(other.manifest.preprocessing["settings"]) | {"fit": "pad"}
    other.manifest = dataclasses.replace(other.manifest, preprocessing={"id": "other", "settings": settings})
    with pytest.raises(ValueError, match="preprocessing: fit crop and pad"):
        shared_store.check_compatible(other)


def test_to_torch__leaves_out_errors(shared_store: FeatureStore) -> None:
    rows = [row for batch in DataLoader(shared_store.to_torch(["pooled"]), batch_size=4) for row in batch["row"]]
    assert [int(row) for row in rows] == [row for row in range(23) if row not in (4, 17)]
    assert len(shared_store.to_torch(with_errors=True)) == 23


def test_to_datasets__has_index_and_features(
    shared_store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    table = shared_store.to_datasets(["S", "pooled"])
    assert table["row"] == [row for row in range(23) if row not in (4, 17)]
    again = table.with_format("torch")[3]
    torch.testing.assert_close(again["S"], shared_store[3].features["S"], atol=0, rtol=0)
    torch.testing.assert_close(again["pooled"], shared_store[3].features["pooled"], atol=0, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_dtypes__are_near_what_was_computed(
    shared_store: FeatureStore, pixel_model: StellarModel, image_folder: Path, tmp_path: Path, dtype: str
) -> None:
    options = ExtractionOptions(("S", "L", "pooled"), dtype, batch_size=3, shard_rows=8)
    extract_to_store(pixel_model, open_sources([image_folder]), tmp_path / "store", options, show_progress=False)
    store = FeatureStore(tmp_path / "store")
    for name in store.outputs:
        values, expected = store.read(name, range(23)).float(), shared_store.read(name, range(23))
        torch.testing.assert_close(values, expected, atol=0.02, rtol=0.01, equal_nan=True)
    assert store[0].features["S"].dtype == (torch.float32 if dtype == "int8" else getattr(torch, dtype))


def test_no_store__is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"manifest.json"):
        FeatureStore(tmp_path)
