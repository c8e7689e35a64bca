import re
from pathlib import Path

import pytest
import torch

from stellar_hub.features.names import (
    DENSE,
    FEATURES,
    OUTPUTS,
    POOLINGS,
    check_names,
    check_outputs,
    feature_shapes,
    in_table_order,
    select_features,
    table_of_features,
)
from stellar_hub.modeling import StellarModel
from stellar_hub.old_names import old_names

DOCS = Path(__file__).parents[3] / "docs" / "extraction.md"


def test_names__come_in_the_order_of_the_table() -> None:
    assert check_outputs(["pooled", "S"]) == ("S", "pooled")
    assert check_outputs("cls") == ("cls",)
    assert in_table_order(["psnr", "Z", "L"]) == ("L", "Z", "psnr")


@pytest.mark.parametrize("names", [["S", "Z"], [], ["S", "S"]])
def test_names__that_do_not_fit_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"outputs must be .*S, L, pooled, cls, patches"):
        check_outputs(names)


def test_old_names__are_refused_with_the_new_one() -> None:
    for old, new in old_names("features").items():
        with pytest.raises(ValueError, match=f"got {old}.*{new!r}"):
            check_names("pooling", ["cls", old], POOLINGS)


def test_features__are_fields_or_follow_from_them(pixel_model: StellarModel, images: torch.Tensor) -> None:
    names = [name for name in FEATURES if name != "pixels"]
    with torch.inference_mode():
        output = pixel_model(images)
        features = select_features(output, names)
    shapes = feature_shapes(pixel_model.config, pixel_model.grid_size(32, 32), names)
    assert {name: tuple(tensor.shape[1:]) for name, tensor in features.items()} == shapes
    torch.testing.assert_close(features["patches_mean"], output.patch_features.mean(dim=1), atol=0, rtol=0)
    torch.testing.assert_close(features["Z"], output.localization @ output.last_hidden_state)


def test_lists__are_parts_of_the_table() -> None:
    assert OUTPUTS == ("S", "L", "pooled", "cls", "patches")
    assert {FEATURES[name].kind for name in POOLINGS} == {"vector", "set"}
    assert {FEATURES[name].kind for name in DENSE} == {"dense"}
    assert {*POOLINGS, *DENSE} == set(FEATURES)


def test_docs__show_the_table() -> None:
    shown = re.search(r"<!-- features -->\n(.*?)\n<!-- /features -->", DOCS.read_text(), re.S)
    assert shown is not None
    assert shown[1] == table_of_features()
