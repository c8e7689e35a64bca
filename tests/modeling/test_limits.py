import re
from pathlib import Path

import pytest

from stellar_hub.modeling.limits import LIMITS, check_limit, max_allowed, variable_of

PAGE = Path(__file__).parents[2] / "docs/limits.md"


def test_limits__the_page_lists_each_with_its_default() -> None:
    page = PAGE.read_text(encoding="utf-8")
    lines = [
        f"| `{variable_of(name)}` | {limit.default:,} {limit.unit} | {limit.meaning} |"
        for name, limit in LIMITS.items()
    ]
    assert [line for line in page.splitlines() if line.startswith("| `STELLAR_HUB_MAX_")] == lines


def test_check_limit__the_value_itself_passes_and_one_more_is_refused_with_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_IMAGE_PIXELS", "100")
    check_limit("image_pixels", 100, "a.png")
    with pytest.raises(ValueError, match=r"a\.png.*101.*100.*STELLAR_HUB_MAX_IMAGE_PIXELS"):
        check_limit("image_pixels", 101, "a.png")


@pytest.mark.parametrize("text", ["0", "-5", "many", "1e9", "9" * 5000, "٣"])
def test_max_allowed__refuses_what_is_not_a_positive_whole_number(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_IMAGE_BYTES", text)
    with pytest.raises(ValueError, match="STELLAR_HUB_MAX_IMAGE_BYTES"):
        max_allowed("image_bytes")


def test_max_allowed__an_empty_variable_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_IMAGE_BYTES", "")
    assert max_allowed("image_bytes") == LIMITS["image_bytes"].default


def test_limits__names_are_words_that_make_variables() -> None:
    assert all(re.fullmatch("[a-z_]+", name) for name in LIMITS)
