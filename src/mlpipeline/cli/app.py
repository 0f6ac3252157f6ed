"""The command line: the steps, as every process and pod runs them, and what a person calls.

TensorFlow and KServe are imported by the commands that need them, so that the others start at once.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from mlpipeline import environment, logs
from mlpipeline.cli import cluster as cluster_commands
from mlpipeline.errors import PipelineError
from mlpipeline.events import feedback, schema
from mlpipeline.plan import batch as predictions
from mlpipeline.plan import config as configuration
from mlpipeline.plan import pipeline
from mlpipeline.plan.config import Config
from mlpipeline.store import artifacts, layout, registry

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(cluster_commands.app, name="cluster")

ConfigFile = Annotated[Path, typer.Option("--config", help="The configuration file.")]
Workspace = Annotated[
    layout.Workspace,
    typer.Option(
        parser=layout.Workspace.parse, metavar="DIRECTORY", help="The folder of all artifacts."
    ),
]
Among = Annotated[str, typer.Option(help="Candidates that count, by commas; empty: all.")]
DEFAULT_CONFIG = Path("configs/default.yaml")
DEFAULT_WORKSPACE = layout.Workspace(Path("workspace"))


def main() -> None:
    """Run the command line; an error with a remedy is printed without a traceback."""
    environment.prepare()
    logs.configure()
    try:
        app()
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        # Not sys.exit: TensorFlow's shutdown would wait for the workers that are gone.
        os._exit(error.exit_status)
    except Exception as error:
        if not _is_of_a_full_disk(error):
            raise
        print(
            f"error: the disk is full: {error}\n"
            "  expected: room for the artifact; nothing half-written is left\n"
            "  to do:    free some, then run again: finished steps are reused",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def _is_of_a_full_disk(error: Exception) -> bool:
    # TensorFlow's errors, when it writes a checkpoint or a model, have the text without the number.
    full = (errno.ENOSPC, errno.EDQUOT)
    return any(
        number == getattr(error, "errno", None) or os.strerror(number) in str(error)
        for number in full
    )


# --- steps ------------------------------------------------------------------------------------


@app.command()
def ingest(config: ConfigFile = DEFAULT_CONFIG, workspace: Workspace = DEFAULT_WORKSPACE) -> None:
    """Step: fetch the data set, split it, write sharded TFRecords."""
    settings = configuration.load(config)
    task = pipeline.plan(settings)["ingest"]
    if _reused(task, workspace):
        return
    from mlpipeline.steps import ingestion

    ingestion.ingest(settings.data, workspace.dataset(task.key).path, feedback=workspace.feedback)


@app.command()
def train(
    candidate: Annotated[str, typer.Option(help="Name of the candidate.")],
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Step: train one candidate, as the worker that TF_CONFIG says."""
    settings = configuration.load(config)
    tasks = pipeline.plan(settings)
    task = tasks[f"train-{_known(candidate, settings)}"]
    if _reused(task, workspace):
        return
    dataset = workspace.dataset(tasks["ingest"].key).path
    artifacts.verify(dataset)
    from mlpipeline.learning.training.cluster_spec import from_environment
    from mlpipeline.steps import training

    training.train(
        candidate,
        settings.candidates[candidate],
        settings.training,
        seed=settings.seed,
        dataset=dataset,
        output=workspace.candidate(task.key).path,
        cluster=from_environment(os.environ),
    )


@app.command()
def select(
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
    among: Among = "",
) -> None:
    """Step: choose among the candidates that were trained, test the best one, register it."""
    settings = configuration.load(config).among(among)
    tasks = pipeline.plan_of_finished(settings, workspace)
    task = tasks["select"]
    if _reused(task, workspace):
        return
    from mlpipeline.steps import selection

    selection.select(
        settings.name,
        {str(tasks[n].candidate): workspace.candidate(tasks[n].key).path for n in task.needs},
        dataset=workspace.dataset(tasks["ingest"].key).path,
        output=workspace.selection(task.key).path,
        model=workspace.model(settings.name, task.key).path,
    )


@app.command()
def predictor(
    name: Annotated[str, typer.Option(help="What the model is called.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    version: Annotated[str | None, typer.Option(help="Default: the current one.")] = None,
    replica: Annotated[str, typer.Option(help="This replica's name.")] = socket.gethostname(),
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="For REST, V1 and V2.")] = 8080,
    grpc_port: Annotated[int, typer.Option(help="For gRPC, V2.")] = 8081,
) -> None:
    """Step: serve one replica of a registered model in the foreground."""
    version = version or registry.current(workspace, name)
    from mlpipeline.steps import serving

    serving.serve(
        workspace.model(name, version).path,
        name=name,
        host=host,
        http_port=port,
        grpc_port=grpc_port,
        replica=replica,
    )


@app.command()
def front(
    name: Annotated[str, typer.Option("--name", "--model_name", help="What the model is called.")],
    replicas: Annotated[str, typer.Option(help="HOST:PORT,…; all addresses of a host count.")],
    at_least: Annotated[int, typer.Option(help="So many must answer before it listens.")] = 1,
    replica: Annotated[str, typer.Option(help="This front's own name.")] = socket.gethostname(),
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "--http_port", help="For REST.")] = 8080,
    grpc_port: Annotated[int, typer.Option(help="For gRPC, V2.")] = 8081,
    predictor_host: Annotated[
        str, typer.Option("--predictor_host", help="KServe says it; one address for all replicas.")
    ] = "",
) -> None:
    """Step: cut large requests into pieces for several replicas, in the foreground."""
    from mlpipeline.steps import front as fronts

    fronts.serve(
        replicas.split(","),
        name=name,
        http_port=port,
        grpc_port=grpc_port,
        front=replica,
        at_least=at_least,
        host=host,
    )


@app.command()
def verify(
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
    output: Annotated[Path | None, typer.Option(help="Write the figures there, as JSON.")] = None,
    url: Annotated[str, typer.Option(help="Instead of serving.host and serving.port.")] = "",
    grpc: Annotated[str, typer.Option(help="HOST:PORT, instead of serving.grpc_port.")] = "",
    autoscaled: Annotated[
        bool, typer.Option(help="Replicas come and go: serving.replicas of any names must answer.")
    ] = False,
    among: Among = "",
) -> None:
    """Step: send the whole test split through every protocol, compare, make the version current."""
    settings = configuration.load(config).among(among)
    tasks = pipeline.plan_of_finished(settings, workspace)
    from mlpipeline.learning.data import tfrecords
    from mlpipeline.steps import verification

    selection = workspace.selection(tasks["select"].key)
    artifacts.verify(selection.path)
    images, labels = tfrecords.read_split(workspace.dataset(tasks["ingest"].key).path, "test")
    serving = settings.serving
    figures = verification.verify(
        base_url=url or f"http://{serving.host}:{serving.port}",
        grpc_address=grpc or f"{serving.host}:{serving.grpc_port}",
        name=settings.name,
        expected=verification.Expected(
            images=images,
            labels=labels,
            probabilities=np.load(selection.test_probabilities),
            accuracy=artifacts.read_json(selection.decision)["test"]["accuracy"],
            replicas=serving.replicas if autoscaled else serving.replica_names,
        ),
    )
    registry.promote(workspace, settings.name, tasks["select"].key)
    if output:
        protocols = [asdict(protocol) for protocol in figures]
        seen = sorted({replica for protocol in figures for replica in protocol.replicas})
        artifacts.write_json(output, {"replicas": seen, "protocols": protocols})


@app.command()
def predict_batch(
    model: Annotated[str, typer.Option(help="What the model is called; its current version.")],
    folder: Annotated[str, typer.Option(help="Of the image files, below the workspace.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    output: Annotated[Path | None, typer.Option(help="Write the key there, too.")] = None,
) -> None:
    """Step: predict a folder of image files."""
    batch = predictions.plan(workspace, model, folder)
    place = workspace.predictions(batch.key)
    if artifacts.is_whole(place.path):
        print(f"{batch.key} is there already", flush=True)
    else:
        from mlpipeline.steps import batch_prediction

        batch_prediction.predict(batch, place.path)
    summary = artifacts.read_json(place.summary)
    print(
        f"{place.table}: {summary['files']} files, of which {summary['unreadable']} "
        f"could not be read, by version {summary['version']}",
        flush=True,
    )
    if output:
        artifacts.write_text(output, batch.key)


@app.command("feedback")
def keep_feedback(
    event: Annotated[str, typer.Option(help="The event, as JSON: see events.py.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Step: keep corrected labels for the next run."""
    posted = schema.parse(event, origin="--event")
    if not isinstance(posted, schema.FeedbackEvent):
        raise typer.BadParameter(f"got a {posted.kind} event, expected feedback")
    kept = "kept" if feedback.add(workspace, posted) else "there already"
    print(f"corrected labels: {len(posted.corrections)}, {kept}", flush=True)


# --- for people -------------------------------------------------------------------------------


@app.command()
def run(
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
    asynchronous: Annotated[
        bool,
        typer.Option("--asynchronous", help="Serve a good candidate while others are trained."),
    ] = False,
) -> None:
    """Run the whole pipeline on this machine; what is finished is reused."""
    from mlpipeline.backends.local import commands

    commands.run(configuration.load(config), config, workspace, asynchronous=asynchronous)


@app.command()
def serve(
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65_534, help="Instead of serving.port; gRPC gets the next one."),
    ] = None,
    shards: Annotated[
        int, typer.Option(min=0, help="Cut large requests for so many replicas; 0: do not.")
    ] = 0,
) -> None:
    """Serve the current model by all replicas until Ctrl-C."""
    from mlpipeline.backends.local import commands

    settings = configuration.load(config)
    if port is not None:
        serving = settings.serving.model_copy(update={"port": port, "grpc_port": port + 1})
        settings = settings.model_copy(update={"serving": serving})
    commands.serve(settings, workspace, shards)


@app.command()
def predict(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Say what the current model sees in an image."""
    from mlpipeline.backends.local import commands

    commands.predict(configuration.load(config), workspace, image)


@app.command()
def post_event(
    files: Annotated[list[Path], typer.Argument(help="An event each, as events.py describes.")],
    url: Annotated[str, typer.Option(help="Of Argo's server.")] = "http://127.0.0.1:2746",
    token: Annotated[str, typer.Option(envvar="ARGO_TOKEN", help="Of a service account.")] = "",
    namespace: Annotated[str, typer.Option(help="Where workflows run.")] = "mlpipeline",
    seconds: Annotated[float, typer.Option(help="How long to try, for each.")] = 120,
) -> None:
    """Post events to a cluster, each until it is accepted."""
    from mlpipeline.events import posting

    for event in [schema.read(file) for file in files]:
        new = posting.post(event, url=url, token=token, namespace=namespace, seconds=seconds)
        print(f"{event.name}: {'accepted' if new else 'was posted before'}", flush=True)


@app.command()
def watch(workspace: Workspace = DEFAULT_WORKSPACE) -> None:
    """Do the events that are dropped into the workspace's folder inbox/, until Ctrl-C."""
    from mlpipeline.backends.local import commands

    commands.watch(workspace)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A folder of `workspace/runs`.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Write the report of an earlier run again."""
    from mlpipeline.runs import report as reports

    print(reports.write(workspace, artifacts.read_json(layout.RunFolder(run).record)))


@app.command()
def lineage(
    version: Annotated[str, typer.Argument(help="Of a model, as it is served or registered.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Say which run, candidate, data and code a version of a model came from."""
    from rich.console import Console

    from mlpipeline.runs import trace

    tree, damaged = trace.trace(workspace, version)
    for problem in damaged:
        print(f"warning: left out, because it is damaged: {problem}", file=sys.stderr)
    Console(highlight=False, markup=False, width=500).print(
        tree
    )  # digests are not to be cut: terminals wrap


@app.command()
def track(workspace: Workspace = DEFAULT_WORKSPACE) -> None:
    """Send the runs to MLflow that it does not have yet: to MLFLOW_TRACKING_URI, or a file."""
    from mlpipeline.backends.local import commands
    from mlpipeline.runs.mlflow import client, sending

    commands.close_killed(workspace)
    uri = sending.configured() or sending.embedded(workspace)
    for run in client.send(workspace, uri):
        print(f"sent {run}", flush=True)


def _reused(task: pipeline.Task, workspace: layout.Workspace) -> bool:
    done = task.is_done(workspace)
    if done:
        print(f"{task.name}: {task.key} is there already", flush=True)
    return done


def _known(candidate: str, settings: Config) -> str:
    if candidate not in settings.candidates:
        raise typer.BadParameter(
            f"got {candidate!r}, expected one of {', '.join(settings.candidates)}",
            param_hint="--candidate",
        )
    return candidate
