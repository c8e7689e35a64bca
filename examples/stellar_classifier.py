"""A classifier on the sparse tokens of STELLAR: the module, the weights that are trained, saving and loading."""

import json
import os
import tempfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stellar_hub import StellarImageProcessor, StellarModel
from stellar_hub.extras import require

LORA_TARGETS = r"encoder\.blocks\.\d+\.attn\.(qkv|proj)"  # "proj" alone is also the patch embedding


class StellarClassifier(nn.Module):
    """A classifier on the mean of the sparse tokens.

    Args:
        model: Encoder; for LoRA, wrapped by peft.
        num_features: Width `d` of the encoder.
        num_classes: Number `C` of classes.
        freeze_model: Whether the encoder stays in evaluation mode and gets no gradients.
    """

    def __init__(self, model: nn.Module, num_features: int, num_classes: int, freeze_model: bool = False):
        super().__init__()
        self.model = model
        self.freeze_model = freeze_model
        self.head = nn.Sequential(
            OrderedDict(norm=nn.LayerNorm(num_features), linear=nn.Linear(num_features, num_classes))
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Computes logits `(B, C)` from RGB images `(B, 3, H, W)`, in [0, 1] or uint8."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_model):
            pooled = self.model(pixel_values).pooler_output  # (B, d)
        return self.head(pooled)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of the modules; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.model.train(mode and not self.freeze_model)
        return self

    def no_weight_decay(self) -> set[str]:
        """Returns the names of the embeddings, which timm's optimizer factory does not decay."""
        return {"*.pos_embed", "*.cls_token", "*.sparse_tokens"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns the groups of timm's layer decay: embeddings, then each block; all other weights come last."""
        encoder = r"^model\.encoder\."
        return {
            "stem": encoder + r"(?:cls_token|pos_embed|patch_embed|sparse_tokens)",
            "blocks": [(encoder + r"blocks\.(\d+)", None), (encoder + r"norm", (99999,))],
        }


def build_classifier(model: StellarModel, num_classes: int, mode: str, lora_rank: int) -> StellarClassifier:
    """Returns a classifier with a new head; weights that `mode` does not train are frozen."""
    num_features = model.num_features
    if mode == "frozen":
        return StellarClassifier(model.requires_grad_(False), num_features, num_classes, freeze_model=True)
    # The logits depend on S alone, so the two projections of L would never get a gradient; and DDP waits for a gradient
    # of every parameter that can be trained.
    model.localization.requires_grad_(False)
    encoder = add_lora(model, lora_rank) if mode == "lora" else model
    return StellarClassifier(encoder, num_features, num_classes)


def add_lora(model: StellarModel, rank: int) -> nn.Module:
    """Returns the model with trainable low-rank updates of its attention; all other weights are frozen."""
    peft = import_peft()
    return peft.get_peft_model(model, peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS))


def import_peft() -> ModuleType:
    """Imports peft, which only LoRA needs; raises ImportError if it is not installed."""
    return require("peft", "peft", "--mode lora")


def save_classifier(
    classifier: StellarClassifier,
    processor: StellarImageProcessor,
    classes: list[str],
    accuracy: float,
    output: Path,
) -> None:
    """Saves encoder (with merged low-rank updates), processor, head and names of the classes.

    A new folder appears when it is complete. In a folder that exists, the files are replaced one by one, and other
    files stay. Do not use the classifier afterwards, as merging changes its modules.
    """
    model: Any = classifier.model
    model = model if isinstance(model, StellarModel) else model.merge_and_unload()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        folder = Path(temporary, "complete")
        processor.save_pretrained(folder)
        model.save_pretrained(folder, name=output.name, metrics={"test accuracy": accuracy})
        save_file(classifier.head.cpu().state_dict(), folder / "head.safetensors")
        (folder / "classes.json").write_text(json.dumps(classes, indent=2) + "\n")
        if not output.exists():
            folder.rename(output)
            return
        for file in folder.iterdir():
            os.replace(file, output / file.name)


def load_classifier(folder: Path) -> tuple[StellarClassifier, StellarImageProcessor, list[str]]:
    """Loads what `save_classifier` wrote, in evaluation mode.

    Returns:
        Classifier, processor and names of the classes. `classifier(processor(image)["pixel_values"]).argmax(1)` is the
        index of the class.
    """
    classes = json.loads((folder / "classes.json").read_text())
    model = StellarModel.from_pretrained(folder)
    classifier = StellarClassifier(model, model.num_features, len(classes))
    classifier.head.load_state_dict(load_file(folder / "head.safetensors"))
    return classifier.eval(), StellarImageProcessor.from_pretrained(folder), classes


if __name__ == "__main__":
    print(f"{__doc__}\nThis file is a part of a program: python examples/finetune_classification.py --help")
