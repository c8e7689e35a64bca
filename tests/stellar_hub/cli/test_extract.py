import json
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
    assert "store: 3 rows, 1 with an error, which the index tells (3 rows now, 1 with an error, " in result.output
    store = FeatureStore(tmp_path / "store")
    assert [row.record.status for row in store] == ["error", "ok", "ok"]
    assert [Path(row.record.image).name for row in store] == ["bad.png", "tall.jpg", "wide.png"]
    assert store.manifest.source["names"] == [str(image_folder)]


def test_options__decide_what_is_in_the_store(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    options = ["--model", model_folder, "--output", tmp_path / "store", "--num-workers", 0, "--outputs", "cls, S"]
    result = command("extract", image_folder, *options, "--dtype", "int8", "--fit", "pad", "--precision", "bfloat16")
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert set(manifest["features"]["shapes"]) == {"S", "cls"}
    assert (manifest["features"]["dtype"], manifest["features"]["precision"]) == ("int8", "bfloat16")
    assert manifest["preprocessing"]["settings"]["fit"] == "pad"
    assert manifest["model"]["name"] == str(model_folder)


def test_repair__says_what_was_damaged(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    run = ["extract", image_folder, "--model", model_folder, "--output", tmp_path / "store", "--num-workers", 0]
    assert command(*run).exit_code == 0
    (tmp_path / "store" / "shards" / "000000.safetensors").write_bytes(b"cut")
    result = command(*run)
    assert result.exit_code == 1
    assert "error: rows 0 to 1 cannot be read" in result.output
    result = command(*run, "--repair")
    assert result.exit_code == 0
    assert "damaged, done again: rows 0 to 1 cannot be read" in result.output


def test_part_of_a_launch__says_that_others_are_missing(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    run = ["--model", model_folder, "--output", tmp_path / "store", "--num-workers", 0, "--shard-rows", 1]
    for rank, said in (("1", "the shards of other processes are still missing"), ("0", "store: 2 rows, none with")):
        monkeypatch.setenv("RANK", rank)
        result = CliRunner().invoke(app, ["extract", *(str(argument) for argument in (image_folder, *run))])
        assert result.exit_code == 0, result.output
        assert said in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "float16", "--outputs", "Z"], "error: outputs must be some of S, L, pooled, cls, patches"),
        (["--batch-size", "0"], "error: batch_size must be at least 1, got 0"),
        (["--actors", "2"], "error: --address and --actors are of the engine ray: pass --engine ray"),
    ],
)
def test_options__that_do_not_fit_are_said_in_a_line(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    result = command("extract", image_folder, "--model", model_folder, "--output", tmp_path / "store", *options)
    assert result.exit_code == 1
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
    assert "error: none of the 1 images could be read; the first: " in result.output


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
    assert "memory did not suffice for batches of 32: 1 images at a time since" in result.output
