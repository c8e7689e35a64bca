"""The model card that is saved beside the weights: a new one, or one that stands there with our sections renewed.

What is ours in a card is between marks (`card_sections`), and the license and the base model in its YAML head.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from .atomic_write import write_atomically
from .card_sections import read_section, write_section
from .configuration_stellar import StellarConfig
from .safe_paths import read_bounded
from .safe_text import one_line

UNKNOWN_LICENSE = "unknown"
MODEL_SECTION, METRICS_SECTION, LICENSE_SECTION = "stellar-hub model", "stellar-hub metrics", "stellar-hub license"
CARD_HEAD = re.compile(r"---[ \t]*\n(.*?)^---[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_PLAIN_YAML = re.compile(r"[A-Za-z][\w.+/-]*")
_YAML_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
_LOADED_NAME = re.compile(r'from_pretrained\((".*?(?<!\\)")')
_NOT_STATED = "The license of the weights is not stated."
_STATED_LICENSE = re.compile(r"^The license of the weights is (?:not stated|[^\n]*?)\.$", re.MULTILINE)


def write_card(
    folder: str | os.PathLike,
    config: StellarConfig,
    *,
    name: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Writes README.md into a folder, or renews our sections in the one that stands there.

    Args:
        folder: Folder of the model.
        config: The model's configuration.
        name: Name of the model in the card. None: the one that the card has, or the folder's name.
        license: License of the weights; None keeps the one that the card has.
        base_model: Repository that the weights derive from; one that the card names already is kept.
        metrics: Names and values of measured numbers; None keeps those that the card has.

    Raises:
        OSError: if the card cannot be read or written.
        ValueError: if the card is not a regular file, is too large, or marks in it are damaged.
    """
    path = Path(folder) / "README.md"
    standing = read_card(path)
    if standing is None:
        text = model_card(config, name or Path(folder).absolute().name, license, base_model, metrics)
    else:
        text = updated_card(standing, config, name, license, base_model, metrics)
    write_atomically(path, text.encode(errors="surrogateescape"))


def read_card(path: str | os.PathLike) -> str | None:
    """Returns the text of a card, or None if it does not exist. Bytes that are not UTF-8 stay as they are.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not a regular file, or is too large.
    """
    if not Path(path).exists():
        return None
    text = read_bounded(path, "config_bytes").decode("utf-8-sig", errors="surrogateescape")
    return text.replace("\r\n", "\n")


def model_card(
    config: StellarConfig,
    name: str,
    license: str | None = None,
    base_model: str | None = None,
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Returns a new card in Markdown with its YAML head: shapes, a snippet that runs, and measured numbers.

    Args:
        config: The model's configuration.
        name: Heading of the card, and the name that its snippet loads.
        license: License of the weights as the Hub spells it, such as "mit"; None says that it is unknown.
        base_model: Repository that the weights derive from; None leaves it out.
        metrics: Names and values of measured numbers; None leaves the table out.

    Returns:
        The card's text.
    """
    card = f"{head(license, base_model, config)}\n{_heading(name)}\n"
    card = write_section(card, MODEL_SECTION, _model_section(config, name))
    if metrics:
        card = write_section(card, METRICS_SECTION, _metrics_section(metrics))
    limits = CLASSIFIER_LIMITS if is_classifier(config) else LIMITS
    return f"{card}\n{limits}\n{write_section('', LICENSE_SECTION, license_note(config, license))}"


def updated_card(
    card: str,
    config: StellarConfig,
    name: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Returns a card that stands there with our sections and our lines of its head renewed; the rest is kept.

    Sections that a card does not have are not added, except for new metrics. The arguments are those of `write_card`.

    Raises:
        ValueError: if marks in the card are damaged.
    """
    card = updated_head(card, license, base_model, config)
    ours = read_section(card, MODEL_SECTION)
    earlier = _loaded_name(card if ours is None else ours)
    if ours is not None:
        card = write_section(
            card, MODEL_SECTION, _model_section(config, name or earlier or config.name_or_path or "FOLDER")
        )
    generated = ours is not None or snippet(earlier) in card  # releases before had no marks
    if name and generated:
        card = card.replace(f"{_heading(earlier)}\n", f"{_heading(name)}\n", 1)
        card = card.replace(snippet(earlier), snippet(name))
    if metrics:
        card = write_section(card, METRICS_SECTION, _metrics_section(metrics))
    if license and read_section(card, LICENSE_SECTION) is not None:
        card = write_section(card, LICENSE_SECTION, license_note(config, license))
    elif license:
        card = _STATED_LICENSE.sub(lambda _: _license_sentence(license), card)
    return card


def _loaded_name(text: str) -> str:
    """Returns the name that the first snippet of a text loads, or ""."""
    found = _LOADED_NAME.search(text)
    try:
        return str(json.loads(found[1])) if found else ""
    except ValueError:  # written by hand, with an escape that JSON does not have
        return ""


def is_generated(card: str) -> bool:
    """Returns whether a card has nothing but what `model_card` writes."""
    rest = CARD_HEAD.sub("", card, count=1)
    for section in (MODEL_SECTION, METRICS_SECTION, LICENSE_SECTION):
        text = read_section(rest, section)
        if text is not None:
            rest = re.sub(rf"<!-- {section} -->.*<!-- /{section} -->", "", rest, flags=re.DOTALL)
    rest = rest.replace(LIMITS.strip(), "").replace(CLASSIFIER_LIMITS.strip(), "")
    return MODEL_SECTION in card and re.fullmatch(r"\s*#[^\n]*\s*", rest) is not None


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

CLASSIFIER_SUMMARY = """\
An image classifier on the encoder of STELLAR ([arXiv 2602.01905](https://arxiv.org/abs/2602.01905)). Its head is a
LayerNorm and a linear layer on {pooled}.
"""

CLASSIFIER_LIMITS = """\
## What the weights are not for

The model answers with one of its classes for every image, also for one that shows none of them. Its scores are not
calibrated probabilities. Other image sizes than the one above work, but no quality is promised for them.
"""
POOLED = {
    "mean": "the mean of the sparse tokens",
    "cls": "the cls token",
    "both": "the cls token beside the mean of the sparse tokens",
}
MAX_CLASSES = 50  # that a card names


def is_classifier(config: StellarConfig) -> bool:
    """Returns whether a configuration is that of a classifier, which has another card."""
    return "StellarForImageClassification" in (config.architectures or ())


def head(license: str | None, base_model: str | None, config: StellarConfig | None = None) -> str:
    """Returns the YAML head that the Hub reads; that of a classifier names its task."""
    lines = ["---", f"license: {yaml_text(license or UNKNOWN_LICENSE)}"]
    if base_model:
        lines.append(f"base_model: {yaml_text(base_model)}")
    return "\n".join([*lines, *hub_lines(config).values(), "---"]) + "\n"


# The lines of the head by which the Hub knows how to load a model.
HUB_LINES = {
    "library_name": "library_name: transformers",
    "pipeline_tag": "pipeline_tag: image-feature-extraction",
    "tags": "tags:\n- stellar",
}


def hub_lines(config: StellarConfig | None) -> dict[str, str]:
    """Returns the lines of the head by which the Hub knows how to load a model, by key."""
    if config is None or not is_classifier(config):
        return HUB_LINES
    return HUB_LINES | {"pipeline_tag": "pipeline_tag: image-classification"}


def updated_head(card: str, license: str | None, base_model: str | None, config: StellarConfig | None = None) -> str:
    """Returns a card with a license and a base model in its head; a base model that is there is kept.

    A head that is changed also gets the lines that the Hub needs. Without a license and a base model it is kept.
    """
    if not license and not base_model:
        return card
    found = CARD_HEAD.match(card)
    if found is None:
        return f"{head(license, base_model)}\n{card}"
    lines = found[1]
    if license:
        lines = _with_line(lines, "license", yaml_text(license))
    if base_model and not _entry("base_model").search(lines):
        lines = _with_line(lines, "base_model", yaml_text(base_model), after="license")
    for key, line in hub_lines(config).items():
        lines = lines.replace(f"{HUB_LINES[key]}\n", f"{line}\n")  # the repository had a model for another use
        if not _entry(key).search(lines):
            lines += f"{line}\n"
    return f"---\n{lines}---\n{card[found.end() :]}"


def _with_line(lines: str, key: str, value: str, after: str = "") -> str:
    """Returns the lines of a head in which a key has a value: in its place, after another key, or first."""
    place = _entry(key).search(lines)
    before = _entry(after).search(lines) if after else None
    start, end = place.span() if place else (before.end(), before.end()) if before else (0, 0)
    return f"{lines[:start]}{key}: {value}\n{lines[end:]}"


def _entry(key: str) -> re.Pattern[str]:
    """Returns the pattern of a key in YAML, with the lines of its value."""
    return re.compile(rf"^{key}:[^\n]*\n(?:(?:[ \t]+|-[ \t])[^\n]*\n)*", re.MULTILINE)


def yaml_text(text: str) -> str:
    """Returns a text as a value in YAML, on one line: as it is if that is safe, and otherwise in quotes."""
    line = one_line(text)
    plain = _PLAIN_YAML.fullmatch(line) and line.lower() not in _YAML_WORDS
    return line if plain else json.dumps(line, ensure_ascii=False)


def markdown_text(text: str) -> str:
    """Returns a text for Markdown, on one line, without HTML and without marks of sections."""
    return one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _heading(name: str) -> str:
    return f"# {markdown_text(name)}"


def _model_section(config: StellarConfig, name: str) -> str:
    if not is_classifier(config):
        return "\n".join([SUMMARY, shapes(config), snippet(name)])
    summary = CLASSIFIER_SUMMARY.format(pooled=POOLED[config.classifier_pooling])
    return "\n".join([summary, classifier_shapes(config), classifier_snippet(name)])


def _metrics_section(metrics: Mapping[str, float]) -> str:
    rows = "\n".join(f"| {_cell(metric)} | {value:.4g} |" for metric, value in metrics.items())
    return f"## Measured\n\n| metric | value |\n|---|---|\n{rows}\n"


def _cell(text: str) -> str:
    return markdown_text(text).replace("|", "\\|")


def shapes(config: StellarConfig) -> str:
    """Returns a table of sizes and shapes for one image of the model's own size."""
    side = config.image_size // config.patch_size
    decodes = "no"
    if config.use_decoder:
        decodes = f'yes, "{_cell(config.reconstruction_head)}" head'
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


def classifier_shapes(config: StellarConfig) -> str:
    """Returns a table of sizes, shapes and classes."""
    names = list((config.id2label or {}).values())
    shown = ", ".join(_cell(one_line(name, 60)) for name in names[:MAX_CLASSES])
    more = f" and {len(names) - MAX_CLASSES} more, in `config.json`" if len(names) > MAX_CLASSES else ""
    return f"""\
| | |
|---|---|
| image | {config.image_size} x {config.image_size}, patch {config.patch_size}, RGB in [0, 1]; the model normalizes |
| encoder | width {config.hidden_size}, {config.num_hidden_layers} layers, {config.num_attention_heads} heads |
| head | LayerNorm and linear layer on {POOLED[config.classifier_pooling]} |
| logits | `(1, {len(names)})` |
| classes | {shown}{more} |
"""


def classifier_snippet(name: str) -> str:
    """Returns code that runs a classifier with the library and without it."""
    quoted = _quoted(name)
    return f"""\
```python
from transformers import AutoImageProcessor, AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained({quoted}, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained({quoted}, trust_remote_code=True)
logits = model(**processor("photo.jpg", return_tensors="pt")).logits
print(model.config.id2label[int(logits.argmax())])
```

`pipeline("image-classification", model=..., trust_remote_code=True)` of transformers does the same. If `stellar_hub` is
installed, you need no remote code: `from stellar_hub import StellarForImageClassification, StellarImageProcessor`.
"""


def _quoted(name: str) -> str:
    """Returns a name as a string of Python, on one line, without marks of HTML."""
    return json.dumps(one_line(name), ensure_ascii=False).replace("<", "\\u003c")


def snippet(name: str) -> str:
    """Returns code that runs with the library and without it."""
    quoted = _quoted(name)
    return f"""\
```python
from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained({quoted}, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained({quoted}, trust_remote_code=True)
S, L = model.encode(processor("photo.jpg", return_tensors="pt")["pixel_values"])
```

If `stellar_hub` is installed, you need no remote code: `from stellar_hub import StellarModel, StellarImageProcessor`.
"""


def license_note(config: StellarConfig, license: str | None) -> str:
    """Returns the section about the license of the weights and of the tokenizer in them."""
    lines = ["## License\n", _license_sentence(license)]
    if config.use_decoder and config.use_tokenizer and config.reconstruction_head == "vq":
        lines.append(
            "The tokenizer in them is the MaskGIT-VQGAN from the Hub repository fun-research/TiTok, which has a "
            "license of its own."
        )
    return "\n".join(lines) + "\n"


def _license_sentence(license: str | None) -> str:
    return f"The license of the weights is {markdown_text(license)}." if license else _NOT_STATED
