"""Log lines: plain for a person at a terminal, structured elsewhere."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator

import pytest

from mlpipeline import logs
from mlpipeline.errors import ConfigurationError

_log = logging.getLogger("mlpipeline.test_logs")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("mlpipeline")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_a_structured_line_says_when_how_grave_and_whose() -> None:
    stream = io.StringIO()
    logs.configure(step="train", candidate="cnn", stream=stream)
    _log.warning('resuming at step %d of "all"', 200)
    time, rest = stream.getvalue().split(" ", 1)
    assert time.startswith("time=20")
    message = 'msg="resuming at step 200 of \\"all\\""'
    assert rest == f"level=WARNING {message} step=train candidate=cnn\n"


def test_many_lines_stay_one_record() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)
    _log.info("first\nsecond")
    assert stream.getvalue().count("\n") == 1


def test_a_person_reads_plain_lines() -> None:
    stream = io.StringIO()
    logs.configure(form="text", stream=stream)
    _log.info("resuming")
    _log.warning("a GPU is not used")
    assert stream.getvalue() == "resuming\nwarning: a GPU is not used\n"


def test_libraries_warn_through_it_and_chat_is_left_out() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)
    logging.getLogger("some.library").info("chat")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("soon gone", UserWarning, stacklevel=1)
    assert "chat" not in stream.getvalue()
    assert "soon gone" in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("debug", ["DEBUG", "INFO", "WARNING", "ERROR"]),
        ("", ["INFO", "WARNING", "ERROR"]),
        ("Warning", ["WARNING", "ERROR"]),
        ("error", ["ERROR"]),
    ],
)
def test_the_environment_sets_the_least_level(text: str, written: list[str]) -> None:
    stream = io.StringIO()
    logs.configure(stream=stream, environment={logs.LEVEL_VARIABLE: text})
    for level in ("DEBUG", "INFO", "WARNING", "ERROR"):
        _log.log(logging.getLevelName(level), "said")
    assert re.findall(r"level=(\w+)", stream.getvalue()) == written


def test_warnings_can_be_left_out() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream, environment={logs.LEVEL_VARIABLE: "error"})
    logging.getLogger("some.library").warning("soon gone")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("soon gone", UserWarning, stacklevel=1)
    assert stream.getvalue() == ""


def test_debugging_this_package_leaves_the_chatter_of_libraries_out() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream, environment={logs.LEVEL_VARIABLE: "debug"})
    logging.getLogger("some.library").info("chat")
    assert stream.getvalue() == ""


def test_without_standard_error_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)  # as Python has it where the descriptor is closed
    logs.configure()
    logging.getLogger("mlpipeline.example").error("nobody reads this")


def test_an_unknown_level_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="MLPIPELINE_LOG_LEVEL='loud'") as raised:
        logs.configure(environment={logs.LEVEL_VARIABLE: "loud"})
    assert raised.value.expected == "one of debug, info, warning, error"


def test_an_error_keeps_its_traceback_in_its_line() -> None:
    stream = io.StringIO()
    logs.configure(step="train", stream=stream)
    try:
        raise ValueError("broken")
    except ValueError:
        _log.exception("cannot go on")
    (line,) = stream.getvalue().splitlines()
    assert 'msg="cannot go on" step=train exc_info="Traceback' in line
    assert "ValueError: broken" in line
