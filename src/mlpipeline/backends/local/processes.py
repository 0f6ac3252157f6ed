"""Processes of the local backend: started in a group of their own, followed, and always ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shlex
import signal
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TextIO

from mlpipeline import addresses, progress
from mlpipeline import environment as variables
from mlpipeline.errors import ProcessError

_GRACE_SECONDS = 15  # for a worker to save, or a replica to finish its requests
_LAST_LINES = 12
_LONGEST_LINE = 1 << 20


def python_m(arguments: Sequence[str]) -> list[str]:
    """Return the command of a process for a command line of `mlpipeline.plan.commands`."""
    return [sys.executable, "-m", "mlpipeline", *arguments]


class ExitError(ProcessError):
    """A process ended with another status than 0."""

    def __init__(
        self, command: Sequence[str], status: int, log: Path, last: Collection[str]
    ) -> None:
        """Say how a command ended.

        Args:
            command: The program and its arguments.
            status: Its exit status; a negative one is the number of the signal that ended it.
            log: The file with all of its output.
            last: The last lines of its output.
        """
        how = f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
        lines = "\n".join(f"    {line}" for line in last)
        super().__init__(
            f"this command ended with {how}:\n  {shlex.join(command)}\nits last lines:\n{lines}",
            expected="status 0",
            remedy=f"read the message above; all of its output is in {log}",
        )
        # As in a TFJob with `restartPolicy: ExitCode`: signals, and statuses that stand for one.
        self.can_be_retried = status < 0 or status >= 128


@asynccontextmanager
async def started(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    cpus: Collection[int] = (),
    on_progress: Callable[[dict[str, str]], None] = lambda _: None,
    on_output: Callable[[str], None] | None = None,
    grace_seconds: float = _GRACE_SECONDS,
    end_signal: Callable[[], int] = lambda: signal.SIGTERM,
) -> AsyncIterator[asyncio.Task[None]]:
    """Start a process and end it, with all that it started, when the body ends.

    Args:
        command: The program and its arguments.
        log: File that its output is added to.
        environment: Variables beside those of this process.
        cpus: Processors to keep it to, where the system can; all if empty.
        on_progress: Called with the values of every progress line.
        on_output: Called with every other line of its standard output. Standard error is then read
            apart: which of two lines that come at the same time is first in the log is not certain.
        grace_seconds: How long it may take to end when it is asked to.
        end_signal: Called for the number of the signal that asks it.

    Yields:
        A task that returns when the process ends with status 0, and raises `ExitError` otherwise.

    Raises:
        ProcessError: The system does not start it.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *variables.ends_with_us(),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE if on_output else asyncio.subprocess.STDOUT,
            env={**variables.of_children(), **(environment or {})},
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others
            limit=_LONGEST_LINE,
        )
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise ProcessError(
            f"this command cannot be started: {error}:\n  {shlex.join(command)[:1_000]}",
            expected="a program that is there, and arguments that the system takes",
            remedy="look for what the message names in the configuration or the event",
        ) from error
    if cpus and hasattr(os, "sched_setaffinity"):
        # Its threads, all of them started later, inherit this.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(process.pid, cpus)

    async def follow() -> None:
        assert process.stdout is not None
        last: deque[str] = deque(maxlen=_LAST_LINES)

        def take(line: str) -> None:
            if (values := progress.parse(line)) is not None:
                on_progress(values)
                return
            last.append(line)
            if on_output:
                on_output(line)

        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            reading = [_copy(process.stdout, file, take)]
            if process.stderr is not None:
                reading.append(_copy(process.stderr, file, last.append))
            await asyncio.gather(*reading)
        if status := await process.wait():
            raise ExitError(command, status, log, last)

    following = asyncio.create_task(follow())
    sweeping = asyncio.create_task(_sweep(process))
    try:
        yield following
    finally:
        await _end(process, following, sweeping, grace_seconds, end_signal())


async def run(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    cpus: Collection[int] = (),
    on_progress: Callable[[dict[str, str]], None] = lambda _: None,
    on_output: Callable[[str], None] | None = None,
    grace_seconds: float = _GRACE_SECONDS,
) -> None:
    """Run a process to its end; the arguments are those of `started`.

    Args:
        command: The program and its arguments.
        log: File that its output is added to.
        environment: Variables beside those of this process.
        cpus: Processors to keep it to, where the system can; all if empty.
        on_progress: Called with the values of every progress line.
        on_output: Called with every other line of its standard output.
        grace_seconds: How long it may take to end when it is asked to.

    Raises:
        ExitError: It ended with another status than 0.
        ProcessError: The system does not start it.
    """
    async with started(
        command,
        log=log,
        environment=environment,
        cpus=cpus,
        on_progress=on_progress,
        on_output=on_output,
        grace_seconds=grace_seconds,
    ) as following:
        await following


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises one error by itself, not in a group: the one that says the most.

    When one fails, the others are ended; a worker that only lost its peer says less than the one
    that failed by itself.
    """
    failures: tuple[Exception, ...] = ()
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except* Exception as errors:
        failures = errors.exceptions
    if failures:  # raised here, because Python before 3.11.4 makes a group of it in `except*`
        raise min(failures, key=lambda e: getattr(e, "can_be_retried", False))


async def _copy(stream: asyncio.StreamReader, file: TextIO, take: Callable[[str], object]) -> None:
    """Add the lines of a stream to a log, and hand each on."""
    async for line in _lines(stream):
        file.write(f"{line}\n")
        file.flush()
        take(line)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """The lines of a stream; one that is longer than the stream's limit comes in pieces."""
    while True:
        try:
            raw = await stream.readuntil()
        except asyncio.LimitOverrunError as error:
            raw = await stream.readexactly(error.consumed)
        except asyncio.IncompleteReadError as error:  # the end, perhaps without a line's
            raw = error.partial
        if not raw:
            return
        yield raw.decode(errors="replace").rstrip()


async def _sweep(process: asyncio.subprocess.Process) -> None:
    """When the process itself has ended, end what it left: that may hold its output open.

    `process.wait` is no help, because it waits for the end of the output, too.
    """
    while process.returncode is None:
        await asyncio.sleep(0.1)
    _signal_group(process, signal.SIGKILL)


async def _end(
    process: asyncio.subprocess.Process,
    following: asyncio.Task[None],
    sweeping: asyncio.Task[None],
    grace_seconds: float,
    end_signal: int,
) -> None:
    """Ask the process to end, insist after a while or at a second Ctrl-C, take its last output."""
    try:
        _signal_group(process, end_signal)
        await asyncio.wait([following, sweeping], timeout=grace_seconds)
    finally:
        _signal_group(process, signal.SIGKILL)
        # At a second Ctrl-C, too: or the event loop may close before it has seen the process end.
        await asyncio.wait([following, sweeping], timeout=1)
        following.cancel()
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError, ProcessError):
            await following


def _signal_group(process: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Hold a port for processes that are going to share it with SO_REUSEPORT.

    The socket is bound but does not listen, so it gets no connections itself.

    Raises:
        ProcessError: Something else uses the port.
    """
    with ExitStack() as stack:
        try:
            family, address = addresses.resolve(host, port)
            # Without SO_REUSEPORT first: with it, the port of another program that sets it too
            # would seem free, and that program would get a part of the requests.
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen()
            # This refuses a port whose last connections, of a program that ended, are not over.
            holder = stack.enter_context(socket.socket(family))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind(address)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise ProcessError(
                    f"{host} cannot be listened on: {error.strerror or error}",
                    expected="an address that this machine has, or a name of one",
                    remedy="mend serving.host: `localhost`, or an address that `ip addr` lists",
                ) from error
            raise ProcessError(
                f"port {port} of {host} cannot be used: {error.strerror or error}",
                expected="a free port of an address that this machine has",
                remedy=f"stop what uses it (`ss -tanp 'sport = :{port}'`), or choose another port",
            ) from error
        yield port
