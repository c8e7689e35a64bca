"""Text that comes from elsewhere (names in archives, configurations, addresses), made safe to show and to store."""

import difflib
import re
import unicodedata
from collections.abc import Iterable

MAX_SHOWN = 500  # characters

_USER = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/?#'\"]*@")
# Punctuation at the end belongs to the sentence around the address.
_QUERY = re.compile(
    r"(?P<address>\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s?#'\"]*)[?#][^\s'\"<>]*?(?P<end>[,;:.)\]}]*)(?=[\s'\"<>]|$)"
)


def escape_control(text: str) -> str:
    r"""Returns text in which characters that steer a terminal or hide text are written out, such as `\x1b`.

    These are control characters, invisible format characters (such as those that reverse the direction of writing),
    line separators, and the lone surrogates by which Python keeps bytes that are not UTF-8.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) if _is_unsafe(character) else character for character in text)


def one_line(text: object, max_length: int = MAX_SHOWN) -> str:
    """Returns a text on one line, without control characters and cut to a length.

    Args:
        text: The text, or an object such as an error whose text is taken.
        max_length: Largest number of characters; longer texts are cut in the middle.
    """
    line = escape_control(" ".join(str(text).split()))
    if len(line) > max_length:
        half = (max_length - 5) // 2
        line = f"{line[:half]} ... {line[-half:]}"
    return line


def mask_secrets(text: str) -> str:
    """Returns text in which the addresses show neither user and password nor what follows "?" or "#".

    `https://me:secret@host/a.tar?signature=abc` becomes `https://***@host/a.tar?***`.
    """
    return _QUERY.sub(r"\g<address>?***\g<end>", _USER.sub(r"\g<scheme>***@", text))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns "; did you mean 'a' or 'b'?" with the two known names spelled most like `name`, or "" without any.

    Private names are not suggested. A name that differs in case, "-" and "_" alone is suggested alone.
    """
    public = [other for other in known if not other.startswith("_")]
    same = [other for other in public if _plain(other) == _plain(name)]
    close = same[:1] or difflib.get_close_matches(name, public, n=2)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def refuse_keywords(where: str, names: Iterable[str], known: Iterable[str], note: str = "") -> None:
    """Raises TypeError for the first keyword that is not known, and would have no effect.

    Args:
        where: What was called, such as "save_pretrained"; it begins the message.
        names: Keywords that were passed.
        known: Keywords that are allowed.
        note: What to say about a keyword that is like none of the known ones.
    """
    known = list(known)
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or note
            raise TypeError(f"{where} got an unexpected keyword argument {one_line(repr(name), 100)}{hint}")


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-")


def _is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
