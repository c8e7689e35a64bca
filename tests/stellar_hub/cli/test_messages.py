"""What commands print."""

import io
import sys

import pytest

from stellar_hub.cli.messages import announce_loading, let_streams_take_any_text, safe, say


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("photo.jpg", "photo.jpg"),
        ("日本.jpg", "日本.jpg"),
        ("a\x1b[2J\r\nb", r"a\x1b[2J\x0d\x0ab"),
        ("caf\udce9.jpg", r"caf\xe9.jpg"),
        ("from https://me:word@host/a.tar?key=1", "from https://***@host/a.tar?***"),
    ],
)
def test_safe__writes_out_what_steers_a_terminal_and_masks_secrets(text: str, printed: str) -> None:
    assert safe(text) == printed


@pytest.mark.parametrize(("rank", "lines"), [(None, ["loading my-model"]), ("0", ["loading my-model"]), ("1", [])])
def test_announce_loading__is_one_line_of_the_first_process(
    rank: str | None, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    announce_loading("my-model")
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()) == ("", lines)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_let_streams_take_any_text__never_fails(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    let_streams_take_any_text()
    say("日本 é \udce9")
    sys.stdout.write("日本 é \udce9")
    sys.stdout.flush()
    assert len(written.getvalue().splitlines()) == 2
