"""A deadline that holds even where Python cannot run.

While TensorFlow waits for a peer inside the constructor of its strategy it holds the GIL and
swallows SIGTERM, for up to an hour. So the deadline is the kernel's: SIGALRM with its default
action ends the process, whatever it is doing, with a status above 128, which a TFJob's
`restartPolicy: ExitCode` takes as "try again". (Process 1 of a container ignores it: run under an
init, such as tini.)
"""

from __future__ import annotations

import faulthandler
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """End this process, with the stacks of its threads on stderr, unless the body ends in time."""
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # Prints all stacks from a thread of its own, without the GIL, just before the process ends.
    faulthandler.dump_traceback_later(seconds, exit=False, file=sys.stderr)
    signal.alarm(seconds + 1)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
