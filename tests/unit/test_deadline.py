"""The deadline: it ends a process that Python itself could not end, and no other."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from mlpipeline.learning.training.deadline import deadline

# `PyDLL` keeps the GIL while it calls: no Python code runs, not even a signal's handler.
STUCK = """
import ctypes, signal, threading
from mlpipeline.learning.training.deadline import deadline
signal.signal(signal.SIGTERM, lambda *_: None)
with deadline(1):
    print("begun", flush=True)
    ctypes.PyDLL(None).sleep(60)
"""


@pytest.mark.timeout(30)
def test_a_process_that_holds_the_gil_is_ended_and_shows_where_it_was() -> None:
    ran = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=25)
    assert ran.stdout == "begun\n"
    assert ran.returncode == -signal.SIGALRM
    assert 'File "<string>", line 7' in ran.stderr


def _alarm() -> float:
    """Seconds to this process's alarm, 0 for none."""
    return signal.getitimer(signal.ITIMER_REAL)[0]


@pytest.fixture
def handler() -> object:
    return signal.getsignal(signal.SIGALRM)


@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
def test_a_body_that_ends_in_time_leaves_no_alarm(handler: object, fails: bool) -> None:
    try:
        with deadline(100):
            assert 0 < _alarm() <= 101
            assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert _alarm() == 0
    assert signal.getsignal(signal.SIGALRM) is handler
