"""Someone who does what the pages say: in a copy of the repository, command after command."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlpipeline.environment import ends_with_us
from support import documents
from support.documents import ROOT, Block

_LIMIT_SECONDS = 900
_LENT = (".venv", "workspace-kind")
_RUN = re.compile(r"\b\d{8}-\d{6}-\d+\b")
_VERSION = re.compile(r"\bfashion-mnist-[0-9a-f]{16}\b")


def checkout(folder: Path) -> Path:
    """Copy the repository's files, and lend the copy its environment.

    What the environment is made from counts as older: make must never clear what is only lent.
    What pods write is shared, because the nodes of a cluster have mounted that folder.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file():  # not one that was deleted, but is not committed so
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
            os.utime(target, (0, 0))
    for name in _LENT:
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    return folder


@dataclass
class Reader:
    """Runs the commands of pages.

    Attributes:
        folder: Where the commands are run; `cd` changes it.
        environment: Variables beside those of this process; `source` changes them.
    """

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def do(self, block: Block) -> str:
        """Write the file or run the commands of a block; return what the last one printed."""
        if block.file:
            name, content = block.file
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(content)
            return ""
        output = ""
        for command in block.commands:
            output = self._call(self._with_own_names(command), block.until)
        return output

    def stop(self) -> None:
        """End what was started and does not end by itself, as Ctrl-C does."""
        while self._started:
            process = self._started.pop()
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _call(self, command: str, until: str) -> str:
        if command.startswith("cd "):
            self.folder /= command.removeprefix("cd ")
            return ""
        if command.startswith("source "):
            self._keep_variables_of(command)
            return ""
        # A file of its own: what was started before, and goes on, still writes to its.
        log = self.folder / f".output-{len(self._started)}"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*ends_with_us(), "bash", "-o", "pipefail", "-c", command],
                cwd=self.folder,
                env=os.environ | dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(process)
        end = time.monotonic() + _LIMIT_SECONDS
        while process.poll() is None and time.monotonic() < end:
            if until and until in log.read_text(errors="replace"):
                return log.read_text(errors="replace")
            time.sleep(0.1)
        output = log.read_text(errors="replace")
        assert process.poll() is not None, f"`{command}` has not ended:\n{output}"
        self._started.remove(process)
        assert process.returncode == 0, f"`{command}` ended with {process.returncode}:\n{output}"
        assert not until, f"`{command}` has ended without `{until}`:\n{output}"
        if command.startswith("git clone "):
            self._lend(self.folder / Path(command.split()[-1]).name)
        return output

    def _keep_variables_of(self, command: str) -> None:
        """What a command sets holds for those after it, as in a reader's shell."""
        done = subprocess.run(
            ["bash", "-e", "-c", f"{command} && env -0"],
            cwd=self.folder,
            env=os.environ | dict(self.environment),
            capture_output=True,
            check=True,
            text=True,
        )
        pairs = (pair.partition("=") for pair in done.stdout.split("\0") if "=" in pair)
        self.environment = {name: value for name, _, value in pairs}

    def _lend(self, clone: Path) -> None:
        """Put what is to be tested, and its environment, in the place of a clone."""
        assert (clone / "Makefile").is_file()
        shutil.rmtree(clone)
        checkout(clone)

    def _with_own_names(self, command: str) -> str:
        """A command with this run's and this model's names in place of those of the example."""
        if _RUN.search(command):
            runs = sorted(self.folder.glob("workspace/runs/*/run.json"))
            command = _RUN.sub(runs[-1].parent.name, command)
        if _VERSION.search(command):
            version = (self.folder / "workspace/models/fashion-mnist/current").read_text().strip()
            command = _VERSION.sub(version, command)
        return command


@contextmanager
def reader(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Reader]:
    """A reader in a folder; what was started is over when the body is.

    The reader's git finds the project's repository here.
    """
    git = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": documents.repository(),
    }
    one = Reader(folder, git | dict(environment or {}))
    try:
        yield one
    finally:
        one.stop()
