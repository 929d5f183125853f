"""Signal handlers that are set for the duration of a block."""

import signal
import threading

import pytest

from dali_mix._signals import handled


def test_handlers_are_restored_after_error():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    received = []
    with (
        pytest.raises(ZeroDivisionError),
        handled(lambda *args: received.append(args[0]), signal.SIGTERM, signal.SIGINT),
    ):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError
    assert received == [signal.SIGINT, signal.SIGTERM]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_handlers_are_not_set_in_other_threads():
    before, found = signal.getsignal(signal.SIGTERM), []

    def body():
        with handled(signal.SIG_IGN, signal.SIGTERM):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [before]
