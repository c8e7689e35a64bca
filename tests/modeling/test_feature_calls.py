"""Options of `model.embed`: those of other libraries get a hint. What it computes is tested with the library's part."""

import pytest

from stellar_hub.modeling import StellarModel, pretrained_names
from stellar_hub.modeling.pretrained_names import needed


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("convert_to_tensor", 'return_tensors="pt"'),
        ("convert_to_numpy", "arrays are the default"),
        ("show_progress_bar", "pass show_progress"),
        ("normalize_embeddings", "pass normalize"),
        ("normalise", "did you mean 'normalize'"),
        ("output_value", 'pooling="tokens"'),
        ("global_pool", "pass pooling="),
        ("device", r"model\.to\(device\)"),
        ("fit", "processor=.*fit="),
        ("foo", "it takes normalize, batch_size"),
    ],
)
def test_option_of_another_library__gets_a_hint(shared_pixel_model: StellarModel, option: str, message: str) -> None:
    with pytest.raises(TypeError, match=f"embed got .*'{option}'.*{message}"):
        shared_pixel_model.embed([], **{option: 3})


def test_embed__says_that_it_needs_the_library(
    shared_pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained_names, "registry", None)
    with pytest.raises(ImportError, match=r"model\.embed needs the library: pip install stellar_hub"):
        shared_pixel_model.embed([])


def test_function_without_its_entry_point__says_how_to_install() -> None:
    with pytest.raises(ImportError, match=r"this\.one was not found: .*pip install -e"):
        needed("nothing", "this.one")
