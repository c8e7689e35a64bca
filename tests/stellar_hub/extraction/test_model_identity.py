import copy
from pathlib import Path

import torch
from stellar_hub.modeling import StellarImageProcessor, StellarModel

from stellar_hub.extraction.model_identity import describe_model, describe_preprocessing, weights_sha256


def test_weights__of_other_values_have_another_hash(pixel_model: StellarModel) -> None:
    changed = copy.deepcopy(pixel_model)
    with torch.no_grad():
        changed.encoder.cls_token.view(-1)[0] += 1e-3
    assert weights_sha256(changed) != weights_sha256(pixel_model)


def test_weights__are_the_same_with_and_without_decoder(pixel_model: StellarModel, tmp_path: Path) -> None:
    pixel_model.save_pretrained(tmp_path / "model")
    features = StellarModel.from_pretrained(tmp_path / "model", decoder=False)
    assert weights_sha256(features) == weights_sha256(pixel_model)


def test_model__is_told_by_name_and_place(pixel_model: StellarModel, tmp_path: Path) -> None:
    assert describe_model(StellarModel.from_pretrained("stellar-tiny", decoder=False))["name"] == "stellar-tiny"
    pixel_model.save_pretrained(tmp_path / "model")
    described = describe_model(StellarModel.from_pretrained(tmp_path / "model"))
    assert (described["name"], described["dtype"]) == (str(tmp_path / "model"), "float32")


def test_preprocessing__has_one_id_for_one_result(pixel_model: StellarModel) -> None:
    processor = StellarImageProcessor.from_config(pixel_model.config)
    same = StellarImageProcessor.from_config(pixel_model.config, do_rescale=False)
    padded = StellarImageProcessor.from_config(pixel_model.config, fit="pad")
    assert describe_preprocessing(same) == describe_preprocessing(processor)
    assert describe_preprocessing(padded)["id"] != describe_preprocessing(processor)["id"]
