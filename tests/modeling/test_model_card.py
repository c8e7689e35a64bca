"""The model card: a new one, and one that stands there."""

import os
from pathlib import Path

import pytest
import yaml

from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.card_sections import write_section
from stellar_hub.modeling.model_card import CARD_HEAD, is_generated, model_card, updated_card, write_card, yaml_text

CONFIG = StellarConfig()
# A card of a release before the sections had marks.
EARLIER = """\
---
license: unknown
library_name: transformers
---

# old

```python
from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained("old", trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained("old", trust_remote_code=True)
S, L = model.encode(processor("photo.jpg", return_tensors="pt")["pixel_values"])
```

If `stellar_hub` is installed, you need no remote code: `from stellar_hub import StellarModel, StellarImageProcessor`.

## License

The license of the weights is not stated.
"""


def metadata(card: str) -> dict[str, object]:
    """The YAML head of a card."""
    found = CARD_HEAD.match(card)
    assert found
    return yaml.safe_load(found[1])


def test_model_card__has_metadata_shapes_a_snippet_and_numbers() -> None:
    card = model_card(CONFIG, "user/mine", "mit", "some/base", {"accuracy": 0.51234})
    assert metadata(card) == {
        "license": "mit",
        "base_model": "some/base",
        "library_name": "transformers",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["stellar"],
    }
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings == ["# user/mine", "## Measured", "## What the weights are not for", "## License"]
    assert 'AutoModel.from_pretrained("user/mine"' in card
    assert "| accuracy | 0.5123 |" in card


@pytest.mark.parametrize("text", ["mit\nextra: 1", "a: b", "yes", "null", '"', "- x", "\x1b[31m", "x #y", "1.0", "ä"])
def test_head__keeps_a_license_and_a_base_model_within_their_values(text: str) -> None:
    head = metadata(model_card(CONFIG, "name", text, text))
    assert set(head) == {"license", "base_model", "library_name", "pipeline_tag", "tags"}
    assert isinstance(head["license"], str)
    assert head["license"].isprintable()
    assert head["license"] == head["base_model"] == yaml.safe_load(yaml_text(text))


@pytest.mark.parametrize(
    "name", ["a\n---\n# b", 'a"); import os #', "<script>", "<!-- /stellar-hub model -->", "`\n```"]
)
def test_name__stays_in_its_heading_and_its_string(name: str) -> None:
    card = model_card(CONFIG, name, "mit", metrics={name: 1.0})
    again = updated_card(card, CONFIG, "plain", "mit", metrics={"accuracy": 1.0})
    assert again == model_card(CONFIG, "plain", "mit", metrics={"accuracy": 1.0})
    assert "<script>" not in card


def test_updated_card__of_a_generated_card_is_a_new_one() -> None:
    card = updated_card(model_card(CONFIG, "old"), StellarConfig(num_sparse_tokens=3), "new", "mit", "some/base")
    assert card == model_card(StellarConfig(num_sparse_tokens=3), "new", "mit", "some/base")
    assert updated_card(card, StellarConfig(num_sparse_tokens=3)) == card


def test_updated_card__keeps_what_others_wrote() -> None:
    card = model_card(CONFIG, "old", "mit").replace("# old\n", "# old\n\nBy hand.\n")
    card = write_section(card, "training", "## Training\n\nNumbers.")
    again = updated_card(card, CONFIG, "new", metrics={"accuracy": 1.0})
    assert "# new\n\nBy hand.\n" in again
    assert "## Training\n\nNumbers." in again
    assert metadata(again)["license"] == "mit"
    assert again.index("Numbers.") < again.index("## Measured") < again.index("## What the weights")
    assert "The license of the weights is mit." in again


def test_updated_card__of_a_hand_written_card_touches_its_head_alone() -> None:
    body = '\n# Ours\n\nWords, `from_pretrained("Ours")`.\n\n## License\n\nSee below.\n'
    head = "# a comment\nlicense:\n- gpl-3.0\nbase_model: first/base\ntags:\n- mine\n"
    card = f"---\n{head}---\n{body}"
    assert updated_card(card, CONFIG, "new") == card
    again = updated_card(card, CONFIG, "new", "mit", "second/base")
    assert again.endswith(f"---\n{body}")
    assert "# a comment\n" in again
    assert metadata(again) == {
        "license": "mit",
        "base_model": "first/base",
        "tags": ["mine"],
        "library_name": "transformers",
        "pipeline_tag": "image-feature-extraction",
    }
    assert updated_card(body, CONFIG, "new") == body
    assert updated_card(body, CONFIG, "new", "mit").endswith(f"---\n\n{body}")


def test_updated_card__of_an_earlier_release_gets_name_and_license() -> None:
    card = updated_card(EARLIER, CONFIG, "user/new", "mit")
    assert "# user/new\n" in card
    assert 'AutoModel.from_pretrained("user/new"' in card
    assert "The license of the weights is mit." in card
    assert metadata(card)["license"] == "mit"


def test_is_generated__tells_what_others_wrote() -> None:
    card = model_card(CONFIG, "name", "mit", metrics={"accuracy": 1.0})
    assert is_generated(card)
    assert not is_generated(card + "\nBy hand.\n")
    assert not is_generated(write_section(card, "training", "## Training"))
    assert not is_generated("# Ours\n")


def test_write_card__keeps_bytes_that_are_not_utf_8_and_drops_a_mark(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\n# \xe9\r\n")
    write_card(tmp_path, CONFIG, license="apache-2.0")
    card = (tmp_path / "README.md").read_bytes()
    assert card.startswith(b"---\nlicense: apache-2.0\n")
    assert card.endswith(b"# \xe9\n")


def test_write_card__refuses_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "README.md")
    with pytest.raises(ValueError, match="pipe"):
        write_card(tmp_path, CONFIG)


def test_write_card__names_a_new_one_by_its_folder(tmp_path: Path) -> None:
    write_card(tmp_path, CONFIG)
    assert (tmp_path / "README.md").read_text() == model_card(CONFIG, tmp_path.name)
