"""Environments of their own for what our software is compared with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).with_name("peers").resolve()
_ENVIRONMENTS = Path("workspace/bench/peers").resolve()


def programs(name: str) -> Path:
    """Return the folder of an environment's programs.

    Args:
        name: What is compared.
    """
    return _ENVIRONMENTS / name.lower().replace(" ", "-") / "bin"


def make(name: str, requirements: str) -> None:
    """Install an environment, unless that was done.

    Args:
        name: What is compared.
        requirements: Packages with their versions, as pip takes them.
    """
    folder = programs(name).parent
    installed = folder / "installed.txt"
    if installed.is_file() and installed.read_text() == requirements:
        return
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    for command in (
        ["venv", "--clear", "--python", sys.executable, str(folder)],
        ["pip", "install", "--python", str(programs(name) / "python"), *requirements.split()],
    ):
        subprocess.run([uv, "--quiet", *command], check=True)
    installed.write_text(requirements)
