"""A desk with a tiny model, and the session of somebody who has just come."""

from pathlib import Path

import pytest

from stellar_hub.app.desk import Desk
from stellar_hub.app.models import Models
from stellar_hub.app.session import Session
from stellar_hub.modeling import StellarImageProcessor, StellarModel


@pytest.fixture(scope="session")
def model_folder(shared_pixel_model: StellarModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny pixel model, saved with its processor."""
    folder = tmp_path_factory.mktemp("app") / "model"
    shared_pixel_model.save_pretrained(folder)
    StellarImageProcessor.from_config(shared_pixel_model.config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def models(model_folder: str) -> Models:
    return Models([model_folder], "cpu")


@pytest.fixture
def desk(models: Models) -> Desk:
    return Desk(models)


@pytest.fixture
def opened(desk: Desk) -> Session:
    """A session with the first example."""
    return desk.open()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph as an upload: a file in a folder of its own."""
    import shutil
    from importlib.resources import files

    folder = tmp_path / "uploads" / "0123"
    folder.mkdir(parents=True)
    return Path(shutil.copy(str(files("stellar_hub.demo_images") / "coffee.jpg"), folder / "my coffee.jpg"))
