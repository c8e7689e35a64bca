"""What a server answers instead of a result: a status, and one sentence without anything of the machine in it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stellar_hub.modeling.image_loading import is_fault_of_machine
from stellar_hub.modeling.safe_text import mask_secrets, one_line

MAX_MESSAGE = 600  # characters
RETRY_SECONDS = 1

# The names that OpenAI's clients know.
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}

_logger = logging.getLogger(__name__)


class Refusal(Exception):  # noqa: N818  # it is an answer
    """An answer that is no result.

    Args:
        status: HTTP status.
        message: What is wrong, what is allowed, and what to do next.
        headers: Headers of the answer.
    """

    def __init__(self, status: int, message: object, headers: dict[str, str] | None = None):
        text = one_line(mask_secrets(str(message)), MAX_MESSAGE)
        super().__init__(text)
        self.status = status
        self.message = text
        self.headers = headers or {}
        if status in (429, 503):
            self.headers = {"retry-after": str(RETRY_SECONDS), **self.headers}

    @property
    def body(self) -> dict[str, Any]:
        """The error as OpenAI's API writes it."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": None, "code": None}}


@contextmanager
def faults_of_the_request(status: int = 400) -> Iterator[None]:
    """Makes the errors of a block that reads what somebody sent a `Refusal`; a full machine stays the machine's fault.

    Args:
        status: HTTP status of the answer.
    """
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        if is_fault_of_machine(error):
            raise
        raise Refusal(status, _sentence(error)) from error
    except RecursionError as error:
        raise Refusal(status, "the request is nested too deeply") from error


def refusal_of(error: Exception) -> Refusal:
    """Returns the answer for an error. One that nobody expects is logged, and the answer has its type alone."""
    if isinstance(error, Refusal):
        return error
    if is_fault_of_machine(error) or "out of memory" in str(error):
        _logger.error("the server ran out of memory: %s", one_line(error))
        return Refusal(503, "the server has no memory for this now: send fewer or smaller images, or try again later")
    _logger.error("a request failed", exc_info=error)
    return Refusal(500, f"this failed ({type(error).__name__}); the log of the server has more")


def _sentence(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text or type(error).__name__
