"""What the page does for a request."""

import logging
from pathlib import Path

import pytest

from stellar_hub.app import session as steps
from stellar_hub.app.desk import MAX_MESSAGE, Desk, answered, sentence_of
from stellar_hub.app.session import Session


def test_open__begins_with_an_example(opened: Session) -> None:
    assert opened.original.title == "cat.jpg"


def test_upload__opens_the_image_and_deletes_the_file(desk: Desk, opened: Session, photo: Path) -> None:
    session, problem = desk.do(desk.upload, opened, photo)
    assert (problem, session.original.title) == ("", "my coffee.jpg")
    assert not photo.parent.exists()


def test_upload__of_a_damaged_file_is_a_sentence_and_changes_nothing(desk: Desk, opened: Session, photo: Path) -> None:
    photo.write_bytes(photo.read_bytes()[:200])
    session, problem = desk.do(desk.upload, opened, photo)
    assert session is opened
    assert problem.startswith("my coffee.jpg cannot be read")
    assert str(photo.parent) not in problem
    assert not photo.exists()


def test_upload__keeps_to_the_limits_of_the_loader(
    desk: Desk, opened: Session, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_IMAGE_PIXELS", "100")
    assert "limit is 100" in desk.do(desk.upload, opened, photo)[1]


def test_two_users__see_their_own_image_and_edits(desk: Desk, opened: Session, photo: Path) -> None:
    one = steps.drop(steps.choose(desk.upload(opened, photo), 1))
    other = steps.choose(desk.example(opened, "rocket.jpg"), 0)
    assert (one.original.title, other.original.title) == ("my coffee.jpg", "rocket.jpg")
    assert other.edits == ()
    assert desk.view(one).decoding["image"] != desk.view(other).decoding["image"]
    assert desk.kept.read(one.original.file, "") != desk.kept.read(other.original.file, "")


def test_upload__of_another_image_frees_the_one_before(desk: Desk, photo: Path) -> None:
    session, size = Session(desk.models.names[0]), photo.stat().st_size
    data = photo.read_bytes()
    for _ in range(3):
        photo.parent.mkdir(exist_ok=True)
        photo.write_bytes(data)
        session = desk.upload(session, photo)
        assert desk.kept.num_bytes == size


def test_change_model__refuses_a_name_that_is_not_offered(desk: Desk, opened: Session) -> None:
    session, problem = desk.do(desk.change_model, opened, "/etc")
    assert session is opened
    assert "no model of this page" in problem


@pytest.mark.parametrize("number", ["-1", "x", "1e3", "", "9" * 40, "²"])
def test_choose__refuses_what_is_no_number(desk: Desk, opened: Session, number: str) -> None:
    assert desk.do(desk.choose, opened, number) == (opened, desk.do(desk.choose, opened, number)[1])
    assert desk.do(desk.choose, opened, number)[1]


def test_drag__moves_the_token_where_the_drag_began(desk: Desk, opened: Session) -> None:
    session = desk.drag(opened, 1.0, 2.0, 0.5, -1.0)
    assert session.token == steps.choose_at(opened, 1.0, 2.0).token
    assert (session.placement.rows, session.placement.columns) == (0.5, -1.0)


def test_put__takes_what_the_sliders_say(desk: Desk, opened: Session) -> None:
    session = desk.put(steps.choose(opened, 1), 1.0, -0.5, 150)
    assert (session.placement.rows, session.placement.columns, session.placement.factor) == (1.0, -0.5, 1.5)


def test_compare__shows_the_other_model(desk: Desk, opened: Session) -> None:
    items = desk.compare(opened, desk.models.names[0])["items"]
    assert len(items) == 2
    assert "PSNR" in items[1]["caption"]


def test_find__needs_a_store(desk: Desk, opened: Session) -> None:
    with pytest.raises(ValueError, match="--store"):
        desk.find(opened, 3)


def test_answered__logs_a_fault_and_says_no_more_than_its_type(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise AssertionError("secret detail")

    with caplog.at_level(logging.ERROR):
        result, problem = answered(fail, "before")
    assert result == "before"
    assert "AssertionError" in problem
    assert "secret" not in problem
    assert "secret detail" in caplog.text


def test_answered__survives_the_end_of_memory() -> None:
    def fail() -> None:
        raise MemoryError

    assert "no memory" in answered(fail, None)[1]


def test_sentence_of__is_one_short_line_without_secrets() -> None:
    text = sentence_of(ValueError("a\nb \x1b[2J https://me:pw@host/x?key=1 " + "y" * 5000))
    assert len(text) <= MAX_MESSAGE + 1
    assert text.isprintable()
    assert "pw" not in text
    assert "key=1" not in text
