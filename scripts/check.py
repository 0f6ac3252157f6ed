"""`make check`: every linter there is, each once.

Use: `python scripts/check.py [NAME...]`.

The names are those of CHECKS below; none means all. What a machine lacks is reported by name at the
end; with CI=true that is an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# In this order: of the environment, fetched by `make`, of the machine.
FOLDERS = (Path(sys.executable).parent, ROOT / ".tools" / "bin")


@dataclass(frozen=True)
class Check:
    """One linter.

    Attributes:
        command: The program and its arguments; it is run in the repository's root.
        remedy: How one gets the program, for machines that lack it.
        also: Other programs that it calls.
    """

    command: tuple[str, ...]
    remedy: str = "make .venv/.ready"
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """How a check ended.

    Attributes:
        status: Its exit status; 0 is good.
        output: What it printed.
        seconds: How long it took.
    """

    status: int
    output: str
    seconds: float


def _tracked(*patterns: str) -> tuple[str, ...]:
    """Return the files that Git knows of or would add, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(sorted(path for path in set(listed.stdout.split()) if (ROOT / path).is_file()))


def shell_scripts() -> tuple[str, ...]:
    """Return all bash scripts, whatever they are called."""
    return tuple(path for path in _tracked() if _is_bash(ROOT / path))


def _is_bash(path: Path) -> bool:
    if path.suffix == ".sh":
        return True
    with path.open("rb") as file:
        first = file.readline(100)
    return first.startswith(b"#!") and b"bash" in first


def checks() -> dict[str, Check]:
    """Return all checks by name, the longest first: two run at a time."""
    go = "make .tools/bin/actionlint, which needs Go (https://go.dev/dl)"
    kubectl = "https://kubernetes.io/docs/tasks/tools"
    found = {
        "mypy": Check(("mypy",)),
        "manifests": Check(("python", "scripts/check_manifests.py"), kubectl, also=("kubectl",)),
        "ruff": Check(("ruff", "check", ".")),
        "format": Check(("ruff", "format", "--check", ".")),
        "imports": Check(("lint-imports",)),
        "shellcheck": Check(("shellcheck", "--external-sources", *shell_scripts())),
        "actionlint": Check(("actionlint",), go, also=("shellcheck",)),
        "hadolint": Check(("hadolint", "docker/Dockerfile")),
        "yamllint": Check(("yamllint", "--strict", *_tracked("*.yaml", "*.yml"))),
        "codespell": Check(("codespell", *_tracked("*.md", "docs/*", "configs/*"))),
    }
    if (ROOT / "mkdocs.yml").exists():
        build = ("mkdocs", "--quiet", "build", "--strict", "--site-dir", ".tools/site")
        found["docs"] = Check(build)
    return found


def missing(check: Check) -> Iterator[str]:
    """Yield the programs that a check needs and this machine lacks."""
    for program in (check.command[0], *check.also):
        if shutil.which(program, path=_path()) is None:
            yield program


def _path() -> str:
    return os.pathsep.join([*map(str, FOLDERS), os.environ.get("PATH", "")])


def run(check: Check) -> Result:
    """Run one check, with the environment's programs before those of the machine."""
    began = time.monotonic()
    done = subprocess.run(
        check.command,
        cwd=ROOT,
        env=os.environ | {"PATH": _path(), "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Result(done.returncode, done.stdout, time.monotonic() - began)


def main(names: Sequence[str]) -> int:
    """Run the named checks, or all; print what failed and what could not be checked."""
    known = checks()
    if unknown := set(names) - known.keys():
        print(f"error: got {', '.join(sorted(unknown))}\n  expected: {', '.join(known)}")
        return 2
    chosen = {name: known[name] for name in names or known}
    lacking = {name: lacks for name in chosen if (lacks := tuple(missing(chosen[name])))}
    failed = _run_all({name: check for name, check in chosen.items() if name not in lacking})
    for name, lacks in lacking.items():
        print(f"NOT CHECKED: {name}: this machine has no {', '.join(lacks)}")
        print(f"  to do: {chosen[name].remedy}")
    if failed:
        print(f"error: failed: {', '.join(failed)}")
    in_ci = os.environ.get("CI") == "true"
    return int(bool(failed) or (in_ci and bool(lacking)))


def _run_all(chosen: dict[str, Check]) -> list[str]:
    failed = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        running = {name: pool.submit(run, check) for name, check in chosen.items()}
        for name, future in running.items():
            result = future.result()
            print(f"{name:<11} {'ok' if result.status == 0 else 'FAILED'}, {result.seconds:.1f} s")
            if result.status:
                failed.append(name)
                print(result.output, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
