import pytest
import torch

from stellar_hub.features.names import OUTPUTS, check_outputs, output_shapes, select_outputs
from stellar_hub.modeling import StellarModel


def test_names__come_in_one_order() -> None:
    assert check_outputs(["pooled", "S"]) == ("S", "pooled")
    assert check_outputs("cls") == ("cls",)


@pytest.mark.parametrize("names", [["S", "Z"], [], ["S", "S"]])
def test_names__that_do_not_fit_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"outputs must be some of S, L, pooled, cls, patches, each once, got"):
        check_outputs(names)


def test_shapes__are_those_of_the_model(pixel_model: StellarModel, images: torch.Tensor) -> None:
    with torch.inference_mode():
        features = select_outputs(pixel_model(images), OUTPUTS)
    shapes = output_shapes(pixel_model.config, pixel_model.grid_size(32, 32), OUTPUTS)
    assert {name: tuple(tensor.shape[1:]) for name, tensor in features.items()} == shapes
