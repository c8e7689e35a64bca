"""The page as gradio has it."""

import json

import pytest

from stellar_hub.app.desk import Desk
from stellar_hub.app.page import Page, style
from stellar_hub.app.session import Session

pytest.importorskip("gradio")


@pytest.fixture
def page(desk: Desk) -> Page:
    return Page(desk)


def test_events__are_no_api_and_come_one_after_the_other(page: Page) -> None:
    events = list(page.blocks.fns.values())
    assert len(events) > 20
    assert {event.api_visibility for event in events} == {"private"}
    assert {event.concurrency_id for event in events} == {"page"}


def test_parts__take_no_files_from_gradio(page: Page) -> None:
    """What gradio does with the files of its own parts, such as fetching addresses, is not needed."""
    inputs = {type(part).__name__ for event in page.blocks.fns.values() for part in event.inputs}
    assert inputs <= {"State", "Slider", "Dropdown", "Radio"}


def test_page__has_a_search_only_with_a_store(page: Page) -> None:
    assert "found" not in {part.elem_id for part in page.blocks.blocks.values()}


def test_page__names_no_other_host(page: Page) -> None:
    text = json.dumps(page.blocks.get_config_file(), default=str) + json.dumps(style()["theme"]._get_theme_css())
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert not page.blocks.analytics_enabled


def test_answer__has_a_value_for_each_output(page: Page, desk: Desk, opened: Session) -> None:
    values = page._answer(lambda s: s)(opened)
    assert len(values) == len(page._outputs)
    assert values[0] is opened


def test_answer__of_a_step_that_fails_has_a_message_and_the_session_before(page: Page, opened: Session) -> None:
    def fail(session: Session) -> Session:
        raise ValueError("<b>no</b>")

    values = page._answer(fail)(opened)
    assert values[0] is opened
    assert values[1].value == "<b>no</b>."
    assert values[1].visible


def test_answer__leaves_the_sliders_that_the_user_moves(page: Page, opened: Session) -> None:
    values = page._answer(lambda s: s, page._sliders)(opened)
    places = [place for place, part in enumerate(page._outputs) if part in page._sliders]
    assert [values[place] for place in places] == [page.gr.skip()] * 3


def test_answer__of_a_view_that_fails_keeps_what_is_shown(
    page: Page, opened: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Desk, "view", fail)
    values = page._answer(lambda s: s)(opened)
    assert "disk is gone" in values[1].value
    assert all(value == page.gr.skip() for value in values[2:])
