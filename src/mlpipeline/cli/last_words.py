"""What a pod says of its end: the error alone, which Kubernetes keeps with the container's status.

Argo shows it as the message of the step, and the operators' pods keep it when their log is long.
Without it one would read the last 2 KiB of the log: TensorFlow's notices, and half of a message.
https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
"""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path

from mlpipeline.backends.cluster.reasons import UNSAID as UNSAID

FILE = Path("/dev/termination-log")  # which the kubelet puts into every container, and nobody else
_MAX_BYTES = 4096  # of more it keeps the end
_END_BYTES = 1024  # of a longer text this much of its end stays: what to do


def begin() -> None:
    """Leave `UNSAID`, or the end of the log would be taken for the last words: others' notices.

    That is for steps of a workflow. Of a worker or a replica that is killed, the log is shown.
    """
    write(UNSAID)


def take_back() -> None:
    """Take `UNSAID` back: the step ends by itself."""
    with contextlib.suppress(OSError):
        if FILE.read_text(errors="replace") == UNSAID:
            FILE.write_text("")


def write(text: str, file: Path | None = None) -> None:
    """Leave a text as the last words of this container; elsewhere than in a pod do nothing.

    Args:
        text: What is to be said.
        file: Where it is written, if not to `FILE`.
    """
    file = file or FILE
    data = text.encode(errors="replace")
    if len(data) > _MAX_BYTES:
        cut = "\n…\n".encode()
        begin = data[: _MAX_BYTES - _END_BYTES - len(cut)].decode(errors="ignore").encode()
        data = begin + cut + data[-_END_BYTES:].decode(errors="ignore").encode()
    with contextlib.suppress(OSError):  # the text is in the log, too
        if file.exists():
            file.write_bytes(data)


def write_bug(error: Exception, file: Path | None = None) -> None:
    """Leave what an error without a remedy was, and where it was raised.

    Args:
        error: The error.
        file: Where it is written, if not to `FILE`.
    """
    what = "".join(traceback.format_exception_only(error)).strip()
    places = traceback.extract_tb(error.__traceback__)[-3:]
    lines = [f"    {place.filename}:{place.lineno} in {place.name}" for place in places]
    write(
        "\n".join(
            [
                f"error: a bug: {what}",
                *lines,
                "  expected: no error, or one that says what to do",
                "  to do:    report it, with the log: it has all of the traceback",
            ]
        ),
        file,
    )
