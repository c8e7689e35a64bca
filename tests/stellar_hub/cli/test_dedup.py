import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from stellar_hub.cli.dedup_files import SHEET
from stellar_hub.data.sources import open_source
from stellar_hub.modeling import StellarModel
from stellar_hub.store import extract_to_store

from .conftest import Command


@pytest.fixture
def folder(image_folder: Path, pixel_model: StellarModel) -> Path:
    """A store of two images, a copy of one of them at twice its size, and a file that is no image."""
    with Image.open(image_folder / "wide.png") as image:
        image.resize((120, 80), Image.Resampling.NEAREST).save(image_folder / "large.png")
        image.resize((240, 160), Image.Resampling.NEAREST).save(image_folder / "below" / "larger\n.png")
    (image_folder / "bad.png").write_text("no image")
    store = image_folder.parent / "store"
    extract_to_store(pixel_model, image_folder, store, num_workers=0, show_progress=False)
    return store


def test_dedup__writes_lists_groups_and_sheets(
    command: Command, folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "found"
    before = sorted(image_folder.rglob("*"))
    result = command("dedup", folder, "--output", output, "--threshold", 0.9, "--source", image_folder)
    assert result.exit_code == 0, result.output
    assert "left out: 1 row with an error" in result.stderr
    lists = {name: (output / f"{name}.txt").read_text().splitlines() for name in ("keep", "duplicates")}
    with open(output / "groups.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["status"] for line in lines].count("keep") >= 1
    assert lines[0]["image"].endswith("larger\\u000a.png")  # the largest, as the index spells it
    assert str(image_folder / "wide.png") in lists["duplicates"]
    assert str(image_folder / "bad.png") not in lists["keep"] + lists["duplicates"]
    report = json.loads((output / "report.json").read_text())
    assert report["sheets"] == [name.name for name in sorted(output.iterdir()) if SHEET.fullmatch(name.name)]
    assert report["groups"][0][0] | {"similarity": 1.0} == report["groups"][0][0]
    assert len(open_source(output / "duplicates.txt")) == len(lists["duplicates"])
    assert sorted(image_folder.rglob("*")) == before


def test_output_in_the_store__is_refused(command: Command, folder: Path) -> None:
    result = command("dedup", folder, "--output", folder / "found")
    assert result.exit_code == 1
    assert "lies in the store" in result.stderr
    assert not (folder / "found").exists()


def test_earlier_files__are_replaced_where_asked(command: Command, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "found"
    output.mkdir()
    for name in ("sheet-007.png", "keep.txt", "mine.png"):
        (output / name).touch()
    result = command("dedup", folder, "--output", output)
    assert result.exit_code == 1
    assert "--overwrite" in result.output
    result = command("dedup", folder, "--output", output, "--overwrite", "--threshold", 1)
    assert result.exit_code == 0, result.output
    assert not (output / "sheet-007.png").exists()
    assert (output / "mine.png").exists()


@pytest.mark.parametrize("below", ["", "found"])
def test_output_among_the_images__is_refused(command: Command, folder: Path, image_folder: Path, below: str) -> None:
    before = sorted(image_folder.rglob("*"))
    result = command("dedup", folder, "--output", image_folder / below)
    assert result.exit_code == 1
    assert "outside of them" in result.output
    assert sorted(image_folder.rglob("*")) == before


def test_nothing_alike__is_said(
    command: Command, image_folder: Path, pixel_model: StellarModel, tmp_path: Path
) -> None:
    (image_folder / "below" / "tall.jpg").unlink()
    extract_to_store(pixel_model, image_folder, tmp_path / "store", num_workers=0, show_progress=False)
    result = command("dedup", tmp_path / "store", "--output", tmp_path / "found")
    assert result.exit_code == 0, result.output
    assert "no near-duplicates among 1 images" in result.stdout
    assert (tmp_path / "found" / "keep.txt").read_text().splitlines() == [str(image_folder / "wide.png")]
    assert (tmp_path / "found" / "duplicates.txt").read_text() == ""


def test_names_in_the_store__are_opened_only_where_trusted(
    command: Command, folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    options = ["--threshold", 0.9, "--output"]
    result = command("dedup", folder, *options, tmp_path / "one")
    assert result.exit_code == 0, result.output
    assert "--trust-names" in result.stderr
    assert json.loads((tmp_path / "one" / "report.json").read_text())["sheets"] == []
    result = command("dedup", folder, *options, tmp_path / "two", "--trust-names")
    assert (tmp_path / "two" / "sheet-001.png").exists(), result.output


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--threshold", "0"], 2, "--threshold must be above 0 and at most 1, got 0"),
        (["--threshold", "1.5"], 2, "got 1.5"),
        (["--source", "gone"], 1, "gone"),
    ],
)
def test_options__that_do_not_fit_are_said_in_a_line(
    command: Command, folder: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    result = command("dedup", folder, "--output", tmp_path / "found", *options)
    assert result.exit_code == code
    assert message in result.output
    assert not (tmp_path / "found").exists()
