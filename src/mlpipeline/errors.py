"""The errors that a user can do something about.

Each says what was got, what was expected and what to do; in a pod the message is all one has.
Anything that is not a `PipelineError` is a bug and keeps its traceback.
"""

from __future__ import annotations

RETRY_STATUS = 143
"""What a process ends with that should be started again, as it can go on where it stopped.

It is 128 + SIGTERM, what a process that is told to end exits with anyway. For a TFJob with
`restartPolicy: ExitCode` 1-127 are permanent and 128 and above are retried; Argo's steps are tried
again by the same rule, unless the workflow was stopped.
"""


class PipelineError(Exception):
    """Base of all errors with a remedy. The command line prints it and exits with `exit_status`."""

    exit_status = 1

    def __init__(self, got: str, *, expected: str, remedy: str) -> None:
        super().__init__(f"{got}\n  expected: {expected}\n  to do:    {remedy}")
        self.got = got
        self.expected = expected
        self.remedy = remedy


class ConfigurationError(PipelineError):
    """The configuration file cannot be used; lists every problem at once."""


class SourceError(PipelineError):
    """No source of the data set answered, or one answered with other data than expected."""


class ArtifactError(PipelineError):
    """Base of what can be wrong with a published artifact."""


class MissingArtifactError(ArtifactError):
    """Nothing complete is published there."""


class DamagedArtifactError(ArtifactError):
    """A file of a published artifact is missing or is not what was published."""


class TrainingError(PipelineError):
    """Training cannot go on, and starting it again would not help."""


class PeerLostError(PipelineError):
    """Another worker died or never came. Starting all workers again resumes from the checkpoint."""

    exit_status = RETRY_STATUS


class SelectionError(PipelineError):
    """No candidate can be selected."""


class ServingError(PipelineError):
    """The model cannot be served, or its answers are not the model's own."""


class EventError(PipelineError):
    """An event is not what it should be, or cannot be posted."""


class ProcessError(PipelineError):
    """A process that the local backend started failed, stalled or never became ready."""


class ClusterError(PipelineError):
    """Something in the cluster failed, was refused, or was not ready in time."""

    def __init__(self, got: str, *, expected: str, remedy: str, status: int = 0) -> None:
        """`status` is the HTTP status where the API refused something."""
        super().__init__(got, expected=expected, remedy=remedy)
        self.status = status


class ClusterUnreachableError(ClusterError):
    """The cluster's API gave no answer for about a minute: nothing is known of what runs there."""

    exit_status = RETRY_STATUS  # the next attempt finds its work under way


class TrackingError(PipelineError):
    """MLflow could not be told of the runs; their records are in the workspace all the same."""


class StoppedError(PipelineError):
    """This process was told to end before its work was done; its successor goes on with it."""

    exit_status = RETRY_STATUS

    def __init__(self, got: str) -> None:
        super().__init__(
            got,
            expected="that it runs until its work is done",
            remedy="nothing, if you stopped it; otherwise it is started again by itself",
        )
