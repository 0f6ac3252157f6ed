"""The command line: its commands in order, and what becomes of their errors.

TensorFlow and KServe are imported by the commands that need them, so that the others start at once.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from pathlib import Path
from typing import Any

import typer
import typer.core

from mlpipeline import environment, logs
from mlpipeline.cli import cluster, extras, last_words, people, steps
from mlpipeline.errors import PipelineError

_log = logging.getLogger(__name__)
# What is wrong with a path that the user has named, or with its rights.
_UNUSABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR),
    *(errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG),
}
_FOR_MACHINES = "What processes and pods call"


class _PeopleFirst(typer.core.TyperGroup):
    """Lists single commands before groups of commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands in the order in which help shows them."""
        groups = [n for n, c in self.commands.items() if isinstance(c, typer.core.TyperGroup)]
        return [name for name in self.commands if name not in groups] + groups


app = typer.Typer(
    cls=_PeopleFirst,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An end-to-end machine-learning pipeline: ingest, train, select, gate, serve, verify.",
)
people.add_to(app)
app.add_typer(steps.app, name="step", rich_help_panel=_FOR_MACHINES)
app.add_typer(cluster.app, name="cluster", rich_help_panel=_FOR_MACHINES)


def main() -> None:
    """Run the command line; an error with a remedy is printed without a traceback."""
    environment.prepare()
    _find_modules_here()
    try:
        logs.configure()
        with extras.named_when_missing():
            app()
    except SystemExit:  # all is well, or it was called in a way that there is not
        last_words.take_back()
        raise
    except PipelineError as error:
        # Not sys.exit: TensorFlow's shutdown would wait for the workers that are gone.
        _say(str(error))
        os._exit(error.exit_status)
    except Exception as error:
        if _is_of_a_full_disk(error):
            _say(
                f"the disk is full: {error}\n"
                "  expected: room for the artifact; nothing half-written is left\n"
                "  to do:    free some, then run again: finished steps are reused"
            )
        elif isinstance(error, OSError) and error.filename and error.errno in _UNUSABLE:
            _log.debug("where it happened", exc_info=error)
            _say(
                f"cannot use {os.fsdecode(error.filename)}: {error.strerror}\n"
                "  expected: a file or folder there that this process may read and write\n"
                f"  to do:    look at its owner and rights; {_elsewhere()}"
            )
        else:
            last_words.write_bug(error)
            raise
        os._exit(1)


def _say(text: str) -> None:
    typer.echo(f"error: {text}", err=True)
    last_words.write(f"error: {text}")


def _elsewhere() -> str:
    """What else helps where a path cannot be used."""
    if last_words.FILE.exists():  # in a pod
        return "on kind `chmod -R a+rwX workspace-kind`, elsewhere let uid 1000 write to the volume"
    return "or name another place: --workspace"


def _find_modules_here() -> None:
    """Let a configuration name modules of the working folder, as `python -m mlpipeline` does."""
    with contextlib.suppress(FileNotFoundError):  # it was removed
        if not sys.flags.safe_path and (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)


def _is_of_a_full_disk(error: Exception) -> bool:
    # TensorFlow's errors, when it writes a checkpoint or a model, have the text without the number.
    full = (errno.ENOSPC, errno.EDQUOT)
    return any(
        number == getattr(error, "errno", None) or os.strerror(number) in str(error)
        for number in full
    )
