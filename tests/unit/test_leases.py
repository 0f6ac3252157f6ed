"""Leases and turns: one at a time, whoever dies, sleeps, or is on another host."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlpipeline.backends.local import turns
from mlpipeline.backends.local.turns import turn
from mlpipeline.errors import ProcessError
from mlpipeline.store import leases
from mlpipeline.store.leases import Holder, Lease

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "candidates" / ".cnn-0.lease"


def _on_another_host(file: Path) -> None:
    """Make a lease one of a process that cannot be seen from here."""
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"host": "other", "place": "another boot"}))


def _touched_ago(file: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(file, (then, then))


def test_one_has_it_and_the_others_are_told_who(file: Path) -> None:
    first, second = Lease(file, "run 1"), Lease(file, "run 2")
    assert first.take() is None
    holder = second.take()
    assert holder is not None
    assert str(holder).startswith(f"run 1 (process {os.getpid()} on ")
    first.release()
    assert second.take() is None
    assert [path.name for path in file.parent.iterdir()] == [file.name], "and nothing else"
    second.release()
    assert not list(file.parent.iterdir())


def test_who_only_looks_is_told_who_has_it_and_takes_nothing(file: Path) -> None:
    lease, looking = Lease(file, "run 1"), Lease(file, "somebody")
    assert looking.holder() is None
    lease.take()
    assert str(looking.holder()).startswith("run 1 (process")
    assert lease.touch(), "it is still the other one's"
    _on_another_host(file)
    _touched_ago(file, leases.LEASE_SECONDS + 1)
    assert looking.holder() is None
    assert file.exists()


def test_of_many_at_once_one_gets_it(file: Path) -> None:
    taken = []
    begin = threading.Barrier(16)

    def take(number: int) -> None:
        lease = Lease(file, str(number))
        begin.wait()
        if lease.take() is None:
            taken.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_of_many_that_find_it_over_one_takes_it(file: Path) -> None:
    Lease(file, "old").take()
    _on_another_host(file)
    _touched_ago(file, leases.LEASE_SECONDS + 1)
    test_of_many_at_once_one_gets_it(file)


def test_a_file_system_without_links_will_do(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    assert Lease(file, "run 1").take() is None
    assert Lease(file, "run 2").take() is not None


def test_a_process_that_was_killed_has_it_no_more(file: Path) -> None:
    script = (
        f"from mlpipeline.store.leases import *; print(Lease(Path({str(file)!r}), 'it').take())"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert file.exists()
    assert Lease(file, "run 2").take() is None


def test_a_number_of_a_process_that_is_used_again_is_another_process(file: Path) -> None:
    lease = Lease(file, "run 1")
    lease.take()
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"since": "1"}))
    assert Lease(file, "run 2").take() is None
    assert not lease.touch()


def test_a_process_on_another_host_has_it_while_it_touches_it(file: Path) -> None:
    Lease(file, "run 1").take()
    _on_another_host(file)
    holder = Lease(file, "run 2").take()
    assert holder is not None
    assert holder.host == "other"
    _touched_ago(file, leases.LEASE_SECONDS + 1)
    assert Lease(file, "run 2").take() is None


def test_a_process_here_that_is_stopped_keeps_it(file: Path) -> None:
    """What it has started goes on: two would write the same files."""
    lease = Lease(file, "run 1")
    lease.take()
    _touched_ago(file, 10 * leases.LEASE_SECONDS)
    assert Lease(file, "run 2").take() is not None
    assert lease.touch()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"who": "x"}', "\x00"])
def test_a_lease_that_says_nothing_counts_until_it_is_old(file: Path, content: str) -> None:
    file.parent.mkdir()
    file.write_text(content)
    assert Lease(file, "run 2").take() is not None
    _touched_ago(file, leases.LEASE_SECONDS + 1)
    assert Lease(file, "run 2").take() is None


def test_who_lost_it_learns_so_and_takes_nothing_away(file: Path) -> None:
    slow, quick = Lease(file, "slow"), Lease(file, "quick")
    slow.take()
    assert slow.touch()
    file.unlink()
    assert quick.take() is None
    assert not slow.touch()
    slow.release()
    assert quick.touch()


def test_the_holder_is_told_apart_from_itself_at_another_time() -> None:
    assert Holder.this_process("x") != Holder.this_process("x")
    assert not Holder.this_process("x").is_gone
    assert dataclasses.replace(Holder.this_process("x"), pid=2**22 + 1).is_gone


def test_the_second_waits_says_for_whom_and_goes_on(file: Path) -> None:
    said: list[str] = []
    order: list[str] = []

    async def do(run: str, seconds: float) -> None:
        async with turn("train-cnn", file, run=run, seconds=20, say=said.append):
            order.append(f"{run} begins")
            await asyncio.sleep(seconds)
            order.append(f"{run} ends")

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(do("first", 0.3))
            group.create_task(do("second", 0))

    asyncio.run(both())
    assert order == ["first begins", "first ends", "second begins", "second ends"]
    (line,) = said
    assert line.strip().startswith("train-cnn waits for first (process ")


def test_it_does_not_wait_for_ever_and_says_for_what(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_LOOK_AGAIN_SECONDS", 0.01)
    Lease(file, "first").take()

    async def wait() -> None:
        async with turn("train-cnn", file, run="second", seconds=0.1, say=lambda _: None):
            raise AssertionError

    with pytest.raises(ProcessError, match="train-cnn has waited for first") as raised:
        asyncio.run(wait())
    assert str(file) in raised.value.remedy


def test_a_holder_whose_turn_was_taken_over_stops(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "BEAT_SECONDS", 0.01)

    async def lose() -> None:
        async with turn("train-cnn", file, run="first", seconds=1, say=lambda _: None):
            file.unlink()
            Lease(file, "second").take()
            await asyncio.sleep(20)

    with pytest.raises(ProcessError, match="taken over"):
        asyncio.run(lose())
    assert Lease(file, "third").take() is not None, "it is the second's"


def test_a_body_that_fails_or_is_stopped_gives_its_turn_back(file: Path) -> None:
    async def fail(error: BaseException) -> None:
        async with turn("train-cnn", file, run="first", seconds=1, say=lambda _: None):
            raise error

    for error in (ProcessError("x", expected="y", remedy="z"), TimeoutError(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            asyncio.run(fail(error))
        assert not file.exists()
