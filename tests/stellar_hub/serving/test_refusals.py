"""Errors as answers."""

import errno

import pytest

pytest.importorskip("prometheus_client")  # of the extra `serve`

from stellar_hub.modeling.image_loading import UnreadableImageError
from stellar_hub.serving.refusals import MAX_MESSAGE, Refusal, faults_of_the_request, refusal_of


def test_refusal__is_one_line_without_secrets() -> None:
    refusal = Refusal(400, "bad\n\x1b[31m https://me:secret@host/a?key=1 " + "x" * 5000)
    assert refusal.message.isprintable()
    assert "secret" not in refusal.message
    assert len(refusal.message) <= MAX_MESSAGE
    assert refusal.body["error"]["type"] == "invalid_request_error"


def test_refusal__says_when_to_try_again() -> None:
    assert Refusal(429, "full").headers["retry-after"] == "1"
    assert "retry-after" not in Refusal(400, "wrong").headers


def test_faults_of_the_request__are_400_and_a_full_machine_is_not() -> None:
    with pytest.raises(Refusal, match=r"a\.png") as caught, faults_of_the_request():
        raise UnreadableImageError("a.png cannot be read")
    assert caught.value.status == 400
    with pytest.raises(MemoryError), faults_of_the_request():
        raise MemoryError


@pytest.mark.parametrize(
    ("error", "status"),
    [(MemoryError(), 503), (OSError(errno.EMFILE, "too many"), 503), (KeyError("x"), 500), (Refusal(413, "x"), 413)],
)
def test_refusal_of__tells_the_machine_from_a_mistake(error: Exception, status: int) -> None:
    assert refusal_of(error).status == status


def test_refusal_of__keeps_what_nobody_expected_out_of_the_answer() -> None:
    assert "/etc" not in refusal_of(RuntimeError("/etc/secret")).message
