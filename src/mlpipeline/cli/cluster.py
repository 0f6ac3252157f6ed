"""`mlpipeline cluster NAME`: what those pods of a workflow run that talk to the cluster's API."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlpipeline import logs
from mlpipeline.cli import last_words
from mlpipeline.cli.options import Workspace
from mlpipeline.cli.stopping import stop_event
from mlpipeline.errors import (
    ArtifactError,
    ClusterError,
    ClusterUnreachableError,
    MissingArtifactError,
)
from mlpipeline.events import feedback
from mlpipeline.learning.data import expectations
from mlpipeline.plan import config as configuration
from mlpipeline.plan import own_files, pipeline
from mlpipeline.plan.commands import HAND_OVER, predictor_arguments
from mlpipeline.plan.config import INBOX
from mlpipeline.plan.fingerprint import code_version
from mlpipeline.plan.pipeline import INGEST, SELECT, TRAIN, VERIFY
from mlpipeline.store import artifacts, history, layout, registry, rollback
from mlpipeline.store.schemas.candidate import Metrics
from mlpipeline.store.schemas.selection import ModelCard

if TYPE_CHECKING:  # importing it takes a second
    from mlpipeline.backends.cluster.api import Cluster, Manifest
    from mlpipeline.backends.cluster.inference_service import Revision

app = typer.Typer(
    help="Do what only the pods of a workflow do: they talk to the cluster.", no_args_is_help=True
)
_log = logging.getLogger(__name__)

# Where Kubernetes puts it.
_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_POST_SECONDS = 120.0
_REPORTS_PORT = 8083  # network-policies/canary.yaml lets replicas reach it
_SERVING = ("mlpipeline.steps.serving", "mlpipeline.steps.front")  # what the replicas run

ConfigFile = Annotated[Path, typer.Option("--config", help="The run's configuration file.")]
Outputs = Annotated[Path, typer.Option(help="The folder for the step's output parameters.")]
Templates = Annotated[Path, typer.Option(help="The folder of the manifests to complete.")]
Image = Annotated[str, typer.Option(help="The image of the pods that are started.")]
PredictorImage = Annotated[
    str, typer.Option(help="The image of pods that LiteRT serves by; empty for the other one.")
]
PendingSeconds = Annotated[int, typer.Option(help="Seconds that a pod may take to start.")]
Memo = Annotated[str, typer.Option(help="The ConfigMap that is Argo's cache.")]
Version = Annotated[str, typer.Option(help="The version that a rollback leads to.")]
InsteadOf = Annotated[str, typer.Option(help="The version that is current until then.")]
Owner = Annotated[str, typer.Option("--workflow", help="The workflow, as NAME/UID.")]


@app.callback()
def _begin(context: typer.Context) -> None:
    last_words.begin()
    logs.configure(step=context.invoked_subcommand)


@app.command()
def plan(
    config: ConfigFile,
    workspace: Workspace,
    outputs: Outputs,
    workflow: Owner,
    memo: Memo,
) -> None:
    """Check the configuration of a workflow, write it for the run, say what has to be done."""
    from mlpipeline.backends.cluster import api, planning
    from mlpipeline.backends.cluster import record as records
    from mlpipeline.runs import garbage

    cluster = api.connect()
    run = _workflow(cluster, workflow)
    garbage.wait_for_removal(workspace, f"workflow {run['metadata']['name']}")
    given = planning.parameters(run)
    planning.check_braces(given)
    overrides = planning.Overrides.of(given)
    resolved = planning.resolve(given.get("configuration", ""), overrides)
    settings = own_files.pinned(feedback.joined(resolved, workspace))
    settings = expectations.against_current(settings, workspace)
    planned = planning.plan(settings, workspace, cluster, cache=memo)
    workspace.prepare(settings.name)
    configuration.write(settings, config)  # one that can be planned: the record plans it, too
    records.begin(run, settings, workspace)
    if forced := planning.forced(run):
        forced.save(workspace.run(run["metadata"]["name"]).forced)
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
    tasks = pipeline.plan(settings)
    task = tasks[TRAIN.task_name(candidate)]
    folder = workspace.candidate(task.key)
    work = folder.work
    if not task.is_done(workspace):
        cluster, owner = api.connect(), tfjob.WorkflowReference.parse(workflow)
        name = tfjob.job_name(task.key)
        # An earlier pod of this step may have seen the job's end, and then been killed.
        if tfjob.is_under_way(cluster, name) or not _is_handed_over(work.result.path):
            work.path.mkdir(parents=True, exist_ok=True)
            job = tfjob.complete(
                manifests.load(templates, "tfjob"),
                name=name,
                image=image,
                arguments=[*task.arguments(config, workspace), HAND_OVER],
                settings=settings.training,
                workflow=owner,
                reads=[
                    workspace.run(owner.name).path.relative_to(workspace.root),
                    *tasks[INGEST.name].publishes,
                    *own_files.below(workspace.root, settings.candidates[candidate]),
                ],
                writes=work.path.relative_to(workspace.root),
            )
            tfjob.run(
                cluster,
                queueing.in_queue(job, queue=queue, priority=priority),
                settings.training,
                workflow=owner,
                pending_seconds=pending_seconds,
                queue_seconds=queue_seconds,
                stop=stop_event(),
            )
        artifacts.take_over(work.result.path, folder.path)
    _remove(work.path)
    metrics = Metrics.load(folder.metrics)
    _log.info("%s", metrics.summary)
    _write_outputs(outputs, {"metrics": json.dumps(metrics.content())})


@app.command()
def canary(
    config: ConfigFile,
    workspace: Workspace,
    outputs: Outputs,
    templates: Templates,
    image: Image,
    workflow: Owner,
    version: Annotated[str, typer.Option(help="The version, which the gate has let pass.")],
    predictor_image: PredictorImage = "",
    pending_seconds: PendingSeconds = 300,
) -> None:
    """Have the current version's replicas try another one, and say whether it may be served."""
    from mlpipeline.backends.cluster import api, challenger, tfjob
    from mlpipeline.backends.cluster import rollout as rolling
    from mlpipeline.plan import rollout
    from mlpipeline.steps import canary as trials

    settings, cluster, stop = configuration.load(config), api.connect(), stop_event()
    owner = tfjob.WorkflowReference.parse(workflow)
    current = registry.usable(workspace, settings.name)
    served = cluster.get("InferenceService", settings.name)
    table = rollout.without_trial(settings, workspace, version)
    if not served and not table:
        table = rollout.waved_through(version, current, f"not tried: nobody serves {current}")
    if not table:
        assert served is not None
        images = (image, predictor_image)
        tried = rollout.of_challenger(settings)
        full = _service(tried, workspace, version, templates=templates, images=images)
        wait = rolling.Wait(
            cluster, settings.serving.ready_timeout_seconds * 2, pending_seconds, stop
        )
        trial = challenger.served(cluster, challenger.of(full, owner.owner()), wait)
        with contextlib.ExitStack() as stack:
            try:
                find_fault = stack.enter_context(trial)
            except ClusterUnreachableError:  # the next attempt will see
                raise
            except ClusterError as error:
                fault = f"its replica does not start: {error.got}"
                table = rollout.verdict(settings.rollout, version, current, [], fault=fault)
            else:
                is_sharded = "transformer" in served["spec"]
                contest = trials.Contest(
                    workspace,
                    settings.name,
                    champion=current,
                    challenger=version,
                    address=challenger.address(full, cluster.namespace),
                    only_shadow="a sharded service answers by one version" if is_sharded else "",
                    is_served=True,
                    find_fault=find_fault,
                )
                # Replicas report to this pod itself: no Service leads to a step.
                listen = socket.gethostbyname(socket.gethostname())
                table = trials.conduct(
                    settings.rollout,
                    contest,
                    who=owner.name,
                    listen=listen,
                    port=_REPORTS_PORT,
                    stop=stop,
                )
    if table.kept:
        history.hold_back(
            workspace, settings.name, version, run=owner.name, why=table.reason, by="canary"
        )
    _log.info("%s: %s", version, table.summary)
    _write_outputs(
        outputs,
        {"verdict": table.verdict, "said": table.summary, "table": table.model_dump_json()},
    )


@app.command()
def serve(
    config: ConfigFile,
    workspace: Workspace,
    outputs: Outputs,
    templates: Templates,
    image: Image,
    workflow: Owner,
    memo: Memo,
    version: Annotated[str, typer.Option(help="The version, which the gate has let pass.")],
    predictor_image: PredictorImage = "",
    pending_seconds: PendingSeconds = 300,
) -> None:
    """Publish a registered version by an InferenceService, and return who serves it."""
    from mlpipeline.backends.cluster import api, planning
    from mlpipeline.backends.cluster import memo as memos

    settings = configuration.load(config)
    cluster, good = api.connect(), registry.usable(workspace, settings.name)
    revision = _roll_out(
        cluster,
        settings,
        workspace,
        version,
        good=good,
        templates=templates,
        images=(image, predictor_image),
        workflow=workflow,
        parameters=planning.repeatable(_workflow(cluster, workflow)),
        pending_seconds=pending_seconds,
    )
    # The step after this one, if Argo remembers that this very state was verified.
    images = str(settings.verify.images)
    verified = f"{VERIFY.name}-{revision.digest}-{images}"
    memos.forget(cluster, memo, {verified: good == version}, answers={verified: "figures"})
    _log.info("version %s is served by %s", version, ", ".join(revision.replicas))
    _write_outputs(
        outputs,
        {
            "version": version,
            "name": settings.name,
            "revision": revision.digest,
            "replicas": ",".join(revision.replicas),
            "images": images,  # for the key of the verification's memo
            "rolled": str(revision.rolled).lower(),
        },
    )


def _roll_out(
    cluster: Cluster,
    settings: configuration.Config,
    workspace: layout.Workspace,
    version: str,
    *,
    good: str,
    templates: Path,
    images: tuple[str, str],
    workflow: str,
    parameters: Mapping[str, str],
    pending_seconds: int,
) -> Revision:
    """Roll a version out, and return what is served then; what is not to be served is undone.

    Args:
        cluster: Where it is served.
        settings: The configuration: the model's name, and how it is served.
        workspace: The folder of all artifacts.
        version: The version.
        good: The version that was last verified, to which a roll-out that fails goes back.
        templates: The folder of the manifests to complete.
        images: That of replicas that TensorFlow serves by, and that of the others; maybe empty.
        workflow: The workflow that this is done for, as NAME/UID.
        parameters: Those of the run that has published it.
        pending_seconds: Seconds that a pod may take to start.
    """
    from mlpipeline.backends.cluster import manifests, rollout

    service = _service(settings, workspace, version, templates=templates, images=images)
    return rollout.roll_out(
        cluster,
        service,
        manifests.load(templates, "disruption-budget"),
        rollout.Publication(
            good,
            parameters,
            code_version(VERIFY.module),
            stop=stop_event(),
            is_over=functools.partial(_is_over, cluster, workflow),
        ),
        seconds=_roll_out_seconds(settings),
        pending_seconds=pending_seconds,
    )


def _service(
    settings: configuration.Config,
    workspace: layout.Workspace,
    version: str,
    *,
    templates: Path,
    images: tuple[str, str],
) -> Manifest:
    """Return the InferenceService of a version; the arguments are those of `_roll_out`."""
    from mlpipeline.backends.cluster import inference_service, manifests

    registered = workspace.model(settings.name, version)
    folder = registered.path
    artifacts.verify(folder)
    card = ModelCard.load(registered.card)
    is_litert, (image, predictor_image) = card.engine == "litert", images
    requests = workspace.requests(settings.name).relative_to(workspace.root)
    serving = settings.serving
    if serving.feedback == INBOX:
        _log.warning(
            "serving.feedback is %r, which is of one machine: here the page takes no feedback",
            INBOX,
        )
        serving = serving.model_copy(update={"feedback": ""})
    return inference_service.complete(
        manifests.load(templates, "inference-service", variant=card.engine),
        name=settings.name,
        version=version,
        content=inference_service.digest_of(folder),
        code=code_version(*_SERVING),
        image=predictor_image if is_litert and predictor_image else image,
        arguments=predictor_arguments(settings.name, version, workspace=workspace, serving=serving),
        reads=folder.parent.relative_to(workspace.root),
        writes=requests if settings.serving.log.share else None,
        replicas=settings.serving.replicas,
        why_tensorflow="" if is_litert else card.engine_reason,
    )


@app.command()
def undo(config: ConfigFile, workspace: Workspace, pending_seconds: PendingSeconds = 300) -> None:
    """Serve the version again that was last verified, because another one was not; then fail."""
    from mlpipeline.backends.cluster import api, rollout

    settings = configuration.load(config)
    said = rollout.undo(
        api.connect(),
        settings.name,
        registry.usable(workspace, settings.name),
        seconds=_roll_out_seconds(settings),
        pending_seconds=pending_seconds,
    )
    raise ClusterError(
        f"what was rolled out was not verified: {said}",
        expected="that verification succeeds",
        remedy="read the message of the step verify; then run it again",
    )


@app.command()
def find_way_back(
    config: ConfigFile, workspace: Workspace, outputs: Outputs, workflow: Owner
) -> None:
    """Check what a rollback asks for, and say which version it leads to, and from which."""
    from mlpipeline.backends.cluster import api
    from mlpipeline.backends.cluster import rollback as rollbacks
    from mlpipeline.runs import garbage

    cluster = api.connect()
    run = _workflow(cluster, workflow)
    garbage.wait_for_removal(workspace, f"workflow {run['metadata']['name']}")
    asked = rollbacks.Request.of(run)
    way = rollback.find(workspace, asked.model, asked.version, force=asked.force)
    configuration.write(rollbacks.settings_of(cluster, way), config)
    _log.info("%s: from version %s to %s", way.name, way.current, way.version)
    _write_outputs(outputs, {"name": way.name, "version": way.version, "instead-of": way.current})


@app.command()
def restore(
    config: ConfigFile,
    workspace: Workspace,
    templates: Templates,
    image: Image,
    workflow: Owner,
    version: Version,
    instead_of: InsteadOf,
    predictor_image: PredictorImage = "",
    pending_seconds: PendingSeconds = 300,
) -> None:
    """Publish an earlier version by the InferenceService, if nobody has changed it meanwhile."""
    from mlpipeline.backends.cluster import api
    from mlpipeline.backends.cluster import rollback as rollbacks

    settings, cluster = configuration.load(config), api.connect()
    way = rollback.WayBack(settings.name, instead_of, version)
    way.confirm(workspace)
    revision = _roll_out(
        cluster,
        settings,
        workspace,
        version,
        good=registry.usable(workspace, settings.name),
        templates=templates,
        images=(image, predictor_image),
        workflow=workflow,
        parameters=rollbacks.parameters_of(cluster, way),
        pending_seconds=pending_seconds,
    )
    _log.info("version %s is served by %s", version, ", ".join(revision.replicas))


@app.command()
def settle(
    config: ConfigFile,
    workspace: Workspace,
    workflow: Owner,
    version: Version,
    instead_of: InsteadOf,
) -> None:
    """Make a version current that a rollback has published and verified; tell MLflow."""
    from mlpipeline.backends.cluster import api
    from mlpipeline.backends.cluster import rollback as rollbacks
    from mlpipeline.runs.mlflow import sending

    settings = configuration.load(config)
    asked = rollbacks.Request.of(_workflow(api.connect(), workflow))
    way = rollback.WayBack(settings.name, instead_of, version)
    way.take(workspace, by=asked.by, why=asked.why, force=asked.force)
    typer.echo(f"{way.version} is current, in place of {way.current}")
    with sending.sending(workspace, sending.configured()):
        pass  # the aliases of the registered model


@app.command()
def judge(
    config: ConfigFile,
    workspace: Workspace,
    outputs: Outputs,
    memo: Memo,
    last: Annotated[
        bool, typer.Option("--last", help="Say so where no other candidate is going to be trained.")
    ] = False,
) -> None:
    """Say which candidates' selection is to be served, and whether that is another model."""
    from mlpipeline.backends.cluster import api, inference_service
    from mlpipeline.backends.cluster import memo as memos
    from mlpipeline.plan import succession

    settings = configuration.load(config)
    cluster = api.connect()
    served = inference_service.version(cluster.get("InferenceService", settings.name))
    found = succession.judge(settings, workspace, served, last=last)
    among = ",".join(found.among)
    selection = pipeline.plan(settings.among(among))[SELECT.name]
    memos.forget(cluster, memo, {selection.key: selection.is_done(workspace)})
    _log.info("%s", found.reason)
    _write_outputs(
        outputs,
        {
            "replaces": str(found.replaces).lower(),
            "among": among,
            "key": selection.key,
        },
    )


@app.command()
def record(workspace: Workspace, workflow: Owner) -> None:
    """Write the record and the report of a workflow, and end the jobs that it has left."""
    from mlpipeline.backends.cluster import api, challenger, pods, tfjob
    from mlpipeline.backends.cluster import record as records
    from mlpipeline.runs import lineage, report
    from mlpipeline.runs.mlflow import sending
    from mlpipeline.runs.webhook import Webhook

    webhook = Webhook.taken_from()
    cluster = api.connect()
    owner = tfjob.WorkflowReference.parse(workflow)
    warnings = functools.partial(pods.warnings_of, cluster)
    run = records.record(_workflow(cluster, workflow), workspace, warnings)
    run.save()
    lineage.write(workspace, run.content())
    tfjob.delete_unfinished(cluster, owner)
    challenger.delete_left(cluster, owner.uid)
    for others in (
        records.close_deleted(cluster, workspace),
        records.unrecorded(cluster, workspace, warnings),
    ):
        with records.no_matter("the other runs"):
            for other in others:
                with records.no_matter(other.run):
                    lineage.write(workspace, other)
                    page = report.write(workspace, other)
                    typer.echo(f"{other.run}: {other.state}, {other.error}: {page}")
    # Last, because the workspace's report is the one that was written last.
    # Without a tracking server nothing is sent: SQLite's locks are not for a volume of many nodes.
    with sending.sending(workspace, sending.configured()):
        typer.echo(f"{run.state}: {report.write(workspace, run.content())}")
    if webhook:
        webhook.tell(run.content(), run.folder)


@app.command()
def retrain(
    workflow: Owner,
    template: Annotated[str, typer.Option(help="The WorkflowTemplate that is the pipeline.")],
) -> None:
    """Run the pipeline once more for each model that is served, as it was run for it."""
    from mlpipeline.backends.cluster import api, retraining, tfjob

    retraining.retrain(
        api.connect(),
        tfjob.WorkflowReference.parse(workflow),
        template=template,
        stop=stop_event(),
    )


@app.command()
def post(
    event: Annotated[str, typer.Option(help="The event as JSON, or that in base64.")],
    url: Annotated[str, typer.Option(help="The URL of Argo's server.")],
    namespace: Annotated[str, typer.Option(help="The namespace that workflows run in.")],
) -> None:
    """Post an event, by the token of this pod's service account, until it is accepted."""
    from mlpipeline.backends.cluster import reasons
    from mlpipeline.events import posting, schema

    posted = schema.parse_argument(event, origin="--event")
    token = _TOKEN.read_text(encoding="utf-8").strip()
    outcome = posting.post(posted, url=url, token=token, namespace=namespace, seconds=_POST_SECONDS)
    # One that has failed is no failure of this step: its own workflow is where people see that.
    typer.echo(f"{posted.name}: {reasons.of_posted(outcome)}")


@app.command()
def gc(
    workspace: Workspace,
    memo: Memo,
    workflow: Owner,
    keep_runs: Annotated[
        int, typer.Option(min=1, help="How many of the newest runs stay, with all that they used.")
    ],
    dry_run: Annotated[
        str, typer.Option(help="`true` to say what would be removed, and leave it, or `false`.")
    ] = "false",
) -> None:
    """Remove what neither the newest runs nor the versions that are kept lead to."""
    from mlpipeline.backends.cluster import api, housekeeping
    from mlpipeline.runs import garbage

    if dry_run not in ("true", "false"):
        raise typer.BadParameter(f"got --dry-run={dry_run}, expected true or false")
    cluster = api.connect()
    served = functools.partial(housekeeping.served, cluster)
    if dry_run == "true":
        found = garbage.find(workspace, keep_runs, served=served())
    else:
        found = garbage.remove(
            workspace,
            keep_runs,
            who=f"workflow {workflow.partition('/')[0]}",
            under_way=functools.partial(housekeeping.under_way, cluster),
            served=served,
        )
        housekeeping.forget(cluster, memo, found)
    for line in garbage.describe(found, workspace, is_done=dry_run == "false"):
        typer.echo(line)


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


def _is_over(cluster: Cluster, workflow: str) -> bool:
    from mlpipeline.backends.cluster import tfjob

    return tfjob.is_over(cluster.get("Workflow", tfjob.WorkflowReference.parse(workflow).name))


def _is_handed_over(result: Path) -> bool:
    """Whether workers have published what can be taken over; what cannot is removed."""
    try:
        artifacts.check_of_others(result)
    except MissingArtifactError:
        return False
    except ArtifactError as error:
        _log.warning("made anew: %s", error.got)
        artifacts.remove(result)
        return False
    return True


def _remove(work: Path) -> None:
    """Remove a folder that workers have trained in: what they have made was taken over."""
    try:
        shutil.rmtree(work)
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("%s stays: %s", work, error)


def _roll_out_seconds(settings: configuration.Config) -> float:
    """How long all replicas may take, one after the other."""
    return settings.serving.ready_timeout_seconds * (1 + settings.serving.replicas)


def _write_outputs(folder: Path, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        artifacts.write_text(folder / name, value)
