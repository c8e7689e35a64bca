"""Runs the examples on a store, as a user would after `stellar-hub extract`."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from stellar_hub import StellarModel
from stellar_hub.data import open_sources
from stellar_hub.store import extract_to_store

EXAMPLES = Path(__file__).parents[2] / "examples"
COLORS = {"red": (220, 30, 30), "blue": (40, 50, 230)}

Run = Callable[..., None]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight red and eight blue images, each brighter than the last; the last blue one is there twice."""
    folder = tmp_path_factory.mktemp("examples") / "images"
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for index in range(8):
            shade = tuple(max(0, channel - 12 * index) for channel in color)
            Image.new("RGB", (80, 60), shade).save(folder / name / f"{index}.png")
    (folder / "blue" / "copy.png").write_bytes((folder / "blue" / "7.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def store(images: Path) -> Path:
    """A store of stellar-tiny's features of these images."""
    model = StellarModel.from_pretrained("stellar-tiny", decoder=False)
    folder = images.parent / "store"
    extract_to_store(model, open_sources([images]), folder, source_names=[str(images)], show_progress=False)
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs an example with these arguments."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def call(name: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        importlib.import_module(name).main()

    return call


def test_concept_search__draws_similar_regions(
    run: Run, store: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = images / "red" / "3.png"
    options = ["--query", query, "--at", "30,40", "--count", 3, "--output", tmp_path / "hits.png"]
    run("concept_search", store, "--trust-names", *options)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1.00 3.png"
    assert len(lines) == 4
    with Image.open(tmp_path / "hits.png") as page:
        assert page.width > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--at", "30,1"], "the model did not see the pixel"),
        (["--token", "16"], "token must be 0 to 15, got 16"),
        (["--images", "gone"], "no such file or folder: gone"),
    ],
)
def test_concept_search__says_what_is_not_there(
    run: Run, store: Path, images: Path, options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match=f"concept_search: {message}"):
        run("concept_search", store, "--images", images, "--query", images / "red" / "3.png", *options)


def test_linear_probe__tells_the_classes(run: Run, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("linear_probe_on_store", store)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 classes, trained on 12 rows"
    assert lines[1] == "accuracy on 5 other rows: 1.000"
