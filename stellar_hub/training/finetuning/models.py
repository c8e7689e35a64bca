"""The classifier of a run: a head on a pretrained encoder, the weights that are trained, and what is saved."""

import copy
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from stellar_hub.extras import require
from stellar_hub.modeling import StellarConfig, StellarForImageClassification, StellarModel
from stellar_hub.modeling.labels import resolve_labels
from stellar_hub.modeling.model_card import is_classifier
from stellar_hub.training.finetuning.settings import FinetuneSettings

LORA_TARGETS = r"encoder\.blocks\.\d+\.attn\.(qkv|proj)"  # "proj" alone is also the patch embedding


def build_classifier(settings: FinetuneSettings, classes: Sequence[str]) -> StellarForImageClassification:
    """Loads the encoder in float32 with a head for the classes, and freezes the weights that the mode does not train.

    A classifier with the same classes and the same pooling keeps its head.

    Raises:
        ImportError: if the mode is "lora" and peft is not installed.
        OSError: if the model does not exist.
        ValueError: if its files are damaged.
    """
    if settings.mode == "lora":
        import_peft()
    model = _earlier_classifier(settings, classes)
    if model is None:
        encoder = StellarModel.from_pretrained(settings.model, decoder=False, dtype=torch.float32)
        config = copy.deepcopy(encoder.config)
        config.id2label, config.label2id = resolve_labels(None, dict(enumerate(classes)), None)
        config.classifier_pooling, config.problem_type = settings.pooling, None
        config.classifier_dropout = settings.dropout
        model = StellarForImageClassification(config)
        model.stellar.load_state_dict(encoder.state_dict())
        model._needs_new_card = True
    if settings.mode != "full":
        model.stellar.requires_grad_(False)
    if settings.mode == "lora":
        add_lora(model, settings.lora_rank)
    if settings.gradient_checkpointing and settings.mode != "frozen":
        model.gradient_checkpointing_enable()
    return model


def _earlier_classifier(settings: FinetuneSettings, classes: Sequence[str]) -> StellarForImageClassification | None:
    """Returns the classifier that the settings name if it has the same classes and pooling, and else None."""
    if Path(settings.model).is_file():
        return None
    config = StellarConfig.from_pretrained(settings.model)
    same = list((config.id2label or {}).values()) == list(classes) and config.classifier_pooling == settings.pooling
    if not (is_classifier(config) and same):
        return None
    model: StellarForImageClassification = StellarForImageClassification.from_pretrained(
        settings.model, dtype=torch.float32, classifier_dropout=settings.dropout
    )
    return model


def add_lora(model: StellarForImageClassification, rank: int) -> None:
    """Adds trainable low-rank updates to the attention of a classifier's encoder, in place."""
    peft = import_peft()
    encoder: Any = model.stellar
    options = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS)
    model.stellar = peft.get_peft_model(encoder, options)


def import_peft() -> ModuleType:
    """Imports peft, which only LoRA needs.

    Raises:
        ImportError: if it is not installed.
    """
    return require("peft", "peft", "--mode lora")


def model_to_save(model: StellarForImageClassification) -> StellarForImageClassification:
    """Returns the classifier with its low-rank updates merged into the weights, which is a copy; others as they are."""
    if isinstance(model.stellar, StellarModel):
        return model
    merged = copy.deepcopy(model)
    encoder: Any = merged.stellar
    merged.stellar = encoder.merge_and_unload()
    return merged
