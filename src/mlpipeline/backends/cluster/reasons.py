"""Why a step ended, out of what Argo, the kubelet and its log say: its own error, or what to do.

What a step says itself has its remedy (`mlpipeline.cli.last_words`). What ended it from outside has
none, such as `OOMKilled (exit code 137)`: it gets one here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # its client takes a while to import
    from mlpipeline.events.posting import Outcome

UNSAID = "it was ended before it was done"
"""What stands for the words of a step that is killed, as where memory is short: it has none."""

# What Argo puts before the last words of a container.
_ENDED = re.compile(r"(?:\w+: )?\w+ \(exit code -?\d+\): error: ")
# Where an error of ours begins in the end of a log; others' have the word in their middle.
_OWN = re.compile(r"^error: ", re.MULTILINE)
# What a log has around the words of a step: those of Argo's executor, and TensorFlow's notices from
# before there is our logging.
_NOISE = re.compile(
    r'time=".*argo=true|time="\d{4}|Error: exit status \d+$|absl::InitializeLog'
    r"|oneDNN custom operations|cpu_feature_guard|To enable the following instructions"
)

REMEDIES = (
    (
        "OOMKilled",
        "that it needs no more memory than its limit",
        "raise the memory limit (of workers and replicas in manifests/base/templates, of steps in "
        "workflows/), or lower batch_size",
    ),
    (
        "exceeded quota",
        "room for its pod in the namespace's quota",
        "ask for less (workers, replicas), or raise it: `kubectl describe resourcequota` "
        "says what is left",
    ),
    (
        "ErrImagePull|ImagePullBackOff|ErrImageNeverPull|InvalidImageName",
        "an image that every node can pull",
        "`make image` builds the image and loads it into kind, `make push REGISTRY=…` sends it to "
        "a registry",
    ),
    (
        "longer than the specified deadline",
        "that its pod starts, and ends, in time",
        "`make status` while it waits: an image that cannot be pulled, or no node with room",
    ),
    (
        "failed calling webhook",
        "an operator that answers",
        "`make status` says which operator is down; `make deploy` mends it",
    ),
)
"""A pattern of messages, what was expected, what to do. scripts/advice.sh says the same."""


def of_posted(outcome: Outcome) -> str:
    """Return what became of an event that was posted, and why it has failed if it has.

    Args:
        outcome: What Argo's server has answered.
    """
    said = "accepted" if outcome.is_new else "was posted before"
    return f"{said}, and failed: {of_message(outcome.message)}" if outcome.has_failed else said


def of_message(message: str, warnings: Sequence[str] = ()) -> str:
    """Return why a step ended, in the words of its own error if it has said one.

    Args:
        message: That of Argo's node.
        warnings: What Kubernetes has said of its pod.
    """
    was_killed = message.removeprefix("main: ").startswith("OOMKilled")  # whatever its log says
    if not was_killed and (begin := _ENDED.match(message)):
        return _without_noise(message[begin.end() :])
    *_, own = _OWN.split(message)
    text = _without_noise(message if was_killed else own) or UNSAID
    if "to do: " in text:
        return text
    text = "\n    ".join([text, *warnings])
    for pattern, expected, to_do in REMEDIES:
        if re.search(pattern, text):
            return f"{text}\n  expected: {expected}\n  to do:    {to_do}"
    return text


def _without_noise(text: str) -> str:
    head, mark, log = text.removeprefix("main: ").partition("): ")
    if mark and " (exit code " in head:
        text = f"{head})\n{log}"  # so that its first line is one of the log alone
    lines = [line for line in text.splitlines() if not _NOISE.search(line)]
    return "\n".join(lines).strip()
