"""What a person sees of a run: plain lines or bars, the time that is left, the table at the end."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mlpipeline.backends.local import display as displays
from mlpipeline.backends.local.display import Display, summary
from mlpipeline.plan.config import parse
from mlpipeline.plan.pipeline import VERIFY, Task, plan
from mlpipeline.runs.report import evidence
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.run import Run
from support.fabricated_run import fabricate

CONFIG = parse({"name": "shirts", "candidates": {"cnn": {"model": "cnn"}}}, origin="")
TYPICAL = sum(task.step.typical_seconds for task in plan(CONFIG).values())


class Screen:
    """A display on a made-up console, at a time that the test sets."""

    def __init__(self, *, terminal: bool) -> None:
        self.tasks: dict[str, Task] = plan(CONFIG)
        self.now = 1_000.0
        self.output = io.StringIO()
        # `force_interactive`: rich draws bars on a terminal only where TERM allows it.
        self.console = Console(
            file=self.output, force_terminal=terminal, force_interactive=terminal, width=120
        )
        self.display = Display(self.tasks, self.console)

    def advance(self, task: str, done: int, total: int, **facts: str) -> None:
        values = {"done": str(done), "total": str(total)} | facts
        self.display.advance(self.tasks[task], values)

    def finish(self, task: str, state: str = "succeeded", note: str = "") -> None:
        self.display.finish(self.tasks[task], state, 1.0, note)

    @property
    def lines(self) -> list[str]:
        """All that was said so far, without colours."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.output.getvalue()).splitlines()

    @property
    def seconds_left(self) -> float:
        number, unit = re.findall(r"about (\d+) (s|min) left", self.lines[-1])[-1]
        return float(number) * {"s": 1, "min": 60}[unit]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """A log, as of a pod or a file."""
    screen = Screen(terminal=False)
    monkeypatch.setattr("mlpipeline.backends.local.display.time.monotonic", lambda: screen.now)
    with screen.display:
        yield screen


def test_plain_lines_say_what_began_how_far_it_is_and_how_it_ended(plain: Screen) -> None:
    plain.display.start(plain.tasks["ingest"])
    plain.now += 20
    plain.advance("ingest", 1, 4, accuracy="0.91", images_per_second="4000", other="hidden")
    plain.finish("ingest")

    assert len(plain.lines) == 3
    began, midway, ended = plain.lines
    assert began.startswith("… ingest: fetch the data set")
    assert midway.startswith("  ingest 25%  accuracy 0.91  images per second 4000  (about")
    assert ended == "✔ ingest                 succeeded     1.0 s"


def test_plain_lines_have_no_control_characters(plain: Screen) -> None:
    plain.display.start(plain.tasks["ingest"])
    plain.advance("ingest", 1, 2)
    plain.finish("ingest", "failed", "no data")
    assert "\x1b" not in plain.output.getvalue()
    assert "\r" not in plain.output.getvalue()


def test_plain_progress_is_not_said_too_often(plain: Screen) -> None:
    plain.display.start(plain.tasks["train-cnn"])
    said = []
    for step in range(1, 101):
        plain.now += 1
        before = len(plain.lines)
        plain.advance("train-cnn", step, 100)
        said.append(len(plain.lines) - before)
    assert 8 <= sum(said) <= 10


def test_before_anything_is_known_the_time_left_is_the_typical_one(plain: Screen) -> None:
    plain.display.start(plain.tasks["ingest"])
    assert plain.seconds_left == pytest.approx(TYPICAL, abs=30)


def test_the_time_left_shrinks_as_the_work_goes_on(plain: Screen) -> None:
    for name in ("ingest", "train-cnn", "select", "gate", "serve"):
        plain.finish(name, "reused")
    plain.display.start(plain.tasks["verify"])
    left = [plain.seconds_left]
    for quarter in (1, 2, 3, 4):
        plain.now += 15
        plain.advance("verify", quarter, 4)
        left.append(plain.seconds_left)
    assert left == [VERIFY.typical_seconds, 45, 30, 15, 0]  # a guess, then what the pace tells


def test_what_is_reused_takes_no_time(plain: Screen) -> None:
    plain.finish("train-cnn", "reused")
    plain.display.start(plain.tasks["ingest"])
    without_training = TYPICAL - plain.tasks["train-cnn"].step.typical_seconds
    assert plain.seconds_left == pytest.approx(without_training, abs=1)


def test_a_task_that_takes_longer_than_typical_has_no_time_left(plain: Screen) -> None:
    for name in ("ingest", "train-cnn", "select", "gate", "serve"):
        plain.finish(name, "reused")
    plain.display.start(plain.tasks["verify"])
    plain.now += 1_000
    plain.advance("verify", 0, 0)
    assert plain.lines[-1] == "  verify 0%"


@pytest.mark.parametrize(("seconds", "done"), [(20, 4), (200, 2), (2, 50)])
def test_the_beginning_of_a_task_says_nothing_of_the_time_left(
    plain: Screen, seconds: int, done: int
) -> None:
    plain.display.start(plain.tasks["train-cnn"])
    plain.now += seconds
    plain.advance("train-cnn", done, 100, loss="0.5")
    assert plain.lines[-1] == f"  train-cnn {done}%  loss 0.5"
    plain.display.start(plain.tasks["verify"])  # nor can another one's line say it
    assert "left" not in plain.lines[-1]
    plain.finish("verify")
    plain.now += 20
    plain.advance("train-cnn", 50, 100, loss="0.5")
    assert plain.seconds_left > 0


@pytest.mark.parametrize("state", ["succeeded", "reused", "failed", "skipped"])
def test_every_end_of_a_task_has_a_line_with_its_note(plain: Screen, state: str) -> None:
    plain.finish("ingest", state, "why")
    (line,) = plain.lines
    assert re.fullmatch(rf"\S ingest +{state} +1\.0 s  why", line)


@pytest.mark.parametrize("note", ["lost [/job:worker/replica:0/task:1]", "[op:MatMul] [red] [[x]]"])
def test_brackets_in_a_note_are_shown_as_they_are(plain: Screen, note: str) -> None:
    plain.finish("ingest", "failed", note)
    assert plain.lines[-1].endswith(note)


def test_brackets_in_a_progress_line_are_shown_as_they_are(plain: Screen) -> None:
    plain.display.start(plain.tasks["ingest"])
    plain.advance("ingest", 1, 2, epoch="[/1]")
    assert "epoch [/1]" in plain.lines[-1]


@pytest.mark.parametrize("reused", [(), ("ingest",)], ids=["first", "second"])
def test_on_a_terminal_a_task_has_a_bar_until_it_ends(reused: tuple[str, ...]) -> None:
    screen = Screen(terminal=True)
    bars = screen.display._progress
    with screen.display:
        for name in reused:
            screen.finish(name, "reused")
        screen.display.start(screen.tasks["train-cnn"])
        screen.advance("train-cnn", 1, 4, loss="0.5")
        (bar,) = bars.tasks
        assert (bar.description, bar.percentage) == ("train-cnn", 25)
        assert "loss 0.5" in bar.fields["facts"]
        screen.finish("train-cnn")
        assert bars.tasks == []  # also the first, whose number is 0
    assert any(line.startswith("✔ train-cnn") for line in screen.lines)


def test_a_terminal_is_left_with_its_cursor_when_a_run_fails() -> None:
    screen = Screen(terminal=True)
    with pytest.raises(ZeroDivisionError), screen.display:
        screen.advance("ingest", 1 // 0, 1)
    output = screen.output.getvalue()
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")


def _summary(workspace: Path, run: dict[str, Any]) -> dict[str, list[str]]:
    """The cells of the table's rows by candidate."""
    output = io.StringIO()
    Console(file=output, width=120).print(
        summary(evidence.collect(Workspace(workspace), Run.parse(run, origin="")))
    )
    _, *rows = output.getvalue().splitlines()
    return {row.split()[0]: re.split(r"\s{2,}", row.strip())[1:] for row in rows}


def test_the_table_has_every_candidate_and_the_test_accuracy_of_the_chosen_one(
    tmp_path: Path,
) -> None:
    run = fabricate(tmp_path)
    accuracy = run["verification"]["protocols"][0]["accuracy"]
    rows = _summary(tmp_path, run)
    assert list(rows) == ["cnn", "batch_norm", "dropout"]
    assert rows["batch_norm"][1:3] == ["92.93%", f"{accuracy:.2%}"]
    assert rows["batch_norm"][-1] == "chosen"
    assert rows["cnn"][-1] == "place 3 of 3, reused"
    assert rows["dropout"][-1] == "place 2 of 3"
    assert len(rows["cnn"]) == len(rows["batch_norm"]) - 1  # no test accuracy


def test_the_table_shows_a_candidate_that_failed_without_figures(tmp_path: Path) -> None:
    run = fabricate(tmp_path)
    run["tasks"][1].update(state="failed", error="out of memory")
    assert _summary(tmp_path, run)["cnn"] == ["training failed"]


@pytest.mark.parametrize("target", ["/dev/full", "a pipe that nobody reads", "closed"])
def test_a_display_that_cannot_be_written_to_ends_nothing(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if target == "/dev/full":
        stream = Path(target).open("w", encoding="ascii", errors="replace")  # noqa: SIM115
    else:
        reading, writing = os.pipe()
        stream = os.fdopen(writing, "w", encoding="ascii", errors="replace")
        os.close(reading)
    if target == "closed":
        with contextlib.suppress(OSError):
            stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    console = displays.console()
    with Display(plan(CONFIG), console) as display:
        for _ in range(3):
            display.say("… a line")
    stream.close()  # nothing is left in its buffer


def test_a_display_that_is_read_says_all(capsys: pytest.CaptureFixture[str]) -> None:
    displays.console().print("a line")
    assert capsys.readouterr().out == "a line\n"


@pytest.mark.parametrize("columns", ["0", "1", "-1", "many", ""])
def test_a_terminal_may_say_any_width(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    console = displays.console()
    with Display(plan(CONFIG), console) as display:
        display.say("a line that is long")
    assert "a line that is long" in capsys.readouterr().out
