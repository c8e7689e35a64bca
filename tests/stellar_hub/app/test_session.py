"""What one user has open."""

import pytest
import torch

from stellar_hub.app import session as steps
from stellar_hub.app.desk import Desk
from stellar_hub.app.edits import Placement
from stellar_hub.app.session import MAX_EDITS, Session


def test_steps__leave_the_session_before_as_it_was(opened: Session) -> None:
    chosen = steps.choose(opened, 1)
    steps.drop(chosen)
    assert opened.token is None
    assert chosen.edits == ()


def test_choose_at__takes_the_strongest_token_of_the_place(opened: Session) -> None:
    height, width = opened.grid
    after = steps.choose_at(opened, 1.2, width - 0.4)
    assert after.token == int(opened.encoding.localization[0, 1 * width + width - 1].argmax())
    assert after.place == (1.2, width - 0.5)
    assert steps.choose_at(opened, 1e5, -7).place == (height - 0.5, -0.5)


@pytest.mark.parametrize("place", [(float("nan"), 0.0), (0.0, float("inf"))])
def test_choose_at__refuses_what_is_no_place(opened: Session, place: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two numbers"):
        steps.choose_at(opened, *place)


@pytest.mark.parametrize("token", [-1, 4, 10**6])
def test_choose__refuses_a_token_that_is_not_there(opened: Session, token: int) -> None:
    with pytest.raises(ValueError, match="tokens 0 to 3"):
        steps.choose(opened, token)


def test_edits__need_an_image_and_a_token(opened: Session) -> None:
    for empty, words in ((Session("tiny"), "image first"), (opened, "token first")):
        for step in (steps.drop, steps.keep, lambda s: steps.mirror(s, "vertical"), lambda s: steps.move(s, 1, 1)):
            with pytest.raises(ValueError, match=words):
                step(empty)


def test_move__goes_on_with_the_last_edit_of_the_same_token(opened: Session) -> None:
    session = steps.move(steps.move(steps.choose(opened, 1), 1.0, 0.5), -0.5, 0.25)
    assert session.placement == Placement(0.5, 0.75)
    assert len(session.edits) == 1
    other = steps.move(steps.choose(session, 2), 1.0, 0.0)
    assert len(other.edits) == 2
    assert other.placement == Placement(1.0, 0.0)


def test_set_placement__back_to_the_start_is_no_edit(opened: Session) -> None:
    session = steps.set_placement(steps.move(steps.choose(opened, 1), 1.0, 0.5), Placement())
    assert session.edits == ()


@pytest.mark.parametrize("placement", [Placement(5, 0), Placement(0, -5), Placement(0, 0, 0.1), Placement(0, 0, 9.0)])
def test_set_placement__refuses_what_is_out_of_range(opened: Session, placement: Placement) -> None:
    with pytest.raises(ValueError, match=r"at most|must be"):
        steps.set_placement(steps.choose(opened, 0), placement)


def test_drop__of_the_last_token_is_refused(opened: Session) -> None:
    alone = steps.keep(steps.choose(opened, 2))
    with pytest.raises(ValueError, match="at least one"):
        steps.drop(alone)


def test_undo__takes_back_one_edit_and_reset_all(opened: Session) -> None:
    session = steps.mirror(steps.drop(steps.choose(opened, 1)), "horizontal")
    assert len(steps.undo(session).edits) == 1
    assert steps.reset(session).edits == ()
    torch.testing.assert_close(steps.reset(session).encoding.localization, opened.encoding.localization)
    assert steps.undo(opened).edits == ()


def test_edits__have_an_end(opened: Session) -> None:
    session = steps.choose(opened, 0)
    for _ in range(MAX_EDITS):
        session = steps.mirror(session, "horizontal")
    with pytest.raises(ValueError, match="at most"):
        steps.mirror(session, "horizontal")


def test_transplant__adds_a_token_or_replaces_the_chosen_one(desk: Desk, opened: Session) -> None:
    with pytest.raises(ValueError, match="second image"):
        steps.transplant(opened, False, False)
    session = steps.choose_at(desk.example_second(opened, "rocket.jpg"), 1, 2)
    assert session.second is not None
    added = steps.transplant(session, at_place=True, replaces=False)
    assert added.token == 4
    source = session.second.encoding.semantics[0, session.second_token]
    assert torch.equal(added.encoding.semantics[0, 4], source)
    replaced = steps.transplant(session, at_place=False, replaces=True)
    assert replaced.encoding.semantics.shape[1] == 4
    assert torch.equal(replaced.encoding.semantics[0, session.chosen], source)
    assert steps.undo(added).token is None  # token 4 is gone


def test_transplant__at_a_place_needs_one(desk: Desk, opened: Session) -> None:
    session = steps.choose(desk.example_second(opened, "rocket.jpg"), 0)
    with pytest.raises(ValueError, match="click the place"):
        steps.transplant(session, at_place=True, replaces=False)


def test_with_model__encodes_again_and_forgets_the_edits(desk: Desk, opened: Session) -> None:
    session = steps.drop(steps.choose(desk.example_second(opened, "rocket.jpg"), 0))
    again = desk.change_model(session, session.model)
    assert again.edits == ()
    assert again.second is not None
    assert again.second.title == "rocket.jpg"
    torch.testing.assert_close(again.encoding.semantics, opened.encoding.semantics)
