"""The model card that is saved beside the weights."""

from collections.abc import Mapping

from .configuration_stellar import StellarConfig

UNKNOWN_LICENSE = "unknown"


def model_card(
    config: StellarConfig,
    name: str,
    license: str | None = None,
    base_model: str | None = None,
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Writes a card in Markdown with its YAML head: shapes, a snippet that runs, and measured numbers.

    Args:
        config: The model's configuration.
        name: Heading of the card, and the name that its snippet loads.
        license: License of the weights as the Hub spells it, such as "mit"; None says that it is unknown.
        base_model: Repository that the weights derive from; None leaves it out.
        metrics: Names and values of measured numbers; None leaves the table out.

    Returns:
        The card's text.
    """
    parts = [head(license, base_model), f"# {name}\n", SUMMARY, shapes(config), snippet(name)]
    if metrics:
        rows = "\n".join(f"| {metric} | {value:.4g} |" for metric, value in metrics.items())
        parts.append(f"## Measured\n\n| metric | value |\n|---|---|\n{rows}\n")
    parts += [LIMITS, license_note(config, license)]
    return "\n".join(parts)


SUMMARY = """\
A STELLAR model ([arXiv 2602.01905](https://arxiv.org/abs/2602.01905)): it encodes an image to a few sparse tokens `S`
("what") and one map for each token, `L` ("where"). It decodes the product `Z = L S` back to pixels.
"""

LIMITS = """\
## What the weights are not for

The model does not understand language, and it does not generate new images: `decode` shows what a code contains. A
token is not guaranteed to be an object. If the encoded images are private data, the decoded ones may be as well. Other
image sizes than the one above work, but no quality is promised for them.
"""


def head(license: str | None, base_model: str | None) -> str:
    """Returns the YAML head that the Hub reads."""
    lines = ["---", f"license: {license or UNKNOWN_LICENSE}"]
    if base_model:
        lines.append(f"base_model: {base_model}")
    lines += ["library_name: transformers", "pipeline_tag: image-feature-extraction", "tags:", "- stellar", "---"]
    return "\n".join(lines) + "\n"


def shapes(config: StellarConfig) -> str:
    """Returns a table of sizes and shapes for one image of the model's own size."""
    side = config.image_size // config.patch_size
    decodes = "no"
    if config.use_decoder:
        decodes = f'yes, "{config.reconstruction_head}" head'
        if config.reconstruction_head == "vq" and not config.use_tokenizer:
            decodes = "no: the model was saved without the tokenizer"
    return f"""\
| | |
|---|---|
| image | {config.image_size} x {config.image_size}, patch {config.patch_size}, RGB in [0, 1]; the model normalizes |
| encoder | width {config.hidden_size}, {config.num_hidden_layers} layers, {config.num_attention_heads} heads |
| `S` | `(1, {config.num_sparse_tokens}, {config.hidden_size})` |
| `L` | `(1, {side * side}, {config.num_sparse_tokens})` |
| decodes | {decodes} |
"""


def snippet(name: str) -> str:
    """Returns code that runs with the library and without it."""
    return f"""\
```python
from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained("{name}", trust_remote_code=True)
S, L = model.encode(processor("photo.jpg", return_tensors="pt")["pixel_values"])
```

If `stellar_hub` is installed, you need no remote code: `from stellar_hub import StellarModel, StellarImageProcessor`.
"""


def license_note(config: StellarConfig, license: str | None) -> str:
    """Returns the section about the license of the weights and of the tokenizer in them."""
    stated = f"The license of the weights is {license}." if license else "The license of the weights is not stated."
    lines = ["## License\n", stated]
    if config.use_decoder and config.use_tokenizer and config.reconstruction_head == "vq":
        lines.append(
            "The tokenizer in them is the MaskGIT-VQGAN from the Hub repository fun-research/TiTok, which has a "
            "license of its own."
        )
    return "\n".join(lines) + "\n"
