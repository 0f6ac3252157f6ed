"""Fashion-MNIST from Debian's package, fetched without installing it.

It is a module of its own, because it alone calls a distribution's tools. It is here at all, because
behind many firewalls the distribution's mirror is the only source that answers.
https://packages.debian.org/stable/dataset-fashion-mnist
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from mlpipeline.errors import SourceError
from mlpipeline.store import artifacts

PACKAGE = "dataset-fashion-mnist"
FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the package has its files, once it is installed."""
_SECONDS = 120  # for each command


def fetch() -> Path:
    """Fetch the package into a cache, which needs no root; return the folder of its IDX files.

    The cache is `$XDG_CACHE_HOME/mlpipeline`, by default below `~/.cache`; what is there already is
    not fetched again.

    Raises:
        SourceError: There are no Debian tools here, or no mirror answers.
    """
    try:
        cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache = cache_home / "mlpipeline" / PACKAGE
        if not artifacts.is_whole(cache):
            with artifacts.publish(cache) as draft, tempfile.TemporaryDirectory() as download:
                apt = ["apt-get", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=10"]
                _run([*apt, "download", PACKAGE], Path(download))
                (package,) = Path(download).glob("*.deb")
                _run(["dpkg-deb", "-x", str(package), str(draft)], Path(download))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        text = str(getattr(error, "stderr", None) or error).strip()
        raise SourceError(
            f"cannot fetch {PACKAGE}: {(text.splitlines() or [type(error).__name__])[0]}",
            expected="apt-get, dpkg-deb and a reachable Debian or Ubuntu mirror",
            remedy="run `apt-get update`",
        ) from error
    return cache / FOLDER.relative_to("/")


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, timeout=_SECONDS
    )
