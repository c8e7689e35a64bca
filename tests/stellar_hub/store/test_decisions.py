from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stellar_hub.data.sources import JoinedSources
from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.features.identity import with_decoder
from stellar_hub.modeling import StellarModel
from stellar_hub.store.decisions import decide, of_the_store
from stellar_hub.store.manifest import Manifest
from stellar_hub.store.plan import ExtractionOptions

from .conftest import OPTIONS

Extract = Callable[..., Path]
AUTO = replace(OPTIONS, precision="auto", decoder="auto")


def rewrite(folder: Path, precision: str, decoder: str) -> None:
    """Writes into the manifest of a store that it was begun with these."""
    found = Manifest.read(folder)
    features = {**found.features, "precision": precision}
    replace(found, features=features, preprocessing=with_decoder(found.preprocessing, decoder)).write(folder)


def test_new_store_on_a_cpu__is_float32_and_pillow(
    pixel_model: StellarModel, source: JoinedSources, tmp_path: Path
) -> None:
    found, notes = decide(AUTO, tmp_path / "new", as_backbone(pixel_model), source)
    assert (found.precision, found.decoder, notes) == ("float32", "pillow", [])
    assert found == replace(AUTO, precision="float32", decoder="pillow")


def test_store__keeps_what_it_was_begun_with(
    pixel_model: StellarModel, extract: Extract, source: JoinedSources
) -> None:
    folder = extract()
    rewrite(folder, "bfloat16", "libjpeg-turbo")
    found, _ = decide(AUTO, folder, as_backbone(pixel_model), source)
    assert (found.precision, found.decoder) == ("bfloat16", "libjpeg-turbo")


def test_named_options__are_not_those_of_the_store(extract: Extract) -> None:
    folder = extract()
    rewrite(folder, "bfloat16", "libjpeg-turbo")
    named = replace(OPTIONS, precision="float32", decoder="pillow")
    assert of_the_store(named, folder) == named


def test_store_of_a_gpus_decoder__is_not_gone_on_with_on_a_cpu(extract: Extract) -> None:
    folder = extract()
    rewrite(folder, "bfloat16", "nvjpeg")
    with pytest.raises(ValueError, match=r"store cannot be gone on with on this device: .*nvjpeg needs a CUDA GPU"):
        of_the_store(AUTO, folder, torch.device("cpu"))
    assert of_the_store(AUTO, folder).decoder == "nvjpeg"


def test_damaged_manifest__decides_nothing(extract: Extract) -> None:
    folder = extract()
    (folder / "manifest.json").write_text("{")
    assert of_the_store(AUTO, folder) == AUTO


def test_decoder__is_checked() -> None:
    with pytest.raises(ValueError, match=r"decoder must be one of auto, torchvision, pillow, .*got 'turbo'"):
        ExtractionOptions(decoder="turbo")
