"""The Python that does what the page did."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from stellar_hub.app import session as steps
from stellar_hub.app.desk import Desk
from stellar_hub.app.edits import Placement
from stellar_hub.app.session import Session

STEPS = {
    "nothing": lambda s: s,
    "drop": steps.drop,
    "keep": steps.keep,
    "mirror": partial(steps.mirror, axis="vertical"),
    "place": partial(steps.set_placement, placement=Placement(1.25, -0.5, 1.4)),
    "transplant": partial(steps.transplant, at_place=True, replaces=False),
    "replace": partial(steps.transplant, at_place=False, replaces=True),
    "several": lambda s: steps.mirror(steps.drop(steps.choose(steps.move(s, 1, 0), 3)), "horizontal"),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_code__makes_what_the_page_shows(
    step: Callable[[Session], Session],
    desk: Desk,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / photo.name).write_bytes(photo.read_bytes())
    session = desk.upload(desk.example_second(Session(desk.models.names[0]), "otters.jpg"), photo)
    session = step(steps.choose_at(session, 1, 1))
    code = desk.view(session).code
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    encoding = names["encoding"]
    torch.testing.assert_close(encoding[0], session.encoding.semantics, rtol=1e-5, atol=1e-5)  # type: ignore[index]
    torch.testing.assert_close(encoding[1], session.encoding.localization, rtol=1e-4, atol=1e-5)  # type: ignore[index]
    assert (tmp_path / "edited.png").is_file()


def test_code__has_names_of_files_as_text(desk: Desk, photo: Path) -> None:
    hostile = photo.with_name("a'); import os; os.abort() #.jpg")
    photo.rename(hostile)
    session = desk.upload(Session(desk.models.names[0]), hostile)
    code = desk.view(session).code
    assert repr(hostile.name) in code
    assert compile(code, "page", "exec").co_names.count("abort") == 0
