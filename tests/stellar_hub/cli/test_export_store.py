import json
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stellar_hub.cli import export_store as module
from stellar_hub.store.feature_store import FeatureStore

from .conftest import Command


@pytest.fixture
def store(command: Command, model_folder: Path, image_folder: Path, tmp_path: Path) -> Path:
    """A store of two images and a file that is none."""
    (image_folder / "bad.png").write_text("no image")
    options = ["--model", model_folder, "--output", tmp_path / "features", "--num-workers", 0]
    assert command("extract", image_folder, *options).exit_code == 0
    return tmp_path / "features"


def test_files__are_written_once(command: Command, store: Path, tmp_path: Path) -> None:
    run = ["export-store", store, "--to", "parquet", "--output", tmp_path / "a.parquet", "--outputs", "pooled, S"]
    result = command(*run)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'a.parquet'}: 2 rows written, 1 with an error left out\n"
    assert {"S", "pooled"} < set(pq.read_schema(tmp_path / "a.parquet").names)
    assert "2 were there already" in command(*run).stdout
    refused = command(*run, "--dtype", "float16")
    assert refused.exit_code == 1
    assert "overwrite" in refused.stderr
    assert command(*run, "--dtype", "float16", "--overwrite").exit_code == 0


def test_npy__is_a_folder_of_arrays(command: Command, store: Path, tmp_path: Path) -> None:
    result = command("export-store", store, "--to", "npy", "-o", tmp_path / "arrays", "--source", "mine")
    assert result.exit_code == 0, result.output
    opened = FeatureStore(store)
    assert np.load(tmp_path / "arrays" / "L.npy").shape == (2, *opened.shape("L"))
    assert pq.read_table(tmp_path / "arrays" / "rows.parquet")["source"].to_pylist() == ["mine", "mine"]


def test_lance__is_a_table(command: Command, store: Path, tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb", reason="needs the extra lance")
    run = ["export-store", store, "--to", "lance", "--output", tmp_path / "lance", "--table", "photos"]
    result = command(*run)
    assert result.exit_code == 0, result.output
    assert result.stdout == "the table photos: 2 rows written, 1 with an error left out\n"
    assert lancedb.connect(tmp_path / "lance").open_table("photos").count_rows() == 2
    assert "2 were there already" in command(*run).stdout


def test_qdrant__may_be_a_folder(command: Command, store: Path, tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client", reason="needs the extra qdrant")
    run = ["export-store", store, "--to", "qdrant", "--path", tmp_path / "qdrant", "--collection", "photos"]
    result = command(*run)
    assert result.exit_code == 0, result.output
    assert result.stdout == "the collection photos: 2 rows written, 1 with an error left out\n"
    assert "2 were there already" in command(*run).stdout
    known = json.loads((tmp_path / "qdrant" / "meta.json").read_text())["collections"]["photos"]["metadata"]
    assert known["stellar_hub"]["model"]["weights_sha256"] == FeatureStore(store).manifest.model["weights_sha256"]
    database = sqlite3.connect(tmp_path / "qdrant" / "collection" / "photos" / "storage.sqlite")
    assert database.execute("select count(*) from points").fetchone() == (2,)
    database.close()


def test_qdrant_folder_in_the_store__is_refused(command: Command, store: Path) -> None:
    result = command("export-store", store, "--to", "qdrant", "--path", store / "qdrant", "--collection", "photos")
    assert result.exit_code == 1
    assert "lies in the store" in result.stderr
    assert not (store / "qdrant").exists()


def test_key__comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("qdrant_client", reason="needs the extra qdrant")
    calls = []
    monkeypatch.setattr(library, "QdrantClient", lambda **options: calls.append(options))
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    module.open_qdrant("http://localhost:6333", None)
    monkeypatch.setenv("QDRANT_API_KEY", "secret")
    module.open_qdrant("http://localhost:6333", None)
    assert [call["api_key"] for call in calls] == [None, "secret"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--to", "parquet"], "--output"),
        (["--to", "lance", "--output", "a", "--overwrite"], "--overwrite"),
        (["--to", "npy", "--output", "a", "--url", "http://localhost"], "--url"),
        (["--to", "qdrant", "--collection", "a"], "not both"),
        (["--to", "qdrant", "--collection", "a", "--url", "http://a", "--path", "b"], "not both"),
        (["--to", "qdrant", "--url", "http://a"], "--collection"),
        (["--to", "qdrant", "--collection", "a", "--url", "http://me:secret@host"], "QDRANT_API_KEY"),
        (["--to", "qdrant", "--collection", "a", "--url", "http://host?api_key=secret"], "QDRANT_API_KEY"),
        (["--to", "csv"], "--to"),
        (["--to", "lance", "--output", "a", "--batch-size", "0"], "--batch-size"),
    ],
)
def test_options_that_do_not_fit__are_wrong_usage(
    command: Command, tmp_path: Path, options: list[str], match: str
) -> None:
    result = command("export-store", tmp_path, *options)
    assert result.exit_code == 2
    assert match in result.stderr
    assert "secret" not in result.stderr


def test_folder_that_is_no_store__is_an_error(command: Command, tmp_path: Path) -> None:
    result = command("export-store", tmp_path, "--to", "npy", "--output", tmp_path / "arrays")
    assert result.exit_code == 1
    assert "not a feature store" in result.stderr
