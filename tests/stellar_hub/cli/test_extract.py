import json
import os
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stellar_hub.cli.main import app
from stellar_hub.modeling import StellarModel
from stellar_hub.store.feature_store import FeatureStore

from .conftest import Command


def test_extract__writes_a_store(command: Command, model_folder: Path, image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "bad.png").write_text("no image")
    options = ["--model", model_folder, "--output", tmp_path / "store", "--num-workers", 0]
    result = command("extract", image_folder, *options)
    assert result.exit_code == 0, result.output
    assert [line.partition(" (")[0] for line in result.stdout.splitlines()] == [
        f"error: {image_folder / 'bad.png'} cannot be read as an image: it is of no known format",
        f"{tmp_path / 'store'}: 3 rows, 1 with an error",
    ]
    store = FeatureStore(tmp_path / "store")
    assert [row.record.status for row in store] == ["error", "ok", "ok"]
    assert [Path(row.record.image).name for row in store] == ["bad.png", "tall.jpg", "wide.png"]
    assert store.manifest.source["names"] == [str(image_folder)]


def test_failed_rows__are_named_up_to_a_number(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    for number in range(7):
        (image_folder / f"bad{number}.png").write_text("no image")
    options = ["--model", model_folder, "--output", tmp_path / "store", "--num-workers", 0, "--shard-rows", 4]
    lines = command("extract", image_folder, *options).stdout.splitlines()
    assert [f"bad{number}.png" in lines[number] for number in range(5)] == [True] * 5
    assert lines[5] == f"error: 2 more: the column error of {tmp_path / 'store' / 'index.parquet'} has them all"
    assert lines[6].startswith(f"{tmp_path / 'store'}: 9 rows, 7 with an error (9 now, ")
    assert len(lines) == 7


def test_one_image__is_a_source(command: Command, model_folder: Path, image_folder: Path, tmp_path: Path) -> None:
    store = image_folder / "store"  # beside the image
    result = command("extract", image_folder / "wide.png", "-m", model_folder, "-o", store, "--num-workers", 0)
    assert result.exit_code == 0, result.output
    assert [Path(row.record.image).name for row in FeatureStore(store)] == ["wide.png"]


def test_options__decide_what_is_in_the_store(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    options = ["--model", model_folder, "--output", tmp_path / "store", "--num-workers", 0, "--outputs", "cls, S"]
    options += ["--dtype", "int8", "--fit", "pad", "--precision", "bfloat16", "--decoder", "torchvision"]
    result = command("extract", image_folder, *options)
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert set(manifest["features"]["shapes"]) == {"S", "cls"}
    assert (manifest["features"]["dtype"], manifest["features"]["precision"]) == ("int8", "bfloat16")
    assert manifest["preprocessing"]["settings"]["fit"] == "pad"
    assert manifest["preprocessing"]["settings"]["decoder"] == "libjpeg-turbo"
    assert manifest["model"]["name"] == str(model_folder)


def test_repair__says_what_was_damaged(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    run = ["extract", image_folder, "--model", model_folder, "--output", tmp_path / "store", "--num-workers", 0]
    assert command(*run).exit_code == 0
    (tmp_path / "store" / "shards" / "000000.safetensors").write_bytes(b"cut")
    result = command(*run)
    assert result.exit_code == 1
    assert "error: rows 0 to 1" in result.output
    result = command(*run, "--repair")
    assert result.exit_code == 0
    assert "damaged, extracted again: rows 0 to 1" in result.output


def test_image_size__is_that_of_the_model_and_the_store(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    run = ["extract", image_folder, "--model", model_folder, "--num-workers", 0, "--output", tmp_path / "store"]
    result = command(*run, "--image-size", "64x32")
    assert result.exit_code == 0, result.output
    manifest = FeatureStore(tmp_path / "store").manifest
    assert manifest.preprocessing["settings"]["crop_size"] == [64, 32]
    assert list(manifest.features["grid_size"]) == [8, 4]
    result = command(*run[:-1], tmp_path / "other", "--image-size", "63")
    assert result.exit_code == 2
    assert "such as 56 or 64" in result.stderr
    assert result.stderr.count("loading") == 1
    assert not (tmp_path / "other").exists()


def test_failed_rows__are_tried_again_where_asked(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    image = image_folder / "wide.png"
    data, times = image.read_bytes(), image.stat()
    image.write_bytes(b"x" * len(data))
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    run = ["extract", image_folder, "--model", model_folder, "--output", tmp_path / "store", "--num-workers", 0]
    first = command(*run).output
    assert "1 with an error" in first
    assert "--retry-errors" in first
    image.write_bytes(data)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "1 with an error" in command(*run).output
    result = command(*run, "--retry-errors")
    assert result.exit_code == 0, result.output
    assert "tried again: 1 row with an error; features now: 1" in result.output
    assert "none with an error" in result.output
    assert "--retry-errors" not in result.output


def test_exchanged_image__is_said(command: Command, model_folder: Path, image_folder: Path, tmp_path: Path) -> None:
    run = ["extract", image_folder, "--model", model_folder, "--output", tmp_path / "store", "--num-workers", 0]
    assert "images have changed" not in command(*run).output
    os.utime(image_folder / "wide.png", (1, 1))
    assert "images have changed, extracted again: 1 shards" in command(*run).output


def test_notes_and_damaged_parts__are_said_and_counted(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    (image_folder / "notes.xyz").write_text("no image")
    with tarfile.open(tmp_path / "cut.tar", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.add(image_folder / "wide.png", name)
        end = archive.offset
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[: end - 1000])
    options = ["--model", model_folder, "--output", tmp_path / "store", "--num-workers", 0]
    result = command("extract", image_folder, tmp_path / "cut.tar", *options)
    assert result.exit_code == 0, result.output
    assert ".xyz" in result.stderr
    assert "damaged: " in result.stderr
    assert "cut.tar" in result.stderr
    assert "1 damaged part of the source" in result.output


def test_store_in_the_folder_of_images__is_refused(command: Command, model_folder: Path, image_folder: Path) -> None:
    before = sorted(image_folder.rglob("*"))
    for output in (image_folder, image_folder / "store"):
        result = command("extract", image_folder, "--model", model_folder, "--output", output)
        assert result.exit_code == 1
        assert "must lie apart" in result.output
    assert sorted(image_folder.rglob("*")) == before


def test_table_with_paths__needs_a_root(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    names = ["wide.png", "below/tall.jpg"]
    cells = {"image": [{"path": name, "bytes": None} for name in names]}
    monkeypatch.chdir(image_folder)  # only to write the table
    features = datasets.Features({"image": datasets.Image(decode=False)})
    datasets.Dataset.from_dict(cells, features=features).to_parquet(tmp_path / "table.parquet")
    run = ["extract", tmp_path / "table.parquet", "--model", model_folder, "--num-workers", 0]
    result = command(*run, "--output", tmp_path / "without")
    assert result.exit_code == 1
    assert "root" in result.output
    result = command(*run, "--output", tmp_path / "with", "--root", image_folder)
    assert result.exit_code == 0, result.output
    assert f"{len(names)} rows, none with an error" in result.output


def test_part_of_a_launch__says_that_others_are_missing(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    run = ["--model", model_folder, "--output", tmp_path / "store", "--num-workers", 0, "--shard-rows", 1]
    for rank, said in (("1", "other processes"), ("0", "store: 2 rows, none with")):
        monkeypatch.setenv("RANK", rank)
        result = CliRunner().invoke(app, ["extract", *(str(argument) for argument in (image_folder, *run))])
        assert result.exit_code == 0, result.output
        assert said in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "float16", "--outputs", "Z"], "S, L, pooled, cls, patches, got Z"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--shard-rows", "0"], "--shard-rows must be at least 1, got 0"),
        (["--num-workers", "-1"], "--num-workers must be at least 0, got -1"),
        (["--actors", "2"], "--engine ray"),
        (["--device", "gpu"], "(did you mean cuda?), got gpu"),
        (["--image-size", "8 x"], "HEIGHTxWIDTH"),
    ],
)
def test_options__that_do_not_fit_are_said_in_a_line(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    result = command("extract", image_folder, "--model", model_folder, "--output", tmp_path / "store", *options)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "store").exists()


def test_no_images__is_said_in_a_line(command: Command, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = command("extract", tmp_path / "empty", "--model", model_folder, "--output", tmp_path / "store")
    assert result.exit_code == 1
    assert "error: no images in the folder" in result.output
    assert not (tmp_path / "store").exists()


def test_nothing_but_bad_images__is_an_error(command: Command, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.png").write_text("no image")
    result = command(
        "extract", tmp_path / "bad", "--model", model_folder, "--output", tmp_path / "store", "--num-workers", 0
    )
    assert result.exit_code == 1
    assert "error: none of the 1 images" in result.output


def test_small_memory__is_reported(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    forward = StellarModel.forward

    def limited(model: StellarModel, pixel_values: torch.Tensor) -> object:
        if len(pixel_values) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(model, pixel_values)

    monkeypatch.setattr(StellarModel, "forward", limited)
    result = command(
        "extract", image_folder, "--model", model_folder, "--output", tmp_path / "store", "--num-workers", 0
    )
    assert result.exit_code == 0, result.output
    assert "the batch size is now 1" in result.output


def test_append__adds_rows_and_says_what_it_did(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    run = ["extract", image_folder, "--model", model_folder, "--output", store, "--num-workers", 0]
    assert command(*run, "--append").exit_code == 0  # there is no store yet
    assert "nothing new: the store has all 2 images" in command(*run, "--append").output
    (image_folder / "a.png").write_bytes((image_folder / "wide.png").read_bytes())
    (image_folder / "bad.png").write_text("no image")
    plain = command(*run)
    assert (plain.exit_code, "--append" in plain.output) == (1, True)
    result = command(*run, "--append")
    assert result.exit_code == 0, result.output
    lines = [line.partition(" (")[0] for line in result.stdout.splitlines()]
    assert lines[0] == f"new: rows 2 to 3, in {store / 'segments' / '000001'}"
    assert lines[-1] == f"{store}: 4 rows, 1 with an error"
    assert [Path(row.record.image).name for row in FeatureStore(store)] == ["tall.jpg", "wide.png", "a.png", "bad.png"]
    ray = command(*run, "--append", "--engine", "ray")
    assert (ray.exit_code, "leave out --engine ray" in ray.output) == (2, True)
