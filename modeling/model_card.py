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
    """A card in Markdown with its YAML head: shapes, a snippet that runs, numbers where they are known.

    Args:
        config: The model's configuration.
        name: Heading, and what the snippet loads.
        license: Identifier as the Hub spells it ("mit"); None says that it is unknown.
        base_model: Repository the weights derive from.
        metrics: Names and values measured by whoever saves the model.
    """
    parts = [head(license, base_model), f"# {name}\n", SUMMARY, shapes(config), snippet(name)]
    if metrics:
        rows = "\n".join(f"| {metric} | {value:.4g} |" for metric, value in metrics.items())
        parts.append(f"## Measured\n\n| metric | value |\n|---|---|\n{rows}\n")
    parts += [LIMITS, license_note(config, license)]
    return "\n".join(parts)


SUMMARY = """\
A STELLAR model ([arXiv 2602.01905](https://arxiv.org/abs/2602.01905)): it encodes an image to a few sparse tokens `S`
("what") and a map for each, `L` ("where"). `Z = L S` is decoded back to pixels.
"""

LIMITS = """\
## What the weights are not for

They know nothing of language, and generate nothing: `decode` shows what a code holds. Tokens are not guaranteed to be
objects. Decoded images may be private data where the encoded ones were. Sizes other than the one above work; their
quality is whatever was measured, not implied.
"""


def head(license: str | None, base_model: str | None) -> str:
    """The YAML head that the Hub reads."""
    lines = ["---", f"license: {license or UNKNOWN_LICENSE}"]
    if base_model:
        lines.append(f"base_model: {base_model}")
    lines += ["library_name: transformers", "pipeline_tag: image-feature-extraction", "tags:", "- stellar", "---"]
    return "\n".join(lines) + "\n"


def shapes(config: StellarConfig) -> str:
    """Sizes and shapes for one image at the model's own size."""
    side = config.image_size // config.patch_size
    decodes = "no"
    if config.use_decoder:
        decodes = f'yes, "{config.reconstruction_head}" head'
        if config.reconstruction_head == "vq" and not config.use_tokenizer:
            decodes = "no: saved without the tokenizer"
    return f"""\
| | |
|---|---|
| image | {config.image_size} x {config.image_size}, patch {config.patch_size}, RGB in [0, 1], normalized inside |
| encoder | width {config.hidden_size}, {config.num_hidden_layers} layers, {config.num_attention_heads} heads |
| `S` | `(1, {config.num_sparse_tokens}, {config.hidden_size})` |
| `L` | `(1, {side * side}, {config.num_sparse_tokens})` |
| decodes | {decodes} |
"""


def snippet(name: str) -> str:
    """Code that runs, with the library and without it."""
    return f"""\
```python
from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained("{name}", trust_remote_code=True)
S, L = model.encode(processor("photo.jpg", return_tensors="pt")["pixel_values"])
```

With `stellar_hub` installed no remote code is needed: `from stellar_hub import StellarModel, StellarImageProcessor`.
"""


def license_note(config: StellarConfig, license: str | None) -> str:
    """What the license covers."""
    lines = ["## License\n", f"The weights: {license or 'not stated; ask whoever made them'}."]
    if config.use_decoder and config.use_tokenizer and config.reconstruction_head == "vq":
        lines.append(
            "The tokenizer inside is the MaskGIT-VQGAN from the Hub repository fun-research/TiTok, under that "
            "repository's own license."
        )
    return "\n".join(lines) + "\n"
