import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from stellar_hub.features.identity import (
    describe_model,
    describe_preprocessing,
    tensors_sha256,
    weights_hash,
    weights_sha256,
)
from stellar_hub.modeling import StellarImageProcessor, StellarModel

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1.5, dtype=torch.bfloat16), "c": torch.empty(0, 4)}


def test_digest__does_not_depend_on_order_or_layout() -> None:
    again = {name: TENSORS[name].clone() for name in ("c", "b", "a")}
    again["a"] = again["a"].t().contiguous().t()
    assert tensors_sha256(again) == tensors_sha256(TENSORS)


@pytest.mark.parametrize(
    "changed",
    [
        {"a": torch.arange(6.0).view(3, 2)},
        {"b": torch.tensor(1.25, dtype=torch.bfloat16)},
        {"c": torch.empty(0, 5)},
        {"d": torch.ones(1)},
    ],
)
def test_digest__tells_any_change(changed: dict[str, torch.Tensor]) -> None:
    assert tensors_sha256(TENSORS | changed) != tensors_sha256(TENSORS)


def test_hash__changes_with_a_value_a_name_and_a_type() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    known = weights_hash(network)
    assert weights_hash(network) == known
    assert weights_hash(nn.ModuleDict({"a": network})) != known
    network[0].weight.data[0, 0] += 1e-6
    changed = weights_hash(network)
    assert changed != known
    network[1].running_mean += 1  # type: ignore[operator]
    assert weights_hash(network) != changed
    assert len({weights_hash(nn.Linear(1, 1).to(dtype)) for dtype in (torch.float32, torch.bfloat16)}) == 2


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


def test_preprocessing__without_profiles_is_that_of_earlier_releases(pixel_model: StellarModel) -> None:
    applied = describe_preprocessing(StellarImageProcessor.from_config(pixel_model.config))
    ignored = describe_preprocessing(StellarImageProcessor.from_config(pixel_model.config, apply_icc_profile=False))
    assert applied["settings"]["apply_icc_profile"] is True
    assert set(applied["settings"]) - set(ignored["settings"]) == {"apply_icc_profile"}
    assert applied["id"] != ignored["id"]
