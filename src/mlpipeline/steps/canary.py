"""Step `canary`: have the current version's replicas try another one, and judge what comes of it.

It gives the order (`serving.orders` follows it), hears what every replica counts, and ends the
trial once `plan.rollout` knows enough, or its time is up. Who starts the other version's replica,
and looks whether it lives, is told from outside.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mlpipeline import addresses, progress
from mlpipeline.errors import ArtifactError, DamagedArtifactError, ServingError, StoppedError
from mlpipeline.plan import rollout
from mlpipeline.plan.config import Rollout, Trial
from mlpipeline.plan.rollout import State
from mlpipeline.store import history
from mlpipeline.store.layout import Workspace
from mlpipeline.store.leases import Lease
from mlpipeline.store.schemas.rollout import (
    Mode,
    RolloutTable,
    TrialFigures,
    TrialOrder,
    TrialTable,
)

_log = logging.getLogger(__name__)

TURN_SECONDS = 0.5
"""How often figures are looked at."""
ANSWER_SECONDS = 20.0
"""How long replicas may take to say that they have heard an order."""
LONGEST_WAIT_SECONDS = 2 * 3_600.0 + 600  # two trials of an hour, and what is around them
_LAST_SECONDS = 2.0  # what is under way when an order ends
_MOST_BYTES = 100_000  # of a report
_SPARE_SECONDS = 30.0  # an order outlives its time by so much, if nobody ends it


@dataclass(frozen=True)
class Contest:
    """Which version is to take the place of which, and where both are.

    Attributes:
        workspace: The folder of all artifacts.
        name: What the model is called.
        champion: The current version, whose replicas serve.
        challenger: The version that is tried.
        address: Where a replica of that one answers, HOST:PORT of REST.
        only_shadow: Why the challenger may answer nobody; empty where it may.
        is_served: Whether it is certain that somebody serves the champion: then it is no good sign
            if no replica of it is heard.
        find_fault: Returns what is wrong with the challenger's replica; empty for nothing.
    """

    workspace: Workspace
    name: str
    champion: str
    challenger: str
    address: str
    only_shadow: str = ""
    is_served: bool = False
    find_fault: Callable[[], str] = lambda: ""


@dataclass(frozen=True)
class _Ended:
    """Why a trial has ended before it was judged by its figures; nothing of it for all others."""

    fault: str = ""
    untried: str = ""
    nobody: str = ""


def conduct(
    settings: Rollout,
    contest: Contest,
    *,
    who: str,
    listen: str = "127.0.0.1",
    port: int = 0,
    stop: threading.Event | None = None,
) -> RolloutTable:
    """Try a version as the configuration asks for, and say whether it may be served.

    Args:
        settings: What is asked for.
        contest: Which version, and in whose place.
        who: What this process calls itself, such as the name of its run.
        listen: The address of this host at which replicas can reach it.
        port: The port at which it hears them; 0 for any that is free.
        stop: Set when this process is told to end.

    Raises:
        ServingError: Another run tries a version of the model, and does not end.
        StoppedError: This process was told to end; nothing is tried any more.
    """
    stop = stop or threading.Event()
    lease = Lease(contest.workspace.trial_lease(contest.name), who)
    _wait_for_turn(lease, contest.name, stop)
    tables: list[TrialTable] = []
    ended = _Ended()
    try:
        with _listening(listen, port) as reports:
            for mode, trial in settings.trials:
                conductor = _Conductor(contest, settings, reports, lease, stop, bool(tables))
                state, ended = conductor.conduct(mode, trial)
                tables.append(state.table)
                _log.info("%s", _in_a_line(state.table))
                if ended != _Ended() or state.table.faults:
                    break
    finally:
        with contextlib.suppress(OSError):
            lease.release()
    if ended.nobody:
        return rollout.waved_through(contest.challenger, contest.champion, ended.nobody)
    return rollout.verdict(
        settings,
        contest.challenger,
        contest.champion,
        tables,
        fault=ended.fault,
        untried=ended.untried,
    )


def _wait_for_turn(lease: Lease, name: str, stop: threading.Event) -> None:
    """Wait until no other version of the model is tried."""
    end = time.monotonic() + LONGEST_WAIT_SECONDS
    while (holder := lease.take()) is not None:
        if stop.wait(1.0):
            raise StoppedError("this process was told to end")
        if time.monotonic() > end:
            raise ServingError(
                f"{holder} tries another version of `{name}`, and does not end",
                expected=f"that it is done within {LONGEST_WAIT_SECONDS:.0f} s",
                remedy="end that run, or wait for it; then run this one again",
            )


@dataclass(frozen=True)
class _Conductor:
    contest: Contest
    settings: Rollout
    reports: _Reports
    lease: Lease
    stop: threading.Event
    was_heard: bool
    """Whether an earlier trial was: then somebody serves."""

    def conduct(self, mode: Mode, trial: Trial) -> tuple[State, _Ended]:
        """Carry out one trial; return how it stands in the end."""
        is_shadow = mode == "shadow" or self.contest.only_shadow
        if mode == "canary" and is_shadow:
            _log.warning("canary: answers stay the current version's: %s", self.contest.only_shadow)
        order = TrialOrder(
            token=uuid.uuid4().hex,
            mode="shadow" if is_shadow else "canary",
            champion=self.contest.champion,
            challenger=self.contest.challenger,
            address=self.contest.address,
            share=trial.share,
            timeout_seconds=self.settings.timeout_seconds,
            until=time.time() + ANSWER_SECONDS + trial.seconds + _SPARE_SECONDS,
            report_to=self.reports.address,
        )
        file = self.contest.workspace.trial_order(self.contest.name)
        self.reports.expect(order.token)
        order.save(file)
        try:
            began, ended = self._until_judged(order.mode, trial)
        finally:
            file.unlink(missing_ok=True)
        # They stop, and say what came of the last ones.
        time.sleep(_LAST_SECONDS + self.settings.timeout_seconds)
        state = self._state(order.mode, trial, began)
        if ended == _Ended() and not state.table.faults:
            ended = _Ended(untried=state.untried)
        return state, ended

    def _until_judged(self, mode: Mode, trial: Trial) -> tuple[float, _Ended]:
        """Wait for the end of a trial; return when it began, and why it ends before its time."""
        ordered = time.monotonic()
        began = 0.0
        while not (began and time.monotonic() - began >= trial.seconds):
            if self.stop.wait(TURN_SECONDS):
                raise StoppedError("this process was told to end")
            self.lease.touch()
            if fault := self._fault():
                return began, _Ended(fault=fault)
            if not began and self.reports.figures:
                began = time.monotonic()
            if not began:
                if time.monotonic() - ordered > ANSWER_SECONDS:
                    return began, self._nobody()
                continue
            state = self._state(mode, trial, began)
            progress.report(
                min(int(state.table.seconds), int(trial.seconds)),
                max(int(trial.seconds), 1),
                doing=mode,
                tried=state.table.tried,
            )
            if state.is_conclusive:
                break
        return began, _Ended()

    def _nobody(self) -> _Ended:
        champion = self.contest.champion
        if not self.contest.is_served and not self.was_heard:
            return _Ended(nobody=f"not tried: nobody serves {champion} here")
        return _Ended(
            untried=f"no replica of {champion} has heard of it within {ANSWER_SECONDS:.0f} s: "
            "perhaps an older release serves it"
        )

    def _fault(self) -> str:
        if fault := self.contest.find_fault():
            return fault
        with contextlib.suppress(DamagedArtifactError):
            found = history.pointed_at(self.contest.workspace, self.contest.name)
            if found != self.contest.champion:
                return f"{found} has become current meanwhile"
        return ""

    def _state(self, mode: Mode, trial: Trial, began: float) -> State:
        seconds = time.monotonic() - began if began else 0.0
        figures = list(self.reports.figures.values())
        return rollout.assess(trial, mode, figures, seconds=min(seconds, trial.seconds))


@dataclass
class _Reports:
    """What replicas have said last, by what they call their count.

    Attributes:
        address: Where they say it, HOST:PORT.
        figures: What they have said.
    """

    address: str = ""
    figures: dict[str, TrialFigures] = field(default_factory=dict)
    _token: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, token: str) -> None:
        """Begin anew, with another order."""
        self._token, self.figures = token, {}

    def take(self, token: str, body: bytes) -> HTTPStatus:
        """Take a report; return the status to answer it with."""
        if not token or token != self._token:
            return HTTPStatus.NOT_FOUND
        try:
            figures = TrialFigures.parse(json.loads(body), origin="a report")
        except (ValueError, ArtifactError):
            return HTTPStatus.BAD_REQUEST
        with self._lock:
            self.figures = self.figures | {figures.id: figures}
        return HTTPStatus.NO_CONTENT


@contextmanager
def _listening(host: str, port: int) -> Iterator[_Reports]:
    """Hear what replicas report while the body runs."""
    reports = _Reports()

    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0

        def do_POST(self) -> None:
            length = self.headers.get("content-length", "")
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            if length.isdecimal() and int(length) <= _MOST_BYTES:
                status = reports.take(self.path.lstrip("/"), self.rfile.read(int(length)))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody wants a line for each report."""

    with ThreadingHTTPServer((host, port), Handler) as server:
        reports.address = addresses.join(host, server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield reports
        finally:
            server.shutdown()
            thread.join()


def _in_a_line(table: TrialTable) -> str:
    said = "; ".join(table.faults) or "nothing against it"
    return (
        f"{table.mode}: {table.tried} of {table.requests} requests in {table.seconds:g} s by "
        f"{len(table.replicas)} replicas: {said}"
    )
