"""What the page shows of a session."""

import base64
import io
import re

import pytest
import torch
from PIL import Image

from stellar_hub.app import session as steps
from stellar_hub.app.desk import Desk
from stellar_hub.app.session import Session
from stellar_hub.app.views import View, board, center_of, examples, small_maps, spell_decibels
from stellar_hub.editing import drop_tokens
from stellar_hub.modeling import StellarEncoding


def image_of(address: str) -> Image.Image:
    """The image in a data address."""
    head, data = address.split(",")
    assert re.fullmatch(r"data:image/(png|jpeg);base64", head)
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture
def view(desk: Desk, opened: Session) -> View:
    return desk.view(steps.choose(opened, 2))


def test_view__of_nothing_is_empty(desk: Desk) -> None:
    view = desk.view(Session(desk.models.names[0]))
    assert view.photograph["image"] == view.decoding["image"] == view.code == ""
    assert view.maps["items"] == []


def test_view__has_the_decoding_at_its_own_size(view: View, opened: Session) -> None:
    assert image_of(view.decoding["image"]).size == tuple(opened.original.pixels.shape[:0:-1])
    assert "PSNR" in view.decoding["caption"]


def test_view__marks_the_centre_of_the_chosen_token_on_each_board(view: View, opened: Session) -> None:
    center = center_of(opened.encoding, 2)
    assert center is not None
    for each in (view.photograph, view.tokens, view.decoding):
        assert each["center"] == list(center)
        assert each["grid"] == list(opened.grid)


def test_view__marks_the_chosen_map(view: View) -> None:
    assert [item["key"] for item in view.maps["items"]] == ["0", "1", "2", "3"]
    assert [item["chosen"] for item in view.maps["items"]] == [False, False, True, False]


def test_view__changes_with_an_edit(desk: Desk, opened: Session) -> None:
    before, after = desk.view(opened), desk.view(steps.drop(steps.choose(opened, 0)))
    assert before.decoding["image"] != after.decoding["image"]
    assert after.maps["items"][0]["note"] == "unused"
    assert after.photograph["center"] is None  # a token without weight is nowhere


def test_view__of_a_model_without_a_decoder_says_so(
    desk: Desk, opened: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(desk.models), "decode", lambda *_: None)
    view = desk.view(opened)
    assert view.decoding["image"] == ""
    assert "no decoder" in view.decoding["caption"]
    assert "save_image" not in view.code


def test_small_maps__of_many_tokens_are_the_largest_ones(opened: Session) -> None:
    shown = small_maps(opened.encoding, opened.original.seen, opened.grid, None, count=2)["items"]
    shares = opened.encoding.localization[0].mean(dim=0)
    assert [int(item["key"]) for item in shown] == sorted(shares.topk(2).indices.tolist())


def test_center_of__a_dropped_token_is_none(opened: Session) -> None:
    assert center_of(drop_tokens(opened.encoding, [1]), 1) is None


def test_board__is_json() -> None:
    import json

    assert json.loads(json.dumps(board(center=(1.0, 2.0))))["center"] == [1.0, 2.0]


def test_examples__are_small_images() -> None:
    items = examples()["items"]
    assert len(items) >= 8
    assert all(max(image_of(item["image"]).size) <= 200 for item in items)


def test_spell_decibels__knows_equal_images() -> None:
    assert spell_decibels(float("inf")) == "infinite"
    assert spell_decibels(20.25) == "20.2 dB"


def test_center_of__is_in_patches() -> None:
    localization = torch.zeros(1, 6, 2)
    localization[0, 5, 1] = 1.0
    localization[0, :5, 0] = 1.0
    assert center_of(StellarEncoding(torch.zeros(1, 2, 3), localization, (2, 3)), 1) == (1.0, 2.0)
