import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.modeling.safe_text import did_you_mean, escape_control, mask_secrets, one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("photo.jpg", "photo.jpg"),
        ("café 日本 🙂", "café 日本 🙂"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\u202egpj.exe", r"a\u202egpj.exe"),
        ("caf\udce9.jpg", r"caf\xe9.jpg"),
        ("\ud800", r"\ud800"),
        ("\x9b1m", r"\x9b1m"),
        ("a\u2028b", r"a\u2028b"),
    ],
)
def test_escape_control__writes_out_what_steers_a_terminal(text: str, shown: str) -> None:
    assert escape_control(text) == shown


@given(st.text(st.characters()))
def test_one_line__is_one_printable_line_of_limited_length_that_utf_8_can_hold(text: str) -> None:
    line = one_line(text, 80)
    line.encode()
    assert len(line) <= 80
    assert len(line.splitlines()) <= 1
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host/a.tar?sig=abc", "https://***@host/a.tar?***"),
        ("https://token@host/a.tar", "https://***@host/a.tar"),
        ("stream:s3://bucket/a.tar", "stream:s3://bucket/a.tar"),
        ("no file https://h/x.tar?X=secret, and ftp://u:p@h/y", "no file https://h/x.tar?***, and ftp://***@h/y"),
        ("https://h/x.tar?a=1,2&sig=(secret);x", "https://h/x.tar?***"),
        ("(see https://h/x.tar#secret).", "(see https://h/x.tar?***)."),
        ("https://me:p@ss@host/a", "https://***@host/a"),
        ("['https://h/x.tar?X=secret']", "['https://h/x.tar?***']"),
        ("https://h/{000..127}.tar", "https://h/{000..127}.tar"),
        ("a?b photos/what?.jpg", "a?b photos/what?.jpg"),
    ],
)
def test_mask_secrets__hides_users_passwords_and_queries_of_addresses(text: str, shown: str) -> None:
    assert mask_secrets(text) == shown


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("licence", "; did you mean 'license'?"),
        ("Spatial-Temp", "; did you mean 'spatial_temp'?"),
        ("auto_class", ""),
    ],
)
def test_did_you_mean__suggests_public_names(name: str, hint: str) -> None:
    assert did_you_mean(name, ["license", "spatial_temp", "spatial_temps", "_auto_class"]) == hint
