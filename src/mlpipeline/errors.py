"""The errors that a user can do something about.

Each says what was got, what was expected and what to do: in a pod the message is all one has.
Anything that is not a `PipelineError` is a bug and keeps its traceback. The tree, where `*` marks
what is worth trying again, and so ends the process with `RETRY_STATUS`:

    PipelineError
    ├── ConfigurationError          the configuration file
    ├── SourceError                 where the data set comes from
    ├── ExpectationError            images that are not as `expectations.fail` asks
    ├── ArtifactError               what a step has published
    │   ├── MissingArtifactError
    │   ├── DamagedArtifactError
    │   └── UnknownSchemaError
    ├── TrainingError               training
    ├── PeerLostError *             another worker of the same training
    ├── SelectionError              choosing a candidate, making what is served
    ├── GateError                   a version that the gate has held back
    ├── ServingError                the model server, or its predictions
    ├── EventError                  what is posted from outside
    ├── ProcessError                a process of the local backend
    ├── ClusterError                Kubernetes
    │   └── ClusterUnreachableError *
    ├── TrackingError               MLflow
    ├── MissingExtraError           what is not installed
    └── StoppedError *              this process, by SIGTERM
"""

from __future__ import annotations

RETRY_STATUS = 143
"""Exit status of a process that is worth starting again, as it is: 128 + SIGTERM (15).

It is what a shell reports of a process that SIGTERM ended, and so what Kubernetes shows of a pod
that was evicted. A TFJob with `restartPolicy: ExitCode` starts a pod again whose status is 128 or
above, and takes 1 to 127 for permanent; the workflow and the local backend keep to the same rule.
https://www.kubeflow.org/docs/components/trainer/legacy-v1/user-guides/tensorflow/
"""


class PipelineError(Exception):
    """Base of all errors with a remedy.

    The command line prints it without a traceback and exits with `exit_status`.

    Attributes:
        exit_status: Exit status of the process: 1 is permanent, `RETRY_STATUS` is tried again.
        got: What was found.
        expected: What should have been found.
        remedy: What the reader can do.
    """

    exit_status = 1

    def __init__(self, got: str, *, expected: str, remedy: str) -> None:
        """Make the three-line message.

        Args:
            got: What was found, naming files and values.
            expected: What should have been found.
            remedy: What the reader can do.
        """
        super().__init__(f"{got}\n  expected: {expected}\n  to do:    {remedy}")
        self.got = got
        self.expected = expected
        self.remedy = remedy


class ConfigurationError(PipelineError):
    """The configuration file cannot be used; lists every problem at once."""


class SourceError(PipelineError):
    """No source of the data set answered, or one answered with other data than expected."""


class ExpectationError(PipelineError):
    """The data set is published, but not what the configuration expects of it."""


class ArtifactError(PipelineError):
    """Base of what can be wrong with a published artifact."""


class MissingArtifactError(ArtifactError):
    """Nothing complete is published there."""


class DamagedArtifactError(ArtifactError):
    """A file of a published artifact is missing or is not what was published."""


class UnknownSchemaError(ArtifactError):
    """A file was written by a newer version of this code, which may mean something else by it."""


class TrainingError(PipelineError):
    """Training cannot go on, and starting it again would not help."""


class PeerLostError(PipelineError):
    """Another worker died or never came. Starting all workers again resumes from the checkpoint."""

    exit_status = RETRY_STATUS


class SelectionError(PipelineError):
    """No candidate can be selected, or what was is not to be served as configured."""


class GateError(PipelineError):
    """The gate has held back a version that had to be served."""


class ServingError(PipelineError):
    """The model cannot be served, or its answers are not the model's own."""


class EventError(PipelineError):
    """An event is not what it should be, or cannot be posted."""


class ProcessError(PipelineError):
    """A process that the local backend started failed, stalled or never became ready."""


class ClusterError(PipelineError):
    """Something in the cluster failed, was refused, or was not ready in time.

    Attributes:
        status: HTTP status of the API's refusal; 0 where it is not about a single request.
    """

    def __init__(self, got: str, *, expected: str, remedy: str, status: int = 0) -> None:
        """Make the three-line message.

        Args:
            got: What was found, naming objects and values.
            expected: What should have been found.
            remedy: What the reader can do.
            status: HTTP status of the API's refusal, if there was one.
        """
        super().__init__(got, expected=expected, remedy=remedy)
        self.status = status


class ClusterUnreachableError(ClusterError):
    """The cluster's API gave no answer for about a minute: nothing is known of what runs there.

    The step that starts again finds its work under way.
    """

    exit_status = RETRY_STATUS


class TrackingError(PipelineError):
    """MLflow could not be told of the runs; their records are in the workspace all the same."""


class MissingExtraError(PipelineError):
    """A command needs an optional dependency that is not installed."""


class StoppedError(PipelineError):
    """This process was told to end before its work was done; its successor goes on with it.

    Nothing starts it again where the whole workflow was stopped.
    """

    exit_status = RETRY_STATUS

    def __init__(self, got: str) -> None:
        """Make the three-line message.

        Args:
            got: What was stopped, and by what.
        """
        super().__init__(
            got,
            expected="that it runs until its work is done",
            remedy="nothing, if you stopped it; otherwise it is started again by itself",
        )
