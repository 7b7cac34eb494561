"""Signals: raised at once, put off while something must be finished, never lost."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from wsitool.base.interrupt import STOP_SIGNALS, Interrupted, deferred, progress_on_stop, stoppable


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_raised_with_its_exit_code_and_the_progress(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, stoppable(), progress_on_stop(lambda: "1 of 2 slides done"):
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == 128 + number
    assert str(caught.value) == f"Stopped by {number.name}: 1 of 2 slides done"
    assert signal.getsignal(number) is before


def test_a_deferred_signal_waits_for_the_end_of_the_block() -> None:
    finished = False
    with pytest.raises(Interrupted), deferred() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        finished = True
    assert finished


def test_a_second_signal_does_not_wait() -> None:
    with pytest.raises(Interrupted) as caught, deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal must end the block")
    assert caught.value.number == signal.SIGINT


def test_an_inner_block_hands_its_signal_to_the_outer_one() -> None:
    finished = False
    with pytest.raises(Interrupted), deferred() as stop:
        with deferred():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        finished = True
    assert finished


def test_an_error_of_the_block_is_not_hidden_by_a_signal() -> None:
    with pytest.raises(ValueError, match="its own"), deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("its own")


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with deferred() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGTERM) is before
