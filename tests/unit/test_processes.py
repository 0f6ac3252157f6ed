"""Processes: followed line by line, ended with all that they started, and ports kept for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from mlpipeline.backends.local import processes
from mlpipeline.backends.local.processes import ExitError, free_ports, reserved_port, run, started
from mlpipeline.errors import ProcessError

pytestmark = pytest.mark.timeout(30)


def _shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def _run(tmp_path: Path, script: str) -> str:
    """Run a script to its end and return its log."""
    asyncio.run(run(_shell(script), log=tmp_path / "log"))
    return (tmp_path / "log").read_text()


def _fail(tmp_path: Path, script: str) -> ExitError:
    with pytest.raises(ExitError) as raised:
        _run(tmp_path, script)
    return raised.value


class Spoken:
    """What a process says in progress lines, to wait for."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._said = asyncio.Event()

    def __call__(self, values: dict[str, str]) -> None:
        self.values |= values
        self._said.set()

    async def pids(self) -> list[int]:
        async with asyncio.timeout(20):
            await self._said.wait()
        return [int(self.values[name]) for name in ("own", "child") if name in self.values]


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # gone before the open, or after it
        return False
    return state != "Z"  # whatever reaps orphans here may be slow to


async def _gone(*pids: int) -> None:
    """Return when none of them runs any more: a kill takes effect a moment after it is sent."""
    async with asyncio.timeout(5):
        while any(_is_running(pid) for pid in pids):
            await asyncio.sleep(0.01)


def test_a_process_that_succeeds_leaves_its_output_in_the_log(tmp_path: Path) -> None:
    assert _run(tmp_path, "echo out; echo err >&2; printf 'no end'") == "out\nerr\nno end\n"


def test_the_log_is_added_to(tmp_path: Path) -> None:
    _run(tmp_path, "echo first")
    assert _run(tmp_path, "echo second") == "first\nsecond\n"


def test_progress_lines_are_called_back_in_order_and_logged(tmp_path: Path) -> None:
    called: list[dict[str, str]] = []
    script = "echo progress done=1 total=2 loss=0.5; echo hello; echo progress done=2 total=2"
    asyncio.run(run(_shell(script), log=tmp_path / "log", on_progress=called.append))

    assert called == [{"done": "1", "total": "2", "loss": "0.5"}, {"done": "2", "total": "2"}]
    assert len((tmp_path / "log").read_text().splitlines()) == 3


def test_variables_are_added_to_those_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED", "a")
    command = _shell('echo "$INHERITED $ADDED"')
    asyncio.run(run(command, log=tmp_path / "log", environment={"ADDED": "b"}))
    assert (tmp_path / "log").read_text() == "a b\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_is_kept_to_its_processors(tmp_path: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    # It prints when its input ends: not before it is tied down.
    script = "import os, time; time.sleep(0.2); print(os.sched_getaffinity(0))"
    asyncio.run(run([sys.executable, "-c", script], log=tmp_path / "log", cpus=[cpu]))
    assert (tmp_path / "log").read_text() == f"{{{cpu}}}\n"


@pytest.mark.parametrize(
    ("script", "how", "can_be_retried"),
    [
        ("exit 1", "status 1", False),
        ("exit 127", "status 127", False),
        ("exit 143", "status 143", True),
        ("kill -9 $$", "signal SIGKILL", True),
        ("kill -ALRM $$", "signal SIGALRM", True),
    ],
)
def test_a_failure_says_how_and_whether_another_try_may_help(
    tmp_path: Path, script: str, how: str, can_be_retried: bool
) -> None:
    error = _fail(tmp_path, script)
    assert f"ended with {how}:\n  /bin/sh -c '{script}'" in error.got  # as it can be pasted
    assert error.can_be_retried == can_be_retried
    assert str(tmp_path / "log") in error.remedy


def test_a_failure_shows_the_last_lines_without_progress(tmp_path: Path) -> None:
    script = "seq 1 50; echo progress done=1 total=2; echo why; exit 1"
    _, _, last = _fail(tmp_path, script).got.partition("its last lines:\n")
    assert [line.strip() for line in last.splitlines()] == [str(n) for n in range(40, 51)] + ["why"]


@pytest.mark.parametrize("end", ["\\n", ""], ids=["line", "no-line"])
def test_output_longer_than_the_limit_of_a_line_is_followed(tmp_path: Path, end: str) -> None:
    size = 2 * processes._LONGEST_LINE + 17
    script = f"head -c {size} /dev/zero | tr '\\0' x; printf '{end}'; echo progress done=1 total=1"
    called: list[dict[str, str]] = []
    asyncio.run(run(_shell(script), log=tmp_path / "log", on_progress=called.append))

    assert (tmp_path / "log").read_text().count("x") == size
    assert called == ([{"done": "1", "total": "1"}] if end else [])


def test_output_that_is_not_utf8_is_followed(tmp_path: Path) -> None:
    assert _run(tmp_path, "printf 'caf\\351\\n\\377\\n'; echo on") == "caf\ufffd\n\ufffd\non\n"


def test_an_exception_of_the_callback_is_not_swallowed(tmp_path: Path) -> None:
    def refuse(values: dict[str, str]) -> None:
        raise ZeroDivisionError

    command = _shell("echo progress done=1 total=1; sleep 60")
    with pytest.raises(ZeroDivisionError):
        asyncio.run(run(command, log=tmp_path / "log", on_progress=refuse))


def test_a_log_that_cannot_be_written_ends_the_process(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(run(_shell("echo x; sleep 60"), log=Path("/dev/full")))


def test_a_process_that_ends_does_not_wait_for_what_it_left_behind(tmp_path: Path) -> None:
    async def follow() -> None:
        spoken = Spoken()
        command = _shell("sleep 60 & echo progress done=0 total=1 child=$!; exit 3")
        with pytest.raises(ExitError, match="status 3"):
            await run(command, log=tmp_path / "log", on_progress=spoken)
        await _gone(*await spoken.pids())

    asyncio.run(follow())


ALONE = "echo progress done=0 total=1 own=$$; exec sleep 60"
WITH_CHILD = "sleep 60 & echo progress done=0 total=1 own=$$ child=$!; wait"
STUBBORN = "trap '' TERM; " + WITH_CHILD.replace("wait", "wait; wait; sleep 60")


async def _until_ended_by_the_body(
    tmp_path: Path, script: str, body: Callable[[], Awaitable[None]]
) -> None:
    spoken = Spoken()
    pids: list[int] = []
    try:
        async with started(_shell(script), log=tmp_path / "log", on_progress=spoken) as following:
            pids += await spoken.pids()
            assert all(map(_is_running, pids))
            assert not following.done()
            await body()
    finally:
        assert following.done()  # its output and its end were seen, not only its death
        await _gone(*pids)


async def _nothing() -> None:
    pass


@pytest.mark.parametrize("script", [ALONE, WITH_CHILD], ids=["alone", "with-child"])
def test_a_process_is_ended_with_all_that_it_started_when_the_body_ends(
    tmp_path: Path, script: str
) -> None:
    asyncio.run(_until_ended_by_the_body(tmp_path, script, _nothing))


def test_a_process_is_ended_when_the_body_fails(tmp_path: Path) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(_until_ended_by_the_body(tmp_path, WITH_CHILD, fail))


def test_a_process_is_ended_when_the_body_is_cancelled(tmp_path: Path) -> None:
    async def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(_until_ended_by_the_body(tmp_path, WITH_CHILD, cancel))


def test_a_process_that_ignores_the_signal_is_killed_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.2)
    asyncio.run(_until_ended_by_the_body(tmp_path, STUBBORN, _nothing))


def test_a_second_interruption_kills_at_once(tmp_path: Path) -> None:
    async def interrupted_twice() -> None:
        loop = asyncio.get_running_loop()
        work = loop.create_task(_until_ended_by_the_body(tmp_path, STUBBORN, _nothing))
        loop.call_later(1.0, work.cancel)  # while it waits for the process to end by itself
        await work

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupted_twice())


def test_a_process_may_finish_its_work_when_it_is_ended(tmp_path: Path) -> None:
    script = "trap 'echo saved; exit 0' TERM; echo progress done=0 total=1 own=$$; sleep 60 & wait"
    asyncio.run(_until_ended_by_the_body(tmp_path, script, _nothing))
    assert (tmp_path / "log").read_text().splitlines()[-1] == "saved"


def test_a_process_is_asked_by_the_signal_that_is_said_when_it_is_to_end(tmp_path: Path) -> None:
    script = "trap 'echo asked; exit 0' USR1; echo progress done=0 total=1 own=$$; sleep 60 & wait"

    async def ended() -> None:
        spoken, signals = Spoken(), [signal.SIGTERM]
        async with started(
            _shell(script), log=tmp_path / "log", on_progress=spoken, end_signal=signals.pop
        ):
            await spoken.pids()
            signals[:] = [signal.SIGUSR1]

    asyncio.run(ended())
    assert (tmp_path / "log").read_text().splitlines()[-1] == "asked"


def test_a_process_that_ended_before_the_body_is_no_error_of_the_body(tmp_path: Path) -> None:
    async def body() -> str:
        async with started(_shell("exit 5"), log=tmp_path / "log") as following:
            await asyncio.wait([following])
            return "done"

    assert asyncio.run(body()) == "done"


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    # By the system, or by what is to start it.
    with pytest.raises(ProcessError, match="no-such-program"):
        asyncio.run(run(["no-such-program"], log=tmp_path / "log"))


@pytest.mark.parametrize("argument", ["a\0b", "x" * 200_000], ids=["null", "long"])
def test_an_argument_that_the_system_does_not_take_is_an_error(
    tmp_path: Path, argument: str
) -> None:
    with pytest.raises(ProcessError, match="cannot be started"):
        asyncio.run(run(["true", argument], log=tmp_path / "log"))


def test_free_ports_are_different_and_can_be_used() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(socket.create_server(("127.0.0.1", port)))


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def _bound(port: int, option: int | None = None) -> socket.socket:
    other = socket.socket()
    if option is not None:
        other.setsockopt(socket.SOL_SOCKET, option, 1)
    try:
        other.bind(("127.0.0.1", port))
    except OSError:
        other.close()
        raise
    return other


@pytest.mark.parametrize(
    "option",
    [None, socket.SO_REUSEADDR, socket.SO_REUSEPORT],
    ids=["plain", "SO_REUSEADDR", "SO_REUSEPORT"],
)
def test_a_port_that_another_program_listens_on_is_refused(port: int, option: int | None) -> None:
    with _bound(port, option) as other:
        other.listen()
        message = f"port {port} of 127.0.0.1 cannot be used: Address already in use"
        with (
            pytest.raises(ProcessError, match=re.escape(message)),
            reserved_port("127.0.0.1", port),
        ):
            pass


def test_a_reserved_port_is_refused_to_a_second_one_and_free_afterwards(port: int) -> None:
    with reserved_port("127.0.0.1", port):
        with pytest.raises(ProcessError, match=str(port)), reserved_port("127.0.0.1", port):
            pass
        with pytest.raises(OSError, match="in use"):
            _bound(port)
    with reserved_port("127.0.0.1", port) as again:
        assert again == port


def test_a_host_that_is_none_of_this_machines_is_what_is_to_be_mended(port: int) -> None:
    refused = pytest.raises(
        ProcessError, match=r"(?s)192\.0\.2\.1 cannot be listened on.*mend serving"
    )
    with refused, reserved_port("192.0.2.1", port):
        pass


def test_a_port_on_which_connections_of_another_program_linger_is_refused(port: int) -> None:
    with _bound(port) as server:
        server.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # this side first: the port's connection lingers in TIME_WAIT
            assert client.recv(1) == b""
    refused = pytest.raises(ProcessError, match=f"port {port} of 127.0.0.1 cannot be used")
    with refused, reserved_port("127.0.0.1", port):
        pass


def test_those_who_share_a_reserved_port_get_its_connections(port: int) -> None:
    with (
        reserved_port("127.0.0.1", port),
        _bound(port, socket.SO_REUSEPORT) as first,
        _bound(port, socket.SO_REUSEPORT) as second,
    ):
        for replica in (first, second):
            replica.listen()
            replica.settimeout(10)
        # The kernel deals connections by their addresses: 40 of them reach both.
        accepted = {first: 0, second: 0}
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for replica in accepted:
                for connection in _pending(replica):
                    connection.close()
                    accepted[replica] += 1
        assert sum(accepted.values()) == 40
        assert all(accepted.values())


def _pending(server: socket.socket) -> Iterator[socket.socket]:
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            yield server.accept()[0]


def test_the_signals_of_the_kernel_are_the_retried_ones() -> None:
    # As a TFJob with `restartPolicy: ExitCode` sees them.
    statuses = [-signal.SIGKILL, -signal.SIGABRT, 1, 2, 127, 128, 137, 255]
    errors = [ExitError(["x"], status, Path("log"), []) for status in statuses]
    assert [e.can_be_retried for e in errors] == [True, True, False, False, False, True, True, True]
