"""Nothing is skipped in silence: a run of tests ends with what it could not test, and why.

With CI=true such a test fails the run, unless MAY_SKIP names what it lacks: "kubectl browser".
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def needs(program: str, *, to_do: str) -> pytest.MarkDecorator:
    """Mark a test, or a module, that cannot run without a program.

    Args:
        program: What has to be on the PATH.
        to_do: How one gets it.
    """
    return pytest.mark.skipif(
        shutil.which(program) is None,
        reason=_reason(program, "it is not installed", to_do),
    )


def leave_out(needed: str, *, why: str, to_do: str) -> NoReturn:
    """Leave the running test out, because this machine lacks something.

    Args:
        needed: A word for what is lacking, as in MAY_SKIP.
        why: What happened when it was looked for.
        to_do: How one gets it.
    """
    pytest.skip(_reason(needed, why, to_do))


def _reason(needed: str, why: str, to_do: str) -> str:
    return f"{needed}: {' '.join(why.split())}; to do: {to_do}"


# --- Hooks, which tests/conftest.py imports ------------------------------------------------------


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List each test that was left out; also in the file NOT_TESTED, if that is set."""
    lines = [f"{test}: {reason}" for test, reason in _left_out(terminalreporter)]
    if not lines:
        return
    terminalreporter.section("NOT TESTED")
    for line in lines:
        terminalreporter.line(line)
    if path := os.environ.get("NOT_TESTED"):
        with Path(path).open("a") as file:
            file.writelines(f"{line}\n" for line in lines)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail the run in CI for what was left out there, unless it may be."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or reporter is None or exitstatus:
        return
    allowed = os.environ.get("MAY_SKIP", "").split()
    if any(reason.partition(":")[0] not in allowed for _, reason in _left_out(reporter)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _left_out(reporter: pytest.TerminalReporter) -> list[tuple[str, str]]:
    """Return the tests that were skipped, each with the reason."""
    found = []
    for report in reporter.stats.get("skipped", []):
        _, _, reason = report.longrepr
        found.append((re.sub(r"\[.*", "", report.nodeid), reason.removeprefix("Skipped: ")))
    return sorted(set(found))
