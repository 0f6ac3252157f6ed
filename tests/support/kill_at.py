"""Run the command line in a process that is killed when it comes to a certain call of a function.

    python kill_at.py MODULE:FUNCTION CALL [ARGUMENTS ...]

So it dies at a moment that no signal from outside would meet twice, such as between two files of a
checkpoint. Calls are counted from 1; it is killed before that call has any effect.
"""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import sys
from typing import Any

from mlpipeline.cli import app


def main() -> None:
    (module, _, name), call = sys.argv[1].partition(":"), int(sys.argv[2])
    place = importlib.import_module(module)
    function, calls = getattr(place, name), itertools.count(1)

    def killing(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    setattr(place, name, killing)
    sys.argv = ["mlpipeline", *sys.argv[3:]]
    app.main()


main()
