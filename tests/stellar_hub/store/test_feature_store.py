import dataclasses
import errno
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from stellar_hub.data.labelled import open_labelled
from stellar_hub.data.sources import open_sources
from stellar_hub.modeling import StellarModel
from stellar_hub.retrieval import search_images
from stellar_hub.store import conversions, files, reader
from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.plan import ExtractionOptions
from stellar_hub.store.to_store import extract_to_store

from .conftest import draw_images


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


def test_name__that_is_nearly_right_gets_a_hint(shared_store: FeatureStore) -> None:
    uses: tuple[Callable[[], Any], ...] = (
        lambda: shared_store["poled"],
        lambda: shared_store[0]["poled"],
        lambda: shared_store.batches(outputs=["poled"]),
        lambda: shared_store.to_torch("poled"),
        lambda: shared_store.to_datasets("poled"),
        lambda: shared_store.to_pandas("poled"),
        lambda: shared_store.to_numpy(["poled"]),
    )
    for use in uses:
        with pytest.raises(KeyError, match="did you mean 'pooled'"):
            use()


def test_one_name__stands_for_itself(shared_store: FeatureStore) -> None:
    assert set(next(shared_store.batches(2, "pooled")).features) == {"pooled"}
    assert shared_store.to_pandas("pooled")["pooled"][0].shape == (48,)
    assert set(shared_store.to_pandas(None)) > set(shared_store.outputs)
    assert ("pooled" in shared_store, "poled" in shared_store, 3 in shared_store) == (True, False, False)


def test_numpy__has_everything_by_name(shared_store: FeatureStore) -> None:
    arrays = shared_store.to_numpy()
    assert set(arrays) == {"row", "label", *shared_store.outputs}
    assert {len(array) for array in arrays.values()} == {23}
    some = shared_store.to_numpy(["cls"], shared_store.ok)
    assert list(some) == ["row", "label", "cls"]
    assert some["row"].tolist() == [row for row in range(23) if row not in (4, 17)]
    np.testing.assert_array_equal(some["cls"], shared_store["cls"][shared_store.ok].numpy())


def test_read__without_a_name_lists_them(shared_store: FeatureStore) -> None:
    with pytest.raises(ValueError, match="S, L, pooled, cls, patches"):
        shared_store.read()
    with pytest.raises(TypeError, match=r"one feature of S, .*got list"):
        shared_store.read(["S", "L"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"pass \[3\]"):
        shared_store.read("S", 3)  # type: ignore[arg-type]


def test_batches__are_checked_at_once(shared_store: FeatureStore) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        shared_store.batches(0)


def test_few_files__are_open_at_a_time(shared_store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_OPEN", 1)
    store = FeatureStore(shared_store.path)
    assert [row.record.row for row in store] == list(range(23))
    assert len(store._shards) == 1


def test_store__goes_into_workers(shared_store: FeatureStore) -> None:
    again = pickle.loads(pickle.dumps(FeatureStore(shared_store.path, check=False)))
    assert again[3].record == shared_store[3].record
    assert again.check is False


def test_changed_byte__is_noticed_where_it_is_used(
    shared_store: FeatureStore, pixel_model: StellarModel, tmp_path: Path
) -> None:
    folder = shutil.copytree(shared_store.path, tmp_path / "store")
    path = folder / "shards" / "000001.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    store = FeatureStore(folder)
    uses: tuple[Callable[[], Any], ...] = (
        lambda: store.read("pooled", [9]),
        lambda: store["pooled"],
        lambda: store.decode(9, pixel_model),
        lambda: list(store),
        lambda: search_images(store, torch.ones(1, 48)),
        lambda: store.to_torch()[8],
    )
    for use in uses:
        with pytest.raises(ValueError, match=r"rows 8 to 15 .*000001\.safetensors.*--repair"):
            use()
    assert len(store.read("pooled", [0])) == 1
    assert len(FeatureStore(folder, check=False)["pooled"]) == 23


def test_shards__are_compared_once(shared_store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(shared_store.path, tmp_path / "store")
    checked: list[Path] = []
    check_content = files.check_content
    monkeypatch.setattr(files, "check_content", lambda *given: checked.append(given[1]) or check_content(*given))
    monkeypatch.setattr(reader, "MAX_OPEN", 1)
    for _ in range(2):
        assert len(list(FeatureStore(folder))) == 23
    assert len(checked) == 3


def test_shard_without_a_feature__is_refused(shared_store: FeatureStore, tmp_path: Path) -> None:
    """As a shard that was made to look right: its own digest is right."""
    folder = shutil.copytree(shared_store.path, tmp_path / "store")
    rows = shared_store.manifest.rows_of_shard(0)
    tensors = {"S": torch.zeros(8, 4, 48)}
    files.write_shard(
        folder / "shards" / "000000.safetensors", rows, tensors, shared_store.records(rows), shared_store.manifest.plan
    )
    with pytest.raises(ValueError, match=r"rows 0 to 7 .*lacks"):
        FeatureStore(folder).read("S", [0])


def test_unreadable_shard__names_its_rows(shared_store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "safe_open", fail)
    with pytest.raises(ValueError, match=r"rows 8 to 15 .*Input/output error"):
        FeatureStore(shared_store.path).read("S", [9])


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


def test_decode__loads_the_model_only_if_asked_and_once(
    pixel_model: StellarModel, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixel_model.save_pretrained(tmp_path / "model")
    model = StellarModel.from_pretrained(tmp_path / "model", decoder=False)
    extract_to_store(model, open_sources([image_folder]), tmp_path / "store", show_progress=False)
    store = FeatureStore(tmp_path / "store")
    with pytest.raises(ValueError, match=r"model=StellarModel\.from_pretrained\(.*load_model"):
        store.decode(0)
    with pytest.raises(TypeError, match="from_pretrained\\('stellar-tiny'\\)"):
        store.decode([0], "stellar-tiny")  # type: ignore[call-overload]
    assert store.decode(0, load_model=True).size == (32, 32)
    monkeypatch.setattr(conversions, "load_model_of", None)  # it is kept
    assert store.decode(1).size == (32, 32)
    assert store.decode(2, load_model=True).size == (32, 32)


def test_decode__takes_rows_of_every_form(shared_store: FeatureStore, pixel_model: StellarModel) -> None:
    one = shared_store.decode(5, pixel_model)
    mask = torch.zeros(23, dtype=torch.bool)
    mask[[5, 7]] = True
    for rows in ([5, 7], mask, np.array([5, 7]), slice(5, 8, 2)):
        images = shared_store.decode(rows, pixel_model)
        assert len(images) == 2
        assert images[0].tobytes() == one.tobytes()
    assert shared_store.decode(np.int64(-18), pixel_model).tobytes() == one.tobytes()


def test_decode__hashes_a_model_once_and_again_after_a_change(
    shared_store: FeatureStore, pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[StellarModel] = []
    weights_sha256 = conversions.weights_sha256
    monkeypatch.setattr(conversions, "weights_sha256", lambda model: hashed.append(model) or weights_sha256(model))
    for row in (3, 5):
        shared_store.decode(row, pixel_model)
    assert len(hashed) == 1
    with torch.no_grad():
        pixel_model.encoder.cls_token += 1
    with pytest.raises(ValueError, match="another model"):
        shared_store.decode(3, pixel_model)


def test_source__is_opened_again(shared_store: FeatureStore, image_folder: Path) -> None:
    for source in (shared_store.source(trust_names=True), shared_store.source([image_folder])):
        assert str(source[7]) == shared_store[7].record.image


def test_source__opens_no_name_of_the_manifest_unasked(shared_store: FeatureStore) -> None:
    with pytest.raises(ValueError, match=r"images.*trust_names=True"):
        shared_store.source()


def test_feature__is_read_by_its_name(shared_store: FeatureStore) -> None:
    expected = shared_store.read("pooled", range(23))
    for found in (shared_store["pooled"], shared_store.read("pooled")):
        torch.testing.assert_close(found, expected, atol=0, rtol=0, equal_nan=True)
    assert shared_store.to_numpy("pooled", [3, 1]).tolist() == expected[[3, 1]].tolist()


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_mask__selects_rows_everywhere(shared_store: FeatureStore, kind: Callable[[list[bool]], Any]) -> None:
    mask = kind(shared_store.ok.tolist())
    rows = [row for row in range(23) if row not in (4, 17)]
    assert torch.equal(shared_store.read("S", mask), shared_store.read("S", rows))
    assert [record.row for record in shared_store.records(mask)] == rows
    assert shared_store[mask].row_ids.tolist() == rows
    batches = list(shared_store.batches(8, ["pooled"], mask))
    assert torch.cat([batch.row_ids for batch in batches]).tolist() == rows
    assert len(shared_store.to_pandas(rows=mask)) == 21
    with pytest.raises(ValueError, match="23 rows, got 2 booleans"):
        shared_store.read("S", kind([True, False]))
    with pytest.raises(TypeError, match="whole number"):
        shared_store[True]
    with pytest.raises(TypeError, match="whole number"):
        shared_store.to_torch()[True]


def test_missing_hit__is_not_the_last_row(shared_store: FeatureStore) -> None:
    for read in (shared_store.records, lambda rows: shared_store.read("S", rows)):
        with pytest.raises(IndexError, match=r"row -1 of 23.*missing"):
            read(torch.tensor([3, -1]))


def test_repr__tells_what_is_in_the_store(shared_store: FeatureStore) -> None:
    shown = repr(shared_store)
    for part in (str(shared_store.path), "23 rows, 2 with an error", "S (4, 48)", "float32", "MB", "model"):
        assert part in shown


def test_labels__are_the_folders_of_images_everywhere(
    pixel_model: StellarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cats", "dogs"):
        draw_images(tmp_path / "pets" / name, 2, ())
    extract_to_store(pixel_model, open_sources([tmp_path / "pets"]), tmp_path / "store", show_progress=False)
    store = FeatureStore(tmp_path / "store")
    assert store.labels == ("cats", "cats", "dogs", "dogs")
    table = store.to_pandas(["pooled"])
    assert table["label"].tolist() == ["cats", "cats", "dogs", "dogs"]
    assert table["pooled"][3].shape == (48,)
    assert table["row"].tolist() == [0, 1, 2, 3]
    assert store.classes == ("cats", "dogs")
    assert store.to_numpy("label", [3, 0]).tolist() == [1, 0]
    loaded = store.to_torch("pooled")
    assert [item["label"] for item in loaded] == loaded.targets == [0, 0, 1, 1]
    assert (loaded.classes, loaded.class_to_idx) == (["cats", "dogs"], {"cats": 0, "dogs": 1})
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    table = store.to_datasets("pooled")
    assert table.features["label"].names == ["cats", "dogs"]
    assert table["label"] == [0, 0, 1, 1]


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


def test_compatible__takes_a_store(shared_store: FeatureStore) -> None:
    for use in (shared_store.compatible, shared_store.check_compatible):
        with pytest.raises(TypeError, match="FeatureStore, got str"):
            use(str(shared_store.path))  # type: ignore[arg-type]


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
    assert len(shared_store.to_datasets(["pooled"], with_errors=True)) == 23
    assert shared_store.to_datasets(["pooled"]).column_names[-1] == "pooled"
    again = table.with_format("torch")[3]
    torch.testing.assert_close(again["S"], shared_store[3].features["S"], atol=0, rtol=0)
    torch.testing.assert_close(again["pooled"], shared_store[3].features["pooled"], atol=0, rtol=0)


def test_to_datasets__of_a_damaged_shard_names_its_rows(
    extract: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = extract()
    shard = path / "shards" / "000001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="rows 8 to 15"):
        FeatureStore(path).to_datasets(["pooled"])


def test_to_datasets__is_not_taken_from_a_cache_of_other_content(
    extract: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same folder, the same plan, and other images of equal size."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    found = []
    for value in (40, 200):
        Image.new("RGB", (32, 32), (value, 0, 0)).save(tmp_path / "a.bmp")
        (tmp_path / "list.txt").write_text("a.bmp\n")
        store = FeatureStore(extract(source=open_sources([tmp_path / "list.txt"])))
        found.append(store.to_datasets(["pooled"])["pooled"][0])
        shutil.rmtree(store.path)
    assert found[0] != found[1]


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
    with pytest.raises(FileNotFoundError, match="no such folder"):
        FeatureStore(tmp_path / "gone")


@pytest.mark.parametrize(
    "zero",
    [
        lambda store: store["pooled"].zero_(),
        lambda store: store[3]["S"].zero_(),
        lambda store: store[2:5]["S"].zero_(),
        lambda store: store.read("S", [3]).zero_(),
        lambda store: [batch["S"].zero_() for batch in store.batches(5)],
        lambda store: [row["pooled"].zero_() for row in store],
        lambda store: store.to_torch(["S"])[3]["S"].zero_(),
        lambda store: store.to_numpy("pooled").fill(0),
        lambda store: store.to_pandas(["pooled"])["pooled"][3].fill(0),
        lambda store: store.ok.zero_(),
    ],
)
def test_change_in_place__does_not_reach_the_store(
    shared_store: FeatureStore, zero: Callable[[FeatureStore], Any]
) -> None:
    store = FeatureStore(shared_store.path)
    zero(store)
    for name in ("S", "pooled"):
        torch.testing.assert_close(store.read(name), shared_store.read(name), atol=0, rtol=0, equal_nan=True)
        assert store.read(name)[3].abs().sum() > 0
    assert store.ok.any()


def test_label__is_taken_wherever_names_of_features_are(shared_store: FeatureStore) -> None:
    expected = torch.from_numpy(shared_store.to_numpy("label"))
    assert torch.equal(shared_store["label"], expected)
    assert torch.equal(shared_store.read("label", [3, 1]), expected[[3, 1]])
    assert torch.equal(shared_store["row"], torch.arange(23))
    assert torch.equal(next(shared_store.batches(5, ["pooled", "label"]))["label"], expected[:5])
    assert set(shared_store.to_torch(["pooled", "label"])[0]) == {"row", "label", "pooled"}
    assert set(shared_store.to_numpy(["pooled", "label"])) == {"row", "label", "pooled"}
    assert "label" in shared_store.to_pandas(["label"]).columns
    assert set(shared_store.to_datasets(["label"]).column_names) >= {"label", "row"}
    assert "label" in shared_store
    assert shared_store[3].record.label == shared_store.labels[3]


def test_labels__are_the_classes_of_evaluation(
    pixel_model: StellarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cats", "cats/outdoors/2020", "dogs"):
        draw_images(tmp_path / "photos" / name, 2, ())
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "beside")
    extract_to_store(pixel_model, "../photos", tmp_path / "store", num_workers=0, show_progress=False)
    store, labelled = FeatureStore(tmp_path / "store"), open_labelled("../photos")
    assert store.labels == tuple(labelled.classes[label] for label in labelled.labels)
    assert store.labels == ("cats",) * 4 + ("dogs",) * 2
    (batch,) = pixel_model.extract("../photos", num_workers=0)
    assert tuple(record.label for record in batch.records) == store.labels


def test_labels__gets_the_hint_label(shared_store: FeatureStore) -> None:
    for use in (shared_store.to_numpy, shared_store.to_torch, shared_store.to_pandas, shared_store.read):
        with pytest.raises(KeyError, match="did you mean 'label'"):
            use("labels")


def test_source__of_other_images_names_them(shared_store: FeatureStore, tmp_path: Path) -> None:
    draw_images(tmp_path / "others", 2)
    with pytest.raises(ValueError, match="others are not those of"):
        shared_store.source([tmp_path / "others"])
