"""Runs the FiftyOne example without its page, with a data base of its own, and reads the data set back.

FiftyOne needs an older starlette than the server, so it has an environment of its own: `bash .ci/fiftyone`.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image

from stellar_hub import StellarModel
from stellar_hub.data import open_sources
from stellar_hub.modeling.localization_maps import resample_maps
from stellar_hub.store import FeatureStore, extract_to_store

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("fiftyone") is None, reason="FiftyOne is not installed here: bash .ci/fiftyone runs it"
    ),
]

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photographs in two classes, a smaller copy of one of them, and a file that is no image."""
    folder = tmp_path_factory.mktemp("fiftyone") / "images"
    for label, name in [("animal", "cat"), ("animal", "otters"), ("thing", "coffee"), ("thing", "rocket")]:
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{name}.jpg").write_bytes((EXAMPLES / "images" / f"{name}.jpg").read_bytes())
    with Image.open(folder / "animal" / "cat.jpg") as cat:
        cat.resize((cat.width // 2, cat.height // 2)).save(folder / "animal" / "copy.png")
    (folder / "thing" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def store(images: Path) -> FeatureStore:
    """A store of stellar-tiny's features of these images."""
    model = StellarModel.from_pretrained("stellar-tiny", decoder=False)
    folder = images.parent / "photos"
    extract_to_store(model, open_sources([images]), folder, source_names=[str(images)], show_progress=False)
    return FeatureStore(folder)


@pytest.fixture(scope="module")
def run(images: Path, store: FeatureStore) -> Iterator[Run]:
    """Runs the example on the store with these arguments; its data base is beside the images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIFTYONE_DATABASE_DIR", str(images.parent / "data_base"))
        # A FiftyOne that runs already shares its server with this one, so the name is one of its own, too.
        patch.setenv("FIFTYONE_DATABASE_NAME", f"stellar_hub_{os.getpid()}")
        patch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
        patch.syspath_prepend(str(EXAMPLES))
        example = importlib.import_module("fiftyone_view")  # the settings are read now

    def call(*arguments: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["fiftyone_view", str(store.path), "--no-app", *arguments])
            example.main()

    yield call
    from fiftyone.core.odm import drop_database

    drop_database()


@pytest.fixture(scope="module")
def dataset(run: Run, images: Path) -> Any:
    """The data set that the example made."""
    run("--images", str(images), "--maps", "3")
    import fiftyone

    return fiftyone.load_dataset("photos")


def test_samples__have_their_class_and_their_vector(dataset: Any, store: FeatureStore, images: Path) -> None:
    assert dataset.persistent
    rows = dataset.values("row")
    assert rows == store.ok.nonzero().flatten().tolist()  # not the broken one
    assert len(rows) == 5
    names = [Path(path).relative_to(images).as_posix() for path in dataset.values("filepath")]
    assert [Path(store[row].record.image).name for row in rows] == [Path(name).name for name in names]
    assert dataset.values("label.label") == [name.split("/")[0] for name in names]
    np.testing.assert_array_equal(np.stack(dataset.values("pooled")), store.read("pooled", rows).float().numpy())


def test_heat_maps__are_the_maps_of_the_strongest_tokens(dataset: Any, store: FeatureStore) -> None:
    grid = tuple(store.manifest.features["grid_size"])
    for sample in dataset:
        record, maps = store.records([sample.row])[0], store.read("L", [sample.row])[0].float()
        assert record.original_size is not None
        assert record.crop_box is not None
        full = resample_maps(maps, record.original_size, record.crop_box, grid)
        fields = [name for name in sample.field_names if name.startswith("token_") and sample[name] is not None]
        assert len(fields) == 3
        for name in fields:
            found, expected = sample[name].map, full[int(name.removeprefix("token_"))]
            assert max(found.shape) == 64
            assert found.shape[0] / found.shape[1] == pytest.approx(expected.shape[0] / expected.shape[1], rel=0.02)
            assert found.max() == 1
            smaller = F.interpolate(expected[None, None], size=found.shape, mode="area")[0, 0].numpy()
            assert np.corrcoef(found.flatten(), smaller.flatten())[0, 1] > 0.95


def test_similarity__is_that_of_pooled_vectors(dataset: Any) -> None:
    vectors = np.stack(dataset.values("pooled"))
    vectors -= vectors.mean(axis=0)  # FiftyOne does so
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, (sample, similarity) in enumerate(zip(dataset, vectors @ vectors.T, strict=True)):
        found = dataset.sort_by_similarity(sample.id, k=5, brain_key="pooled_similarity").values("id")
        others = [place for place in (-similarity).argsort().tolist() if place != row]
        assert found == [dataset.values("id")[place] for place in (row, *others)]
    points = dataset.load_brain_results("pooled_plane").points
    assert points.shape == (5, 2)
    assert np.isfinite(points).all()


def test_near_duplicates__have_tags(dataset: Any) -> None:
    tagged = {Path(sample.filepath).name: (sample.tags, sample.duplicate_group) for sample in dataset if sample.tags}
    assert tagged == {"cat.jpg": (["keep"], 1), "copy.png": (["duplicate"], 1)}


def test_data_set_of_this_name__is_kept(dataset: Any, run: Run, images: Path) -> None:
    with pytest.raises(SystemExit, match="'photos' already: pass --overwrite"):
        run("--images", str(images))
    run("--images", str(images), "--name", "others", "--maps", "1")
    run("--images", str(images), "--name", "others", "--maps", "2", "--overwrite")
    import fiftyone

    for sample in fiftyone.load_dataset("others"):
        assert len([name for name in sample.field_names if name.startswith("token_") and sample[name]]) == 2
    assert len(dataset) == 5


def test_images__must_be_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="fiftyone_view: "):
        run("--name", "unnamed")
    with pytest.raises(SystemExit, match="fiftyone_view: "):
        run("--name", "unnamed", "--images", str(tmp_path))
