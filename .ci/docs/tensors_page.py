"""Writes docs/reference/tensors.md, the names and shapes of all weights, from models that are built without memory.

    python .ci/docs/tensors_page.py

`tests/docs/test_tensors_page.py` fails while the page differs from the model.
"""

import re
from pathlib import Path

import torch

from stellar_hub import StellarConfig, StellarForPreTraining, StellarModel

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "tensors.md"
HEAD = """<!-- python .ci/docs/tensors_page.py writes this page from the model. Do not edit it. -->

# Weights

These are the names of the tensors in `model.safetensors`, with the shapes of stellar-b16. `N` stands for a number: of a
block, of a level or of a layer. Other sizes of the model have the same names and other shapes. The names and the layout
do not change within a minor version, because pushed models rely on them. [Conversion](../conversion.md) reads the
authors' layout."""
TEACHER = 0.996


def page_text() -> str:
    """Returns the whole page as Markdown."""
    with torch.device("meta"):
        vq = StellarModel(StellarConfig(layer_scale_init_value=0.1)).state_dict()
        pixel = StellarModel(StellarConfig(reconstruction_head="pixel")).state_dict()
        training = StellarForPreTraining(
            StellarConfig(teacher_momentum=TEACHER, layer_scale_init_value=0.1)
        ).state_dict()
    head = {name: tensor for name, tensor in pixel.items() if name.startswith("decoder.head.")}
    return (
        "\n\n".join(
            [
                HEAD,
                "## The model, with a `vq` head",
                "`encoder.blocks.N.ls1` and `ls2` exist only in models with a layer scale.",
                table(vq),
                "## The `pixel` head",
                "A model with this head has no `tokenizer`, and its decoder ends in these tensors.",
                table(head),
                "## Training checkpoints",
                "`checkpoints/step-N` of a run holds the model under `stellar.`, and these parts beside it. The "
                "teacher exists in runs with `teacher_momentum`, and the tokenizer's encoder with a `vq` head.",
                table(training),
            ]
        )
        + "\n"
    )


def table(tensors: dict[str, torch.Tensor]) -> str:
    """Returns names and shapes as a table; tensors that differ in numbers only share a line."""
    shapes: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        found = shapes.setdefault(re.sub(r"[.][0-9]+(?=[.])", ".N", name), [])
        shape = f"({', '.join(str(side) for side in tensor.shape)})"
        if shape not in found:
            found.append(shape)
    rows = [f"| `{name}` | {', '.join(found)} |" for name, found in shapes.items()]
    return "\n".join(["| tensor | shape |", "|---|---|", *rows])


if __name__ == "__main__":
    PAGE.write_text(page_text(), encoding="utf-8")
