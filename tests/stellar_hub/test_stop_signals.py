"""Which signals are a second request to stop."""

from stellar_hub.stop_signals import ECHO, SignalCount


def test_signal_soon_after_the_first__is_the_same_request() -> None:
    count = SignalCount(iter([10.0, 10.0 + ECHO / 2, 10.0 + ECHO]).__next__)
    assert [count.add() for _ in range(3)] == [1, 0, 2]
