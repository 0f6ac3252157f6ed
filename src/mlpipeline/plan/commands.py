"""Command lines of everything that processes and pods run, spelt here and nowhere else.

Each function returns the arguments after `python -m mlpipeline`, which are those of a pod whose
image has that as its entry point; `backends.local.processes.python_m` puts the interpreter in front
of them. A value may also be a placeholder that Argo Workflows fills in, such as
`{{inputs.parameters.key}}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlpipeline.plan.config import Serving
from mlpipeline.store.layout import Workspace

CHECK_MODELS = "check-models"
"""Takes the arguments of a step, but is none: it publishes nothing."""


HAND_OVER = "--hand-over"
"""Goes with the step `train` where its workers may write to their working folder alone."""

ONLY_VERIFY = "--only-verify"
"""Goes with the step `verify` where its caller makes the version current, or does not."""


SHARD = "--shard"
"""Goes with the step `serve` where a front asks it for parts of requests."""


def canary_arguments(challenger: str) -> list[str]:
    """Return what the step `canary` is told beside what all steps are.

    Args:
        challenger: Where a replica of the new version answers, HOST:PORT of REST.
    """
    return ["--challenger", challenger]


def step_arguments(
    name: str,
    *,
    config: str | Path,
    workspace: str | Workspace,
    candidate: str | None = None,
    among: str | None = None,
    version: str | None = None,
    output: str | Path | None = None,
    forced: str | Path | None = None,
    run: str | None = None,
) -> list[str]:
    """Return the command line of a step of the plan.

    Args:
        name: The step's name.
        config: The run's configuration file.
        workspace: The folder of all artifacts.
        candidate: The candidate that it is done for, if it is done for each.
        among: Names of the candidates that count, separated by commas; None leaves the option out.
        version: The version of the model that it is about; None, or nothing, for what is selected.
        output: File for the step's figures, if it has any to hand back.
        forced: File that says who wants the gate passed, and why, for the gate; for the step that
            verifies, who has had it passed. It need not be there.
        run: The name of the run that publishes a version.
    """
    arguments = ["step", name, "--config", str(config), "--workspace", str(workspace)]
    if candidate is not None:
        arguments += ["--candidate", candidate]
    if among is not None:  # in one word, because Argo may fill in nothing
        arguments.append(f"--among={among}")
    if version is not None:
        arguments.append(f"--version={version}")
    if output is not None:
        arguments += ["--output", str(output)]
    if forced is not None:
        arguments += ["--forced", str(forced)]
    if run is not None:
        arguments.append(f"--run={run}")
    return arguments


def predictor_arguments(
    name: str,
    version: str,
    *,
    workspace: str | Workspace,
    serving: Serving,
    port: int | None = None,
    grpc_port: int | None = None,
    replica: str | None = None,
) -> list[str]:
    """Return the command line of one replica of a model: the step `serve` without a configuration.

    Args:
        name: The model's name in its URL.
        version: The registered version to serve.
        workspace: The folder of all artifacts.
        serving: The address to listen on, and what is told of the model.
        port: The port of REST; None for the command's default, as in a pod.
        grpc_port: The port of gRPC, likewise.
        replica: The name that it gives in its answers; None for the host's.
    """
    arguments = ["step", "serve", "--name", name, "--workspace", str(workspace)]
    arguments += ["--version", version, "--host", serving.host]
    if not serving.metrics:
        arguments.append("--no-metrics")
    if serving.log.share:
        arguments += ["--log", serving.log.model_dump_json()]
    if not serving.page:
        arguments.append("--no-page")
    if serving.feedback:
        arguments += ["--feedback", serving.feedback]
    return arguments + _server_options(port, grpc_port, replica)


def front_arguments(
    name: str,
    replicas: Sequence[str],
    *,
    at_least: int,
    host: str,
    port: int | None = None,
    grpc_port: int | None = None,
    replica: str | None = None,
) -> list[str]:
    """Return the command line of a front, which cuts large requests into pieces for replicas.

    Args:
        name: The model's name in its URL.
        replicas: The REST addresses of the replicas, `HOST:PORT` each.
        at_least: How many of them must answer before the front listens.
        host: The address to listen on.
        port: The port of REST; None for the command's default.
        grpc_port: The port of gRPC, likewise.
        replica: The name that the front gives in its answers; None for the host's.
    """
    arguments = ["step", "front", "--name", name, "--host", host]
    arguments += ["--replicas", ",".join(replicas), "--at-least", str(at_least)]
    return arguments + _server_options(port, grpc_port, replica)


def predict_batch_arguments(
    event: str, *, workspace: str | Workspace, output: str | Path | None = None
) -> list[str]:
    """Return the command line that predicts a folder of image files.

    Args:
        event: The event that asks for it, as JSON or that in base64.
        workspace: The folder of all artifacts.
        output: File for the key of the predictions, if it is wanted.
    """
    # One word: what begins with a dash is a value all the same.
    arguments = ["step", "predict-batch", f"--event={event}", "--workspace", str(workspace)]
    return arguments if output is None else [*arguments, "--output", str(output)]


def feedback_arguments(event: str, *, workspace: str | Workspace) -> list[str]:
    """Return the command line that keeps the corrected labels of an event, as that has it."""
    return ["step", "feedback", f"--event={event}", "--workspace", str(workspace)]


def run_arguments(*, config: str | Path, workspace: str | Workspace) -> list[str]:
    """Return the command line that runs the whole pipeline on this machine."""
    return ["run", "--config", str(config), "--workspace", str(workspace)]


def _server_options(port: int | None, grpc_port: int | None, replica: str | None) -> list[str]:
    options = {"--port": port, "--grpc-port": grpc_port, "--replica": replica}
    given = {option: value for option, value in options.items() if value is not None}
    return [word for option, value in given.items() for word in (option, str(value))]
