"""`mlpipeline cluster NAME`: what those pods of a workflow run that talk to the cluster's API."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlpipeline import logs
from mlpipeline.cli.options import Among, Workspace
from mlpipeline.errors import ClusterError
from mlpipeline.events import feedback
from mlpipeline.plan import config as configuration
from mlpipeline.plan import pipeline
from mlpipeline.plan.commands import predictor_arguments
from mlpipeline.plan.pipeline import SELECT, TRAIN
from mlpipeline.store import artifacts
from mlpipeline.store.schemas.candidate import Metrics

if TYPE_CHECKING:  # importing it takes a second
    from mlpipeline.backends.cluster.api import Cluster, Manifest

app = typer.Typer(
    help="Do what only the pods of a workflow do: they talk to the cluster.", no_args_is_help=True
)
_log = logging.getLogger(__name__)

ConfigFile = Annotated[Path, typer.Option("--config", help="The run's configuration file.")]
Outputs = Annotated[Path, typer.Option(help="The folder for the step's output parameters.")]
Templates = Annotated[Path, typer.Option(help="The folder of the manifests to complete.")]
Image = Annotated[str, typer.Option(help="The image of the pods that are started.")]
PendingSeconds = Annotated[int, typer.Option(help="Seconds that a pod may take to start.")]
Owner = Annotated[str, typer.Option("--workflow", help="The workflow, as NAME/UID.")]


@app.callback()
def _begin(context: typer.Context) -> None:
    logs.configure(step=context.invoked_subcommand)


@app.command()
def plan(
    config: ConfigFile,
    workspace: Workspace,
    outputs: Outputs,
    templates: Templates,
    image: Image,
    workflow: Owner,
    memo: Annotated[str, typer.Option(help="The ConfigMap that is Argo's cache.")],
) -> None:
    """Check the configuration of a workflow, write it for the run, say what has to be done."""
    from mlpipeline.backends.cluster import api, planning

    cluster = api.connect()
    given = planning.parameters(_workflow(cluster, workflow))
    planning.check_braces(given)
    overrides = planning.Overrides.of(given)
    settings = feedback.joined(
        planning.resolve(given.get("configuration", ""), overrides), workspace
    )
    planned = planning.plan(
        settings, workspace, cluster, memo=memo, image=image, templates=templates
    )
    configuration.write(settings, config)  # one that can be planned: the record plans it, too
    _write_outputs(outputs, planned)


@app.command()
def train(
    candidate: Annotated[str, typer.Option(help="The name of the candidate to train.")],
    config: ConfigFile,
    workspace: Workspace,
    outputs: Outputs,
    templates: Templates,
    image: Image,
    workflow: Owner,
    pending_seconds: PendingSeconds = 300,
    queue: Annotated[
        str, typer.Option(help="The LocalQueue of Kueue; empty for the template's.")
    ] = "",
    priority: Annotated[
        str, typer.Option(help="The priority in the queue; empty for the template's.")
    ] = "",
    queue_seconds: Annotated[
        int, typer.Option(help="Seconds that it may wait in the queue.")
    ] = 10_800,
) -> None:
    """Have a candidate trained by a TFJob, and return its figures."""
    from mlpipeline.backends.cluster import api, manifests, queueing, tfjob

    logs.configure(step=TRAIN.name, candidate=candidate)
    settings = configuration.load(config)
    task = pipeline.plan(settings)[TRAIN.task_name(candidate)]
    if not task.is_done(workspace):
        job = tfjob.complete(
            manifests.load(templates, "tfjob"),
            name=tfjob.job_name(task.key),
            image=image,
            arguments=task.arguments(config, workspace),
            settings=settings.training,
            workflow=(owner := tfjob.WorkflowReference.parse(workflow)),
        )
        tfjob.run(
            api.connect(),
            queueing.in_queue(job, queue=queue, priority=priority),
            settings.training,
            workflow=owner,
            pending_seconds=pending_seconds,
            queue_seconds=queue_seconds,
            stop=_stop_event(),
        )
        artifacts.verify(workspace.candidate(task.key).path)
    metrics = Metrics.load(workspace.candidate(task.key).metrics)
    _log.info("%s", metrics.summary)
    _write_outputs(outputs, {"metrics": json.dumps(metrics.content())})


@app.command()
def serve(
    config: ConfigFile,
    workspace: Workspace,
    outputs: Outputs,
    templates: Templates,
    image: Image,
    pending_seconds: PendingSeconds = 300,
    among: Among = "",
) -> None:
    """Publish the selected version by an InferenceService, and return who serves it."""
    from mlpipeline.backends.cluster import api, inference_service, manifests

    settings = configuration.load(config).among(among)
    version = pipeline.plan_of_finished(settings, workspace)[SELECT.name].key
    folder = workspace.model(settings.name, version).path
    artifacts.verify(folder)
    service = inference_service.complete(
        manifests.load(templates, "inference-service"),
        name=settings.name,
        version=version,
        content=inference_service.digest_of(folder),
        image=image,
        arguments=predictor_arguments(
            settings.name, version, workspace=workspace, host=settings.serving.host
        ),
        replicas=settings.serving.replicas,
    )
    revision = inference_service.roll_out(
        api.connect(),
        service,
        manifests.load(templates, "disruption-budget"),
        # They roll one after the other.
        seconds=settings.serving.ready_timeout_seconds * (1 + settings.serving.replicas),
        pending_seconds=pending_seconds,
    )
    _log.info("version %s is served by %s", version, ", ".join(revision.replicas))
    _write_outputs(
        outputs,
        {
            "version": version,
            "name": settings.name,
            "revision": revision.digest,
            "replicas": ",".join(revision.replicas),
        },
    )


@app.command()
def judge(
    config: ConfigFile,
    workspace: Workspace,
    outputs: Outputs,
    last: Annotated[
        bool, typer.Option("--last", help="Say so where no other candidate is going to be trained.")
    ] = False,
) -> None:
    """Say which candidates' selection is to be served, and whether that is another model."""
    from mlpipeline.backends.cluster import api, inference_service
    from mlpipeline.plan import succession

    settings = configuration.load(config)
    served = inference_service.version(api.connect(), settings.name)
    found = succession.judge(settings, workspace, served, last=last)
    among = ",".join(found.among)
    _log.info("%s", found.reason)
    _write_outputs(
        outputs,
        {
            "replaces": str(found.replaces).lower(),
            "among": among,
            "key": pipeline.plan(settings.among(among))[SELECT.name].key,
        },
    )


@app.command()
def record(workspace: Workspace, workflow: Owner) -> None:
    """Write the record and the report of a workflow, and end the jobs that it has left."""
    from mlpipeline.backends.cluster import api, tfjob
    from mlpipeline.backends.cluster import record as records
    from mlpipeline.runs import lineage, report
    from mlpipeline.runs.mlflow import sending

    cluster = api.connect()
    owner = tfjob.WorkflowReference.parse(workflow)
    run = records.record(_workflow(cluster, workflow), workspace)
    run.save()
    lineage.write(workspace, run.content())
    # Without a tracking server nothing is sent: SQLite's locks are not for a volume of many nodes.
    with sending.sending(workspace, sending.configured()):
        typer.echo(f"{run.state}: {report.write(workspace, run.content())}")
    tfjob.delete_unfinished(cluster, owner)


def _workflow(cluster: Cluster, owner: str) -> Manifest:
    """Return the workflow that this step belongs to, given as NAME/UID."""
    name = owner.partition("/")[0]
    found = cluster.get("Workflow", name)
    if found is None:
        raise ClusterError(
            f"there is no workflow {name}",
            expected="the one that this step belongs to",
            remedy="nothing, if it was deleted: there is nothing left to do for it",
        )
    return found


def _write_outputs(folder: Path, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        artifacts.write_text(folder / name, value)


def _stop_event() -> threading.Event:
    """An event that SIGTERM sets: so the wait ends in order, where it can look at the workflow."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop
