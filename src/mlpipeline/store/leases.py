"""Leases: who does what only one process at a time may do, on storage that several hosts share.

A lease is a file that says who has it. Its holder touches it every few seconds. It is free again
when the holder removes it, or when the holder's process is gone. Whoever cannot see that process,
because it is on another host, takes the lease once it was not touched for a minute, by the clock of
the file system.

Locks of the kernel are not used: over a network some file systems keep them on one host only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEAT_SECONDS = 5.0
"""How often a holder touches its lease."""
LEASE_SECONDS = 60.0
"""How long after the last touch a lease counts."""


@dataclass(frozen=True)
class Holder:
    """Who has a lease.

    Attributes:
        token: Differs each time that a lease is taken.
        who: What the holder calls itself, such as the name of its run.
        pid: Number of its process.
        host: The name of its host, or of its pod.
        place: Boot of its host, and its name space of processes: `pid` says something there only.
        since: When its process began, in ticks after the boot: pids are used again.
    """

    token: str
    who: str
    pid: int
    host: str
    place: str
    since: str

    def __str__(self) -> str:
        """Return it as messages name it."""
        return f"{self.who} (process {self.pid} on {self.host})"

    @classmethod
    def this_process(cls, who: str) -> Holder:
        """Return this process, under a name."""
        pid = os.getpid()
        return cls(uuid.uuid4().hex, who, pid, socket.gethostname(), _place(), _since(pid))

    @property
    def can_be_seen(self) -> bool:
        """Whether this host, or pod, is its process's."""
        return bool(self.since) and self.place == _place()

    @property
    def is_gone(self) -> bool:
        """Whether its process has ended; it says something only where that can be seen.

        One that is stopped is not gone: what it has started goes on.
        """
        return self.since != _since(self.pid)


@dataclass(frozen=True)
class Lease:
    """A lease that this process may take.

    Attributes:
        file: Where it lies; it is there only while somebody has it.
        who: What this process calls itself in it.
    """

    file: Path
    who: str
    _own: Holder = field(init=False)

    def __post_init__(self) -> None:
        """Say who this is."""
        object.__setattr__(self, "_own", Holder.this_process(self.who))

    def take(self) -> Holder | None:
        """Take it, if it is free; return who has it where somebody has."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(self.file.parent):
            return None if self._create() else self._take_over()

    def wait(self, seconds: float, *, every: float) -> Holder | None:
        """Take it as soon as it is free; return who has it where that is not in time.

        Args:
            seconds: How long to wait at most.
            every: Seconds between two looks.
        """
        end = time.monotonic() + seconds
        while (holder := self.take()) is not None:
            if time.monotonic() > end:
                return holder
            time.sleep(every)
        return None

    def holder(self) -> Holder | None:
        """Return who has it; None if it is free: whoever is gone does not have it any more."""
        return self._having(_read(self.file))

    def _take_over(self) -> Holder | None:
        """Take it if whoever has it is gone; return who has it where somebody has."""
        written = _read(self.file)
        if (holder := self._having(written)) is not None:
            return holder
        self._remove(written)
        return None if self._create() else (_read(self.file) or written)

    def _having(self, written: Holder | None) -> Holder | None:
        """Who has it, given whom the file names."""
        is_seen = written is not None and written.can_be_seen
        is_free = written.is_gone if written and is_seen else self._is_over()
        if is_free or not self.file.exists():
            return None
        # A file that says nothing is of somebody who is about to write it.
        return written or Holder("", "somebody", 0, "an unknown host", "", "")

    def touch(self) -> bool:
        """Keep it for longer; return whether it is still this process's."""
        if (holder := _read(self.file)) is None or holder.token != self._own.token:
            return False
        with contextlib.suppress(OSError):  # storage that is away now may be back for the next
            os.utime(self.file)
        return True

    def release(self) -> None:
        """Let others have it."""
        if (holder := _read(self.file)) is not None and holder.token == self._own.token:
            self.file.unlink(missing_ok=True)

    def _create(self) -> bool:
        """Put the file there unless there is one, at once with its content: also over NFS."""
        draft = self._beside("draft")
        draft.write_text(json.dumps(vars(self._own)), encoding="utf-8")
        try:
            os.link(draft, self.file)
        except FileExistsError:
            return False
        except OSError:  # this file system has no links
            return self._create_without_link()
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _create_without_link(self) -> bool:
        try:
            with self.file.open("x", encoding="utf-8") as file:
                file.write(json.dumps(vars(self._own)))
        except FileExistsError:
            return False
        return True

    def _is_over(self) -> bool:
        """Whether it was not touched for long, by the clock that stamps the files."""
        probe = self._beside("draft")
        try:
            probe.touch()
            return probe.stat().st_mtime - self.file.stat().st_mtime > LEASE_SECONDS
        except FileNotFoundError:  # given back
            return False
        finally:
            probe.unlink(missing_ok=True)

    def _remove(self, holder: Holder | None) -> None:
        """Take a lease away that is over, unless another process was quicker, and has it now."""
        old = self._beside("old")
        try:
            self.file.rename(old)
        except FileNotFoundError:
            return
        if (found := _read(old)) != holder and found is not None:
            with contextlib.suppress(OSError):
                os.link(old, self.file)
        old.unlink(missing_ok=True)

    def _beside(self, kind: str) -> Path:
        return self.file.with_name(f".{self.file.name.lstrip('.')}.{uuid.uuid4().hex[:8]}.{kind}")


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time look and take away: the second would take the first one's lease."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # storage without locks: `_remove` looks what it has
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(file: Path) -> Holder | None:
    """The holder that a file names; None where there is no file, or it names nobody."""
    try:
        content: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return Holder(**content)
    except (OSError, ValueError, TypeError):
        return None


def _place() -> str:
    """This boot, and this name space of processes; empty where the system cannot tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _since(pid: int) -> str:
    """When a process began, in ticks after the boot; empty if there is none, or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    return "" if fields[0] == "Z" else fields[19]
