"""The errors: their text, their exit status, and the tree that the module's head draws."""

from __future__ import annotations

import re
import signal

from mlpipeline import errors
from mlpipeline.errors import RETRY_STATUS, PipelineError


def test_the_tree_that_is_drawn_is_the_tree_that_is_there() -> None:
    drawn = re.findall(r"^    [│├└─ ]*(\w+Error)( \*)?", errors.__doc__ or "", re.MULTILINE)
    there = list(_descend(PipelineError))
    assert [(name, bool(star)) for name, star in drawn] == [
        (kind.__name__, kind.exit_status == RETRY_STATUS) for kind in there
    ]


def test_what_is_tried_again_ends_as_sigterm_ends_a_process() -> None:
    assert RETRY_STATUS == 128 + signal.SIGTERM
    assert {kind.exit_status for kind in _descend(PipelineError)} == {1, RETRY_STATUS}


def test_the_message_says_got_expected_and_to_do() -> None:
    error = errors.ClusterError("a 403", expected="a right", remedy="grant it", status=403)
    assert str(error) == "a 403\n  expected: a right\n  to do:    grant it"
    assert (error.got, error.expected, error.remedy) == ("a 403", "a right", "grant it")
    assert error.status == 403


def _descend(kind: type[PipelineError]) -> list[type[PipelineError]]:
    below = [each for child in kind.__subclasses__() for each in _descend(child)]
    return [kind, *below] if kind.__module__ == errors.__name__ else below
