import dataclasses
import sys
from pathlib import Path

import pytest

from stellar_hub.modeling import StellarModel
from stellar_hub.store.command import Command, extract_by_options
from stellar_hub.store.manifest import Manifest
from stellar_hub.store.ray_engine import ShardActor, extract_with_ray
from stellar_hub.store.resume import Work, plan_work

from .conftest import OPTIONS, files_of


@pytest.fixture
def asked(image_folder: Path, pixel_model: StellarModel, tmp_path: Path) -> Command:
    """An extraction of the 23 images, two of which are none, with a saved model."""
    pixel_model.save_pretrained(tmp_path / "model")
    return Command([str(image_folder)], tmp_path / "ray", str(tmp_path / "model"), "crop", OPTIONS, 0, "cpu", False)


@pytest.mark.slow
def test_ray__gives_the_same_store(asked: Command, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray has no wheel for this platform")
    *_, line = extract_with_ray(asked, None, 1)
    assert "ray: 23 rows, 2 with an error (23 now, " in line
    extract_by_options(dataclasses.replace(asked, output=tmp_path / "local"))
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")


def test_actor__does_the_shards_it_is_given(asked: Command, tmp_path: Path) -> None:
    extract_by_options(asked)
    expected = files_of(asked.output)
    (asked.output / "shards" / "000002.safetensors").unlink()
    from stellar_hub.data.sources import open_sources

    source = open_sources(asked.sources)
    plan = Manifest.read(asked.output)
    work = plan_work(asked.output, plan, source, range(3), False, False)
    assert work.shards == [2]
    actor = ShardActor(plan, asked.output, source, work, asked)
    assert actor({"shard": 2}) == {"rows": 7, "errors": 1, "recovered": 0}
    assert files_of(asked.output) == expected


def test_actor__tries_failed_batches_again(asked: Command) -> None:
    extract_by_options(asked)
    from stellar_hub.data.sources import open_sources

    work = Work([], {0: [range(3, 6)]}, 1)
    actor = ShardActor(Manifest.read(asked.output), asked.output, open_sources(asked.sources), work, asked)
    assert actor({"shard": 0}) == {"rows": 3, "errors": 1, "recovered": 0}


def test_actor__refuses_another_model(asked: Command) -> None:
    extract_by_options(asked)
    manifest = Manifest.read(asked.output)
    with pytest.raises(ValueError, match="stellar-tiny has other weights"):
        ShardActor(manifest, asked.output, [], Work([]), dataclasses.replace(asked, model="stellar-tiny"))


def test_missing_ray__says_what_to_install(asked: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'stellar_hub\[ray\]'"):
        extract_with_ray(asked, None, 1)
    assert not asked.output.exists()
