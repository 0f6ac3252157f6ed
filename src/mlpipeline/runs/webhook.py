"""Tells a webhook how a run has ended: once, within seconds, and whatever happens no run fails.

A webhook's URL is a credential: whoever has it may write where it leads. So it is taken out of the
environment before the run starts a process, and no log, record or message has it, nor the text of
an error, which may quote it. For the same reason no library is used that logs its requests, and no
redirect is followed: that would hand the message to somebody else.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import threading
import urllib.request
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from mlpipeline.errors import ArtifactError
from mlpipeline.store import files
from mlpipeline.store.layout import RunFolder
from mlpipeline.store.schemas.gate import Judgement
from mlpipeline.store.schemas.run import Run

URL_VARIABLE = "MLPIPELINE_WEBHOOK_URL"
FORM_VARIABLE = "MLPIPELINE_WEBHOOK_FORM"
FORMS = ("json", "slack")
DEADLINE_SECONDS = 10.0
"""What all of it may take: the name, the connection, the answer."""

_MOST_LETTERS = 1_000  # of an error: Slack cuts what is much longer, and the report has all of it

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Webhook:
    """Where to tell of the end of a run.

    Attributes:
        url: The URL that is posted to.
        form: One of `FORMS`: `json` is what `summary` returns, `slack` a text, which Mattermost and
            others take as well.
    """

    url: str = field(repr=False)
    form: str = "json"

    @classmethod
    def taken_from(cls, environment: MutableMapping[str, str] = os.environ) -> Webhook | None:
        """Take the webhook out of environment variables, so that no process that follows has it.

        Args:
            environment: The variables.

        Returns:
            The webhook; None where there is none, or its form is not known, which is logged.
        """
        url = environment.pop(URL_VARIABLE, "").strip()  # files of a Secret end with a newline
        form = environment.pop(FORM_VARIABLE, "").strip() or "json"
        if url and form not in FORMS:
            _log.warning("no webhook is told: %s is none of %s", FORM_VARIABLE, ", ".join(FORMS))
            return None
        return cls(url, form) if url else None

    def tell(self, run: Run, folder: RunFolder) -> None:
        """Tell how a run has ended, unless that was told before; log what became of it.

        Args:
            run: The record of the run.
            folder: Its folder: a pod that is started again finds there that it was told.
        """
        try:
            if _was_told(run, folder):
                _log.info("the webhook was told before that %s has %s", run.run, run.state)
                return
            problem = self._post_in_time(summary(run) if self.form == "json" else slack(run))
        except Exception as error:  # no run fails because of this; its text is not known to be safe
            problem = type(error).__name__
        if problem:
            _log.warning("the webhook was not told of %s: %s", run.run, problem)
        else:
            _log.info("the webhook was told of %s", run.run)

    def _post_in_time(self, content: dict[str, Any]) -> str:
        """Post something; return what went wrong, or nothing.

        In a thread, because no time-out of a socket is one for the name, or for all of the answer.
        """
        said = [f"no answer in {DEADLINE_SECONDS:.0f} s"]

        def post() -> None:
            said.insert(0, self._post(content))

        thread = threading.Thread(target=post, daemon=True)
        thread.start()
        thread.join(DEADLINE_SECONDS)
        return said[0]

    def _post(self, content: dict[str, Any]) -> str:
        try:
            request = urllib.request.Request(
                self.url,
                json.dumps(content).encode(),
                {"Content-Type": "application/json", "User-Agent": "mlpipeline"},
            )
            with _opener().open(request, timeout=DEADLINE_SECONDS) as response:
                status = int(response.status)
        except Exception as error:  # its text may have the URL
            return _in_words(error)
        return "" if 200 <= status < 300 else f"it answered with status {status}"


def summary(run: Run) -> dict[str, Any]:
    """Return what matters of a run's record, for programs.

    Args:
        run: The record.
    """
    served = run.served[-1] if run.served else None
    return {
        "run": run.run,
        "model": run.name,
        "state": run.state,
        "outcome": run.outcome,
        "started": run.started,
        "ended": run.ended,
        "seconds": run.seconds,
        "version": served.version if served else None,
        "candidate": served.candidate if served else None,
        "accuracy": run.verification.accuracy if run.verification else None,
        "gate": _verdict(run.gate),
        "canary": _verdict(run.rollout),
        "tasks": {task.name: task.state for task in run.tasks},
        "error": run.error[:_MOST_LETTERS] if run.error else None,
    }


def slack(run: Run) -> dict[str, Any]:
    """Return the same for people, as Slack's incoming webhooks take it.

    Args:
        run: The record.
    """
    said = summary(run)
    lines = [f"*{run.name}*: {run.outcome} after {run.seconds:.0f} s (run {run.run})"]
    if said["version"]:
        accuracy = f", {said['accuracy']:.2%} on the test split" if said["accuracy"] else ""
        lines.append(f"served: {said['version']} ({said['candidate']}{accuracy})")
    if run.judgement and run.judgement.kept:
        lines.append(f"{run.judgement.BY}: {run.judgement.reason}")
    if said["error"]:
        lines.append(said["error"])
    # https://docs.slack.dev/messaging/formatting-message-text/: what is left would be commands.
    text = "\n".join(lines)
    for letter, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(letter, escaped)
    return {"text": text}


def _verdict(said: Judgement | None) -> dict[str, str] | None:
    return {"verdict": said.verdict, "reason": said.reason} if said else None


def _in_words(error: Exception) -> str:
    """Why nothing could be posted, without a word of the error's own text."""
    reason = getattr(error, "reason", error)  # what urllib has wrapped: an error, or a text
    if isinstance(reason, (str, ValueError, http.client.InvalidURL)):
        return f"what {URL_VARIABLE} says is no URL of HTTP or HTTPS"
    return type(reason).__name__


def _was_told(run: Run, folder: RunFolder) -> bool:
    """Whether this end of a run was told; if it was not, it is from now on.

    Another end of the same run is told: somebody has had Argo try a workflow again that had failed.
    """
    with contextlib.suppress(ArtifactError):  # it was not, or that cannot be read
        if files.read_text(folder.told).strip() == run.state:
            return True
    with contextlib.suppress(OSError):  # a full disk is worth telling: rather twice than never
        files.write_text(folder.told, run.state + "\n")
    return False


def _opener() -> urllib.request.OpenerDirector:
    """Return what opens HTTP and HTTPS, by the user's proxy, and nothing else; no redirects."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
