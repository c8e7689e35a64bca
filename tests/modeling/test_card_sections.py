import pytest

from stellar_hub.modeling.card_sections import read_section, section_marks, write_section

CARD = "---\nlicense: mit\n---\n# A model\n\n## What the weights are not for\n\nText.\n\n## License\n\nMIT.\n"


class TestWrite:
    @pytest.mark.parametrize("heading", ["## What the weights are not for", "## Limits", "## License", "## Licence"])
    def test_new_section__goes_before_limits_and_license(self, heading: str) -> None:
        card = write_section(f"# A model\n\n{heading}\n\nText.\n", "eval knn", "Top-1: 50 %\n")
        assert card == f"# A model\n\n<!-- eval knn -->\nTop-1: 50 %\n<!-- /eval knn -->\n\n{heading}\n\nText.\n"

    @pytest.mark.parametrize(("card", "start"), [("", ""), ("# A model\n\n\n", "# A model\n\n")])
    def test_new_section__goes_to_the_end_of_other_cards(self, card: str, start: str) -> None:
        assert write_section(card, "eval", "x") == f"{start}<!-- eval -->\nx\n<!-- /eval -->\n"

    def test_same_section_again__replaces_it_and_nothing_else(self) -> None:
        other = write_section(CARD, "training", "Loss: 2.\n")
        once = write_section(other, "eval", "Old\n\nrows.")
        twice = write_section(once, "eval", "New row.")
        assert twice == once.replace("Old\n\nrows.", "New row.")
        assert write_section(twice, "eval", "New row.") == twice
        assert read_section(twice, "training") == "Loss: 2."

    def test_names_with_the_same_start__are_different_sections(self) -> None:
        card = write_section(write_section(CARD, "eval", "a"), "eval knn", "b")
        assert (read_section(card, "eval"), read_section(card, "eval knn")) == ("a", "b")


class TestRead:
    def test_text__is_between_the_marks(self) -> None:
        assert read_section(write_section(CARD, "eval", "\n\n| a |\n|---|\n\n"), "eval") == "| a |\n|---|"

    def test_card_without_the_section__gives_none(self) -> None:
        assert read_section(CARD, "eval") is None

    def test_text_with_the_closing_mark__is_whole(self) -> None:
        start, end = section_marks("eval")
        assert read_section(f"{start}\nsays {end} here\n{end}\n", "eval") == f"says {end} here"


@pytest.mark.parametrize(
    "marks", ["{start}", "{end}", "{end}\n{start}", "{start}\n{start}\n{end}"], ids=["open", "closed", "turned", "two"]
)
def test_damaged_marks__are_named_and_nothing_is_written(marks: str) -> None:
    start, end = section_marks("eval")
    card = CARD + marks.format(start=start, end=end)
    with pytest.raises(ValueError, match=r"model/README\.md .*<!-- eval -->"):
        write_section(card, "eval", "x", path="model/README.md")
    with pytest.raises(ValueError, match=r"the card .*<!-- eval -->"):
        read_section(card, "eval")
