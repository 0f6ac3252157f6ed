"""What a person sees of a run: progress on a terminal or plain lines, and a table at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Self, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from mlpipeline.plan.pipeline import Task

if TYPE_CHECKING:  # the report's modules import matplotlib
    from mlpipeline.runs.report.evidence import Evidence

_NARROWEST = 20
_PLAIN_INTERVAL_SECONDS = 10
_TELLING_SHARE, _TELLING_SECONDS = 0.05, 3
_SHOWN = ("epoch", "loss", "accuracy", "test_accuracy", "images_per_second")
_SYMBOLS = {
    "succeeded": "[green]✔[/]",
    "reused": "[cyan]↺[/]",
    "failed": "[red]✘[/]",
    "skipped": "[dim]-[/]",
}


class _LastingStream:
    """A stream that is given up, without an error, once it cannot be written to.

    The disk may be full, or the other end of a pipe gone, as after `make run | head`: the run goes
    on all the same, and its record and its report say what it did.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._given_up():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._given_up():
            self._stream.flush()

    @contextmanager
    def _given_up(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: it is closed
            with suppress(OSError, ValueError):  # what is left in its buffer goes nowhere
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


def console() -> Console:
    """Return where a person sees a run: standard output, as long as somebody reads it."""
    made = Console(highlight=False, file=cast("IO[str]", _LastingStream(sys.stdout)))
    if made.width < _NARROWEST:  # a terminal that does not know its size says 0
        made.width = 80
    return made


class Display:
    """Shows the tasks of a run and how long it is still going to take."""

    def __init__(self, tasks: Mapping[str, Task], console: Console) -> None:
        """Show nothing yet.

        Args:
            tasks: All of the run's tasks, in order.
            console: Where to show them: a terminal gets bars that move, all else plain lines.
        """
        self._console = console
        self._waiting = dict(tasks)
        self._bars: dict[str, TaskID] = {}
        self._running: dict[str, tuple[Task, float]] = {}  # with the time it was started
        self._shares: dict[str, float] = {}
        self._printed = 0.0
        self._progress = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[facts]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> Self:
        """Begin to show."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bars off the terminal."""
        self._progress.stop()

    def start(self, task: Task) -> None:
        """Show that a task has begun."""
        self._waiting.pop(task.name, None)
        self._running[task.name] = (task, time.monotonic())
        self._shares[task.name] = 0.0
        self._bars[task.name] = self._progress.add_task(
            task.name, total=1.0, facts=task.step.purpose
        )
        if not self._console.is_terminal:
            self.say(f"… {task.name}: {task.step.purpose}{self._time_left(' ({})')}")

    def advance(self, task: Task, values: Mapping[str, str]) -> None:
        """Show a progress line of a step.

        Args:
            task: The task that the step does.
            values: What the line says, as `progress.parse` returns it.
        """
        share = float(values["done"]) / max(1.0, float(values["total"]))
        self._shares[task.name] = share
        facts = "  ".join(
            f"{k.replace('_', ' ')} {escape(values[k])}" for k in _SHOWN if k in values
        )
        left = self._time_left("  [dim]{}[/]")
        self._progress.update(self._bars[task.name], completed=share, facts=f"{facts}{left}")
        now = time.monotonic()
        if not self._console.is_terminal and now - self._printed > _PLAIN_INTERVAL_SECONDS:
            self._printed = now
            shown = f"  {task.name} {share:.0%}  {facts}".rstrip()
            self.say(shown + self._time_left("  ({})"))

    def finish(self, task: Task, state: str, seconds: float, note: str = "") -> None:
        """Show that a task has ended.

        Args:
            task: The task.
            state: What became of it: `succeeded`, `reused`, `failed` or `skipped`.
            seconds: How long it took.
            note: Why it failed, for example, or what of the user's own is as it was.
        """
        self._waiting.pop(task.name, None)
        self._running.pop(task.name, None)
        if (bar := self._bars.pop(task.name, None)) is not None:
            self._progress.remove_task(bar)
        # A note may hold a step's own output, with brackets that are no markup: [/job:worker/...].
        line = f"{_SYMBOLS[state]} {task.name:<22} {state:<10} {seconds:6.1f} s  {escape(note)}"
        self.say(line.rstrip())

    def say(self, text: str) -> None:
        """Show a line of text above the bars."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def _time_left(self, form: str) -> str:
        """Return the time left in a form, or nothing while nobody can know it."""
        seconds = sum(task.step.typical_seconds for task in self._waiting.values())
        for task, started in self._running.values():
            elapsed, share = time.monotonic() - started, self._shares[task.name]
            # At first it prepares, or has only done what is quick: that says nothing of its pace.
            if share >= _TELLING_SHARE and elapsed >= _TELLING_SECONDS:
                expected = elapsed / share
            elif share > 0 or elapsed > task.step.typical_seconds:
                return ""
            else:
                expected = task.step.typical_seconds
            seconds += max(0.0, expected - elapsed)
        return form.format(
            f"about {seconds:.0f} s left" if seconds < 100 else f"about {seconds / 60:.0f} min left"
        )


def summary(found: Evidence) -> Table:
    """Return the table that a run ends with: what became of each candidate."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("candidate")
    for heading in ("parameters", "validation", "test", "trained in"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for candidate in found.candidates:
        metrics = candidate.metrics
        reused = "reused" if candidate.task.state == "reused" else ""
        test = found.decision.test.accuracy if found.decision and candidate.chosen else None
        table.add_row(
            candidate.name,
            f"{metrics.parameters:,}" if metrics else "",
            _percent(metrics.validation_accuracy if metrics else None),
            _percent(test),
            f"{metrics.seconds:.0f} s" if metrics and metrics.seconds is not None else "",
            ", ".join(filter(None, [candidate.verdict, reused, candidate.distinction])),
            style="bold" if candidate.chosen else "",
        )
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
