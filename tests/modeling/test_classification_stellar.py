"""The classifier: its head, loading from a model and from its own folder, saving, Auto classes, pipeline."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageClassification, pipeline

from stellar_hub.modeling import StellarConfig, StellarForImageClassification, StellarImageProcessor, StellarModel
from stellar_hub.training.model import StellarForPreTraining

NAMES = {0: "cat", 1: "dog", 2: "bird"}


@pytest.fixture
def classifier(pixel_folder: Path) -> StellarForImageClassification:
    """The tiny model with a new head for three classes."""
    torch.manual_seed(0)
    model: StellarForImageClassification = StellarForImageClassification.from_pretrained(pixel_folder, id2label=NAMES)
    return model


@pytest.fixture(scope="session")
def folder(pixel_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved classifier; not to be changed."""
    path = tmp_path_factory.mktemp("classifier") / "pets"
    torch.manual_seed(0)
    model = StellarForImageClassification.from_pretrained(pixel_folder, id2label=NAMES)
    model.save_pretrained(path, metrics={"accuracy": 0.75})
    return path


@pytest.mark.parametrize("pooling", ["mean", "cls", "both"])
def test_logits__are_those_of_the_head_on_what_is_pooled(
    pixel_model: StellarModel, pixel_folder: Path, images: Tensor, pooling: str
) -> None:
    model = StellarForImageClassification.from_pretrained(pixel_folder, num_labels=3, classifier_pooling=pooling)
    features = pixel_model(images)
    read = {"mean": features.pooler_output, "cls": features.cls_token}
    read["both"] = torch.cat([features.cls_token, features.pooler_output], dim=1)
    head = model.classifier
    with torch.no_grad():
        expected = nn.functional.linear(
            nn.functional.layer_norm(read[pooling], read[pooling].shape[-1:], head.norm.weight, head.norm.bias),
            head.linear.weight,
            head.linear.bias,
        )
        torch.testing.assert_close(model(images).logits, expected)


def test_loss__is_the_mean_cross_entropy(classifier: StellarForImageClassification, images: Tensor) -> None:
    labels = torch.tensor([2, 0])
    out = classifier(images, labels=labels)
    torch.testing.assert_close(out.loss, nn.functional.cross_entropy(out.logits, labels))
    half = classifier(images, labels=torch.tensor([2, -100])).loss
    torch.testing.assert_close(half, nn.functional.cross_entropy(out.logits[:1], labels[:1]))


def test_loss__of_several_labels_is_binary(pixel_folder: Path, images: Tensor) -> None:
    model = StellarForImageClassification.from_pretrained(
        pixel_folder, num_labels=3, problem_type="multi_label_classification"
    )
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    out = model(images, labels=labels)
    torch.testing.assert_close(out.loss, nn.functional.binary_cross_entropy_with_logits(out.logits, labels))


def test_outputs__are_those_of_transformers(classifier: StellarForImageClassification, images: Tensor) -> None:
    out = classifier(images, output_hidden_states=True)
    assert list(out.keys()) == ["logits", "hidden_states"]
    assert len(out.hidden_states) == 3
    loss, logits = classifier(images, labels=torch.tensor([0, 1]), return_dict=False)
    assert (loss.ndim, logits.shape) == (0, (2, 3))
    assert classifier(torch.rand(1, 3, 16, 48)).logits.shape == (1, 3)
    with pytest.raises(TypeError, match="label"):
        classifier(images, label=torch.tensor([0, 1]))


def test_new_head__is_told_loudly(pixel_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="stellar_hub"):
        StellarForImageClassification.from_pretrained(pixel_folder, id2label=NAMES)
    (message,) = caplog.messages
    assert "newly initialized, for 3 classes (cat, dog, bird)" in message


def test_own_folder__loads_everything_without_a_word(
    classifier: StellarForImageClassification, folder: Path, images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="stellar_hub"):
        loaded, info = StellarForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert caplog.messages == []
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (loaded.config.id2label, loaded.config.num_labels, loaded.training) == (NAMES, 3, False)
    torch.testing.assert_close(loaded(images).logits, classifier(images).logits, rtol=0, atol=0)


def test_auto_class__gives_the_classifier_and_its_encoder(
    folder: Path, pixel_model: StellarModel, images: Tensor
) -> None:
    assert type(AutoModelForImageClassification.from_pretrained(folder)) is StellarForImageClassification
    encoder = AutoModel.from_pretrained(folder)
    assert (type(encoder), encoder.decoder) == (StellarModel, None)
    torch.testing.assert_close(encoder(images).pooler_output, pixel_model(images).pooler_output)


def test_pipeline__names_the_class(folder: Path, classifier: StellarForImageClassification) -> None:
    image = Image.new("RGB", (50, 40), (200, 30, 30))
    classify = pipeline("image-classification", model=str(folder), image_processor=str(folder))
    answers = classify(image, top_k=2)
    pixel_values = StellarImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
    scores = classifier(pixel_values).logits.softmax(dim=1)[0]
    assert [answer["label"] for answer in answers] == [NAMES[int(i)] for i in scores.argsort(descending=True)[:2]]
    assert answers[0]["score"] == pytest.approx(float(scores.max()), abs=1e-5)


def test_encoder__of_a_classifier_is_saved_without_it(folder: Path, tmp_path: Path) -> None:
    StellarModel.from_pretrained(folder).save_pretrained(tmp_path)
    assert not (tmp_path / "classification_stellar.py").exists()
    config = json.loads((tmp_path / "config.json").read_text())
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel"}
    assert config["architectures"] == ["StellarModel"]


def test_saved_code__is_complete(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"]["AutoModelForImageClassification"].startswith("classification_stellar.")
    modules = {place.split(".")[0] for place in config["auto_map"].values()}
    assert modules == {"classification_stellar", "configuration_stellar", "modeling_stellar"}
    assert all((folder / f"{module}.py").exists() for module in modules)


def test_pretraining__takes_the_encoder_of_a_classifier(folder: Path) -> None:
    model = StellarForPreTraining.from_pretrained(folder)
    assert "clustering_head" in model.newly_initialized


def test_decoder__is_none(pixel_folder: Path, folder: Path, tiny_options: dict[str, Any]) -> None:
    config = StellarConfig(**tiny_options)
    model = StellarForImageClassification(config)
    assert (model.stellar.decoder, model.config.use_decoder, config.use_decoder) == (None, False, True)
    with pytest.raises(ValueError, match="no decoder"):
        StellarForImageClassification.from_pretrained(pixel_folder, decoder=True)
    with pytest.raises(ValueError, match="decoder"):
        StellarModel.from_pretrained(folder, decoder=True)


def test_head_for_other_classes__is_replaced_only_when_asked(folder: Path, images: Tensor) -> None:
    for changes in ({"num_labels": 5}, {"classifier_pooling": "both"}):
        with pytest.raises(ValueError, match="ignore_mismatched_sizes=True"):
            StellarForImageClassification.from_pretrained(folder, **changes)
    model = StellarForImageClassification.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)
    assert model(images).logits.shape == (2, 5)


def test_damaged_checkpoint__names_what_is_missing(folder: Path, altered: Any) -> None:
    broken = altered(folder, tensors=lambda tensors: tensors.pop("classifier.linear.bias"))
    with pytest.raises(ValueError, match=r"missing: classifier\.linear\.bias"):
        StellarForImageClassification.from_pretrained(broken)


def test_reset_classifier__replaces_head_and_classes(classifier: StellarForImageClassification, images: Tensor) -> None:
    before = classifier(images).logits
    classifier.reset_classifier(3, list(NAMES.values()))
    assert not torch.equal(classifier(images).logits, before)
    classifier.reset_classifier(0)
    assert isinstance(classifier.get_classifier(), nn.Identity)
    assert classifier(images).logits.shape == (2, 48)
    with pytest.raises(ValueError, match="no classes"):
        classifier(images, labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="names"):
        classifier.reset_classifier(2, ["one"])


def test_every_trainable_parameter__gets_a_gradient(classifier: StellarForImageClassification, images: Tensor) -> None:
    # What DDP needs without `find_unused_parameters`.
    classifier.gradient_checkpointing_enable()
    classifier.train()(images, labels=torch.tensor([0, 1])).loss.backward()
    named = dict(classifier.named_parameters())
    assert {name for name, parameter in named.items() if parameter.requires_grad} == {
        name for name, parameter in named.items() if parameter.grad is not None
    }
    assert not any(parameter.requires_grad for name, parameter in named.items() if "localization" in name)


def test_layer_decay__slows_the_first_layers_most(classifier: StellarForImageClassification) -> None:
    optimizer = create_optimizer_v2(classifier, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    groups = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    blocks = [f"stellar.encoder.blocks.{index}.attn.qkv.weight" for index in (0, 1)]
    scales = [
        groups[name]["lr_scale"] for name in ("stellar.encoder.sparse_tokens", *blocks, "classifier.linear.weight")
    ]
    assert scales == [0.125, 0.25, 0.5, 1.0]
    assert groups["stellar.encoder.norm.weight"]["lr_scale"] == 0.5
    assert groups["stellar.encoder.sparse_tokens"]["weight_decay"] == 0
    assert groups["classifier.linear.weight"]["weight_decay"] == 0.05


def test_card__names_head_classes_and_numbers(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    for words in (
        "image-classification",
        "| classes | cat, dog, bird |",
        "mean of the sparse tokens",
        "| accuracy | 0.75 |",
    ):
        assert words in card
    assert 'from_pretrained("pets"' in card
    assert ".decode" not in card


def test_card__of_a_new_head_is_not_that_of_the_encoder(pixel_model: StellarModel, tmp_path: Path) -> None:
    pixel_model.save_pretrained(tmp_path / "base", metrics={"psnr": 20.0})
    model = StellarForImageClassification.from_pretrained(tmp_path / "base", id2label={0: "a|b", 1: "<b>\x1b[31m"})
    model.save_pretrained(tmp_path / "new")
    card = (tmp_path / "new" / "README.md").read_text()
    assert "psnr" not in card
    assert r"a\|b, &lt;b&gt;\x1b[31m" in card
    StellarForImageClassification.from_pretrained(tmp_path / "new").save_pretrained(
        tmp_path / "again", metrics={"accuracy": 0.5}, name="again"
    )
    again = (tmp_path / "again" / "README.md").read_text()
    assert again.count("| classes |") == 1
    assert "# again" in again


def test_half_precision__computes_in_it(folder: Path, images: Tensor) -> None:
    model = StellarForImageClassification.from_pretrained(folder, dtype=torch.bfloat16)
    logits = model(images).logits
    assert logits.dtype == torch.bfloat16
    reference = StellarForImageClassification.from_pretrained(folder, dtype=torch.float32)(images).logits
    torch.testing.assert_close(logits.float(), reference, rtol=0.1, atol=0.1)
