"""The classifier of a run: what each mode trains, and what is saved."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stellar_hub.modeling import StellarForImageClassification, StellarModel
from stellar_hub.training.finetuning import FinetuneSettings
from stellar_hub.training.finetuning.models import build_classifier, model_to_save

CLASSES = ("a", "b", "c")
Settings = Callable[..., FinetuneSettings]


@pytest.mark.parametrize("mode", ["frozen", "full", "lora"])
def test_every_trainable_parameter__gets_a_gradient(settings_of: Settings, images: Tensor, mode: str) -> None:
    # What DDP needs without `find_unused_parameters`.
    model = build_classifier(settings_of(mode=mode, gradient_checkpointing=True), CLASSES).train()
    model(images).logits.logsumexp(dim=1).sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert not any("localization" in name for name in trained)
    assert any("encoder" in name for name in trained) == (mode != "frozen")
    assert any("classifier.linear" in name for name in trained)


def randomized_lora(settings_of: Settings) -> StellarForImageClassification:
    """A classifier whose low-rank updates, which start at zero, are not."""
    torch.manual_seed(0)
    model = build_classifier(settings_of(mode="lora", lora_rank=2), CLASSES).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def test_lora__trains_few_parameters(settings_of: Settings) -> None:
    encoder = randomized_lora(settings_of).stellar
    trained = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
    assert trained == 2 * 2 * ((48 + 3 * 48) + (48 + 48))  # blocks, rank, both sides of qkv and of proj


def test_lora__merged_model_gives_the_logits_of_before(
    settings_of: Settings, images: Tensor, model_folder: Path, tmp_path: Path
) -> None:
    model = randomized_lora(settings_of)
    plain = StellarModel.from_pretrained(model_folder)
    with torch.inference_mode():
        logits = model(images).logits
        assert not torch.allclose(model.classifier(plain(images).pooler_output), logits, atol=1e-2)
        model_to_save(model).save_pretrained(tmp_path / "out")
        loaded = StellarForImageClassification.from_pretrained(tmp_path / "out")
        torch.testing.assert_close(loaded(images).logits, logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(images).logits, logits, rtol=0, atol=0)  # it can be trained further
    assert list(loaded.config.id2label.values()) == list(CLASSES)


def test_classifier_with_the_same_classes__keeps_its_head(settings_of: Settings, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = build_classifier(settings_of(), CLASSES)
    first.save_pretrained(tmp_path / "first")
    again = build_classifier(settings_of(model=str(tmp_path / "first"), dropout=0.5), CLASSES)
    assert torch.equal(again.classifier.linear.weight, first.classifier.linear.weight)
    assert again.classifier.dropout.p == 0.5
    for other in ({"classes": ("a", "b", "d")}, {"classes": CLASSES, "pooling": "cls"}):
        classes = other.pop("classes")
        model = build_classifier(settings_of(model=str(tmp_path / "first"), **other), classes)  # type: ignore[arg-type]
        assert not torch.equal(model.classifier.linear.weight, first.classifier.linear.weight)
        assert tuple(model.config.id2label.values()) == classes


def test_missing_peft__says_how_to_install_it(settings_of: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"--mode lora .*stellar_hub\[peft\]"):
        build_classifier(settings_of(mode="lora"), CLASSES)
