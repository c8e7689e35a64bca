"""Search by the chosen token."""

from pathlib import Path

import pytest

from stellar_hub.app import session as steps
from stellar_hub.app.concepts import ConceptSearch
from stellar_hub.app.desk import Desk
from stellar_hub.app.models import Models
from stellar_hub.app.session import Session
from stellar_hub.data.sources import open_sources
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.store import ExtractionOptions, extract_to_store

IMAGES = Path("examples/images").resolve()


def write_store(model: StellarModel, folder: Path, outputs: tuple[str, ...]) -> Path:
    """A store of the package's photographs."""
    extract_to_store(
        model,
        open_sources([IMAGES]),
        folder,
        ExtractionOptions(outputs, "float32", batch_size=4),
        processor=StellarImageProcessor.from_config(model.config),
        source_names=[str(IMAGES)],
        num_workers=0,
    )
    return folder


@pytest.fixture(scope="module")
def store(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pyarrow")
    model = StellarModel.from_pretrained(model_folder)
    return write_store(model, tmp_path_factory.mktemp("store") / "s", ("S", "L"))


def test_find__gives_the_image_itself_first(store: Path, models: Models) -> None:
    desk = Desk(models, ConceptSearch(store, [IMAGES]))
    text, found = desk.find(steps.choose(desk.open(), 1), 3)
    assert "token 1" in text
    assert found["items"][0]["caption"] == "1.00 cat.jpg"
    assert all(item["image"].startswith("data:image/jpeg") for item in found["items"])
    assert len(found["items"]) == 3


def test_find__without_images_gives_names_alone(store: Path, models: Models) -> None:
    """The names in a store may lead anywhere, so they are not opened."""
    desk = Desk(models, ConceptSearch(store))
    _, found = desk.find(steps.choose(desk.open(), 1), 100)
    assert {item["image"] for item in found["items"]} == {""}
    assert "cat.jpg" in found["items"][0]["caption"]
    assert len(found["items"]) <= 24


def test_find__needs_a_token_and_the_model_of_the_store(
    store: Path, models: Models, opened: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = ConceptSearch(store)
    with pytest.raises(ValueError, match="token first"):
        search.find(opened, models, 3)
    search.store.manifest.model["weights_sha256"] = "0" * 64
    with pytest.raises(ValueError, match="another model made the store"):
        search.find(steps.choose(opened, 0), models, 3)


def test_search__needs_s_and_l(model_folder: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    folder = write_store(StellarModel.from_pretrained(model_folder), tmp_path / "pooled", ("pooled",))
    with pytest.raises(ValueError, match="S and L"):
        ConceptSearch(folder)
    with pytest.raises(FileNotFoundError):
        ConceptSearch(tmp_path / "nothing")
