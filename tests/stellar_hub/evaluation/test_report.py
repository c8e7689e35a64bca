"""Reports: JSON, tables, cards and files."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stellar_hub.evaluation.left_out import LeftOut
from stellar_hub.evaluation.protocols import KnnProtocol
from stellar_hub.evaluation.report import (
    FORMAT,
    Measurement,
    Report,
    check_targets,
    make_report,
    markdown_section,
    markdown_table,
    scorecard_json,
    scorecard_markdown,
    terminal_table,
    write_report,
    write_scorecard,
)
from stellar_hub.features.backbones import PixelBackbone
from stellar_hub.features.rows import file_name, named_once, printable
from stellar_hub.modeling.safe_text import one_line

MARK = "<!-- stellar-hub eval knn -->"  # cards in the wild have it


@pytest.fixture
def report(pixels: PixelBackbone) -> Report:
    """A report with two rows and one figure."""
    rows = [
        Measurement("pixels", "pixels", {"k=1, %": 81.25, "k=3, %": None}, {"rate": (0.1, Path("a"), True)}),
        Measurement("most frequent class", "", {"k=1, %": 10.0, "k=3, %": float("nan")}),
    ]
    data = {"train": {"name": "A", "num_images": 9, "sha256": "00"}, "classes": ["x", "y"]}
    return make_report(
        "knn",
        KnnProtocol((1, 3)),
        data,
        [pixels],
        rows,
        notes=["a thing to know"],
        backends={"torchmetrics": "1"},
        images={"knn-confusion": Image.new("RGB", (4, 4))},
    )


def test_json__has_every_field_of_protocol_and_model(report: Report) -> None:
    fields = json.loads(report.as_json())
    assert (fields["task"], fields["format"], FORMAT) == ("knn", 2, 2)
    assert fields["protocol"] == {
        "num_neighbours": [1, 3],
        "temperature": 0.07,
        "poolings": [],
        "center": False,
        "similarity": "cosine",
        "set_epsilon": 0.1,
        "set_num_iters": 5,
    }
    (model,) = fields["models"]
    assert set(model) == {
        "name",
        "kind",
        "weights",
        "revision",
        "sha256",
        "num_parameters",
        "preprocessing",
        "seed",
    }
    assert model["preprocessing"]["crop"] == [128, 128]
    assert fields["measurements"][1]["metrics"]["k=3, %"] == "nan"
    assert fields["measurements"][0]["metrics"]["k=3, %"] is None
    assert fields["measurements"][0]["details"] == {"rate": [0.1, "a", True]}
    assert fields["images"] == ["knn-confusion.png"]
    assert {"stellar_hub", "torch"} <= set(fields["versions"])


def test_terminal_table__is_aligned(report: Report) -> None:
    lines = terminal_table(report).splitlines()
    assert lines[0].split() == ["model", "features", "k=1,", "%", "k=3,", "%"]
    assert set(lines[1]) == {"-"}
    assert lines[2].split() == ["pixels", "pixels", "81.2"]
    assert lines[3].endswith("nan")


def test_repr__is_the_table(report: Report) -> None:
    assert repr(report) == f"Report('knn'); as_dict() has all fields\n{terminal_table(report)}"


def test_many_metrics__stand_below_each_other(pixels: PixelBackbone) -> None:
    rows = [Measurement(name, "", {f"m{i}": float(i) for i in range(10)}) for name in ("a", "b")]
    report = make_report("diagnostics", KnnProtocol((1,)), {}, [pixels], rows)
    lines = terminal_table(report).splitlines()
    assert lines[0].split() == ["model", "a", "b"]
    assert lines[-1].split() == ["m9", "9", "9"]
    assert markdown_table(report).splitlines()[0] == "| model | a | b |"


def test_numbers__have_the_digits_of_their_unit(pixels: PixelBackbone) -> None:
    row = Measurement("a", "", {"accuracy, %": 81.26, "PSNR, dB": 21.687, "SSIM": 0.60231, "x": None})
    report = make_report("reconstruction", KnnProtocol((1,)), {}, [pixels], [row])
    assert markdown_table(report).splitlines()[-1] == "| a | 81.3 | 21.69 | 0.6023 |  |"


def test_section__says_protocol_data_and_notes(report: Report) -> None:
    section = markdown_section(report)
    assert "| pixels | pixels | 81.2 |  |" in section
    assert "Protocol: num_neighbours 1, 3; temperature 0.07; poolings all; center no; similarity cosine" in section
    assert "train: 9 images of A" in section
    assert "Computed by torchmetrics 1." in section
    assert "Note: a thing to know." in section


def test_images_that_were_left_out__are_said_everywhere(report: Report) -> None:
    lost = [LeftOut("test", f"/photos/red/{n}.jpg", f"/photos/red/{n}.jpg cannot be read: cut") for n in range(7)]
    found = replace(report, left_out=[*lost, LeftOut("train", "a.tar/b.png", "no memory")])
    first, second = terminal_table(found).splitlines()[-2:]
    assert first.startswith("7 images of test are left out: /photos/red/0.jpg, /photos/red/1.jpg, ")
    assert "/photos/red/4.jpg and 2 more; the first error: /photos/red/0.jpg cannot be read: cut" in first
    assert second == "1 image of train is left out: a.tar/b.png: no memory"
    section = markdown_section(found)
    assert "7 images of test are left out: red/0.jpg, " in section
    assert "/photos" not in section
    fields = json.loads(found.as_json())
    assert fields["num_left_out"] == len(fields["left_out"]) == 8
    assert fields["left_out"][7] == {"part": "train", "image": "a.tar/b.png", "reason": "no memory"}


def test_image_whose_name_has_a_newline__is_named_once(report: Report) -> None:
    name = printable("/photos/red/two\nlines  and more.jpg")
    lost = LeftOut("data", name, named_once(f"{one_line(file_name(name))} cannot be read", name))
    (line,) = terminal_table(replace(report, left_out=[lost])).splitlines()[-1:]
    assert line == r"1 image is left out: /photos/red/two\u000alines and more.jpg cannot be read"
    assert r"left out: red/two\u000alines and more.jpg cannot be read" in markdown_section(
        replace(report, left_out=[lost])
    )


def test_value_at_the_level_of_rounding__is_0(report: Report) -> None:
    row = replace(report.measurements[0], metrics={"rFID": -3e-13, "PSNR, dB": -1e-12, "alignment": 2e-8})
    assert terminal_table(replace(report, measurements=[row])).splitlines()[-1].split()[-3:] == ["0", "0.00", "2e-08"]


def test_names_from_elsewhere__steer_neither_terminal_nor_page(report: Report, tmp_path: Path) -> None:
    name = "a\x1b[2J|b\n\udce9<!-- /stellar-hub eval knn -->"
    hostile = replace(
        report,
        measurements=[Measurement(name, name, {"k=1, %": 1.0})],
        notes=[name],
        data={"train": {"name": name, "num_images": 1}},
        left_out=[LeftOut("train", name, name)],
    )
    assert terminal_table(hostile).replace("\n", "").isprintable()
    card = tmp_path / "README.md"
    card.write_text("# Card\n\nAfter.\n")
    write_report(hostile, tmp_path / "out", card)
    text = card.read_text()
    assert text.replace("\n", "").isprintable()
    assert text.count("<!--") == 2
    assert "| a\\x1b[2J\\|b" in text
    json.loads((tmp_path / "out" / "knn.json").read_text())


def test_card__gets_one_section_that_is_replaced(report: Report, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("# My model\n\nText.\n")
    write_report(report, None, card)
    first = card.read_text()
    assert first.startswith(f"# My model\n\nText.\n\n{MARK}\n### Classification")
    card.write_text(first.replace("81.2", "99.9") + "After.\n")
    write_report(report, None, card)
    assert card.read_text() == first + "After.\n"


def test_files__are_written_with_the_json_last(report: Report, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("# Card\n")
    written = write_report(report, tmp_path / "out", card)
    assert [path.name for path in written] == ["knn-confusion.png", "knn.json", "README.md"]
    assert all(path.is_file() for path in written)
    assert "81.2" in card.read_text()


def test_full_disk__leaves_no_json_and_the_old_card(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = tmp_path / "README.md"
    card.write_text("# Card\n")
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(report, tmp_path / "out", card)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["knn-confusion.png"]
    assert card.read_text() == "# Card\n"


def test_targets__are_checked_before_any_work(report: Report, tmp_path: Path) -> None:
    check_targets(["knn"], tmp_path / "new", None, overwrite=False)
    write_report(report, tmp_path / "out", None)
    with pytest.raises(FileExistsError, match=r"knn\.json .*--overwrite"):
        check_targets(["linear", "knn"], tmp_path / "out", None, overwrite=False)
    check_targets(["knn"], tmp_path / "out", None, overwrite=True)
    (tmp_path / "file").write_text(MARK)
    with pytest.raises(FileExistsError, match="is a file"):
        check_targets(["knn"], tmp_path / "file", None, overwrite=True)
    with pytest.raises(FileNotFoundError, match=r"none\.md"):
        check_targets(["knn"], None, tmp_path / "none.md", overwrite=True)
    with pytest.raises(ValueError, match=MARK):
        check_targets(["knn"], None, tmp_path / "file", overwrite=True)


def test_scorecard__holds_all_reports(report: Report, tmp_path: Path) -> None:
    fields: dict[str, Any] = json.loads(scorecard_json([report]))
    assert list(fields["tasks"]) == ["knn"]
    text = scorecard_markdown([report], "### Mine")
    assert text.startswith("### Mine\n\n#### Classification by nearest neighbours\n")
    assert "![knn-confusion](knn-confusion.png)" in text
    assert [path.name for path in write_scorecard([report], tmp_path)] == ["scorecard.md", "scorecard.json"]
    assert json.loads((tmp_path / "scorecard.json").read_text()) == fields
