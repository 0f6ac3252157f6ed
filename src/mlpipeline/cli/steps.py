"""`mlpipeline step NAME`: what the local backend's processes and the cluster's pods run.

Each step of `mlpipeline.plan.pipeline` is here under its own name; beside them are the front of a
sharded service and what an event starts.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import typer

from mlpipeline import addresses, loading, logs
from mlpipeline.cli import last_words
from mlpipeline.cli.options import (
    DEFAULT_CONFIG,
    DEFAULT_WORKSPACE,
    Among,
    ConfigFile,
    FalseAlarms,
    Hours,
    Looked,
    Workspace,
)
from mlpipeline.cli.stopping import stop_event
from mlpipeline.errors import GateError, PipelineError
from mlpipeline.events import feedback as corrections
from mlpipeline.events import retraining, schema
from mlpipeline.learning.data import expectations
from mlpipeline.plan import batch as predictions
from mlpipeline.plan import config as configuration
from mlpipeline.plan import gate as rule
from mlpipeline.plan import own_files, pipeline, rollout
from mlpipeline.plan.commands import HAND_OVER, ONLY_VERIFY, SHARD
from mlpipeline.plan.config import Config, RequestLogging, Serving, module_of
from mlpipeline.plan.pipeline import INGEST, SELECT, TRAIN, Task
from mlpipeline.store import artifacts, files, history, layout, registry, signatures
from mlpipeline.store.layout import ModelFolder
from mlpipeline.store.schemas.dataset import DatasetCard
from mlpipeline.store.schemas.gate import Forced, GateTable
from mlpipeline.store.schemas.prediction import PredictionSummary
from mlpipeline.store.schemas.selection import Decision, ModelCard

app = typer.Typer(help="Do one step of the pipeline, as its pod does.", no_args_is_help=True)

_log = logging.getLogger(__name__)

_EVENTS = "What an event starts"
_BY_OPERATORS = ("train", "serve", "front")  # who run these, not a workflow

ReplicaName = Annotated[
    str | None,
    typer.Option("--replica", help="This server's name in its answers; by default the host's."),
]


_Event = TypeVar("_Event", schema.PredictEvent, schema.FeedbackEvent)

EventText = Annotated[
    str,
    typer.Option(
        "--event", help="The event as JSON, or that in base64: see mlpipeline.events.schema."
    ),
]


@app.callback()
def _begin(context: typer.Context) -> None:
    if context.invoked_subcommand not in _BY_OPERATORS:
        last_words.begin()
    logs.configure(step=context.invoked_subcommand)


@app.command()
def ingest(config: ConfigFile = DEFAULT_CONFIG, workspace: Workspace = DEFAULT_WORKSPACE) -> None:
    """Fetch the data set, split it, write sharded TFRecords, see whether it is as expected."""
    settings = configuration.load(config)
    task = pipeline.plan(settings)[INGEST.name]
    if not _is_reused(task, workspace):
        with loading.tensorflow():
            from mlpipeline.steps import ingestion

        ingestion.ingest(
            settings.data,
            workspace.dataset(task.key).path,
            feedback=workspace.feedback,
            confirm=partial(own_files.confirm, settings.data.dataset, settings.data),
            check=lambda data: _check_models(
                settings, data.train.images.shape[1:], len(data.classes)
            ),
        )
    # What is expected is part of no key, so one that is reused is judged as well.
    judgement = expectations.of(workspace, settings.expectations, task.key)
    judgement.tell()
    judgement.require()


@app.command()
def check_models(
    config: ConfigFile = DEFAULT_CONFIG, workspace: Workspace = DEFAULT_WORKSPACE
) -> None:
    """See that models of your own can be built for a data set that is there already."""
    settings = configuration.load(config)
    dataset = workspace.dataset(pipeline.plan(settings)[INGEST.name].key)
    card = DatasetCard.load(dataset.card)
    _check_models(settings, card.shape, len(card.classes))


@app.command()
def train(
    candidate: Annotated[str, typer.Option(help="The name of the candidate to train.")],
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
    hand_over: Annotated[
        bool,
        typer.Option(
            HAND_OVER, help="Publish it in its working folder: whoever has started this moves it."
        ),
    ] = False,
) -> None:
    """Train one candidate, as the worker that the variable TF_CONFIG says."""
    logs.configure(step=TRAIN.name, candidate=candidate)
    settings = configuration.load(config)
    tasks = pipeline.plan(settings)
    task = tasks[TRAIN.task_name(_known(candidate, settings))]
    published = workspace.candidate(task.key)
    output = published.work.result if hand_over else published
    if artifacts.is_whole(output.path):
        typer.echo(f"{task.name}: {task.key} is there already")
        return
    dataset = workspace.dataset(tasks[INGEST.name].key).path
    artifacts.verify(dataset)  # of every worker: all of it is read, tens of megabytes
    own_files.confirm(settings.candidates[candidate].model, settings.candidates[candidate])
    with loading.tensorflow():
        from mlpipeline.learning.training.cluster_spec import from_environment
        from mlpipeline.steps import training

    training.train(
        candidate,
        settings.candidates[candidate],
        settings.training,
        seed=settings.seed,
        dataset=dataset,
        work=published.work.path,
        output=output.path,
        cluster=from_environment(os.environ),
    )


@app.command()
def select(
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
    among: Among = "",
) -> None:
    """Choose among the candidates that were trained, make what is served, test it, register it."""
    settings = configuration.load(config).among(among)
    tasks = pipeline.plan_of_finished(settings, workspace)
    task = tasks[SELECT.name]
    if _is_reused(task, workspace):
        return
    with loading.tensorflow():
        from mlpipeline.steps import selection

    trainings = [tasks[name] for name in task.reads if tasks[name].step is TRAIN]
    selection.select(
        settings.name,
        {str(each.candidate): workspace.candidate(each.key).path for each in trainings},
        dataset=workspace.dataset(tasks[INGEST.name].key).path,
        output=workspace.selection(task.key).path,
        model=workspace.model(settings.name, task.key).path,
        engine=settings.serving.engine,
        precision=settings.serving.precision,
        source=settings.data.dataset,
        said=settings.card,
    )


@app.command()
def gate(
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
    among: Among = "",
    version: Annotated[
        str, typer.Option(help="The new version; by default what was selected.")
    ] = "",
    output: Annotated[
        Path | None, typer.Option(help="File to write the table to, as JSON.")
    ] = None,
    forced: Annotated[
        Path | None,
        typer.Option(help="File that says who wants it served whatever is found, if it is there."),
    ] = None,
    run: Annotated[str, typer.Option(help="The run that asks, for the model's history.")] = "",
    outputs: Annotated[
        Path | None, typer.Option(help="Folder for the output parameters of a workflow.")
    ] = None,
) -> None:
    """Compare what was selected with the current version, and say whether it may be served."""
    settings = configuration.load(config).among(among)
    version = version or pipeline.plan_of_finished(settings, workspace)[SELECT.name].key
    table = _judged(settings, workspace, version, forced)
    if table.kept:
        history.hold_back(workspace, settings.name, version, run=run, why=table.reason)
    else:
        signatures.sign(workspace.model(settings.name, version))
    typer.echo(f"{version}: {table.summary}")
    if output:
        table.save(output)
    if outputs:  # which Argo limits to 256 kB: of many classes the table has some
        values = {
            "version": version,
            "verdict": table.verdict,
            "said": table.summary,
            "table": table.model_dump_json(),
            # Which file says who has passed it: their words are no argument, Argo evaluates those.
            "forced": str(forced) if table.forced else "nobody",
            "canary": str(_is_to_be_tried(settings, workspace, table)).lower(),
        }
        for name, value in values.items():
            artifacts.write_text(outputs / name, value)


def _is_to_be_tried(settings: Config, workspace: layout.Workspace, table: GateTable) -> bool:
    """Whether a version is to be tried; a workflow does not start a pod to find out."""
    if table.kept or not settings.rollout.trials:
        return False
    said = rollout.without_trial(settings, workspace, table.version)
    return said is None or bool(said.kept)  # what holds it back is said by the step


@app.command()
def canary(
    challenger: Annotated[
        str, typer.Option(help="Where a replica of the new version answers, HOST:PORT of REST.")
    ],
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
    among: Among = "",
    version: Annotated[
        str, typer.Option(help="The new version; by default what was selected.")
    ] = "",
    output: Annotated[
        Path | None, typer.Option(help="File to write the table to, as JSON.")
    ] = None,
    run: Annotated[str, typer.Option(help="The run that asks.")] = "",
) -> None:
    """Have the current version's replicas try what was selected, and say whether it may serve."""
    from mlpipeline.steps import canary as trials

    settings = configuration.load(config).among(among)
    version = version or pipeline.plan_of_finished(settings, workspace)[SELECT.name].key
    contest = trials.Contest(
        workspace,
        settings.name,
        champion=registry.current(workspace, settings.name),
        challenger=version,
        address=challenger,
    )
    table = trials.conduct(settings.rollout, contest, who=run or "somebody", stop=stop_event())
    typer.echo(f"{version}: {table.summary}")
    if output:
        table.save(output)


@app.command()
def refuse(
    by: Annotated[str, typer.Option(help="The step that has held a version back.")] = "gate",
) -> None:
    """Fail, because a version was held back, and the configuration asks for that."""
    section = "gate" if by == "gate" else "rollout"
    raise GateError(
        f"the {by} has held back what was selected",
        expected=f"a version that passes it, as `{section}.required` is true",
        remedy=f"read what the step {by} has said, or the report; to serve it all the same, "
        + (
            "run it again with the parameter `force`, which is the reason"
            if by == "gate"
            else "leave `rollout` out of the configuration"
        ),
    )


def _judged(
    settings: Config, workspace: layout.Workspace, version: str, forced: Path | None
) -> GateTable:
    """Compare a version with the current one, unless there is nothing to find out."""
    name, current = settings.name, registry.usable(workspace, settings.name)
    if version == current:
        return rule.waved_through(version, current, rule.IS_CURRENT)
    if not settings.gate.asks:
        return rule.waved_through(version, current, rule.NOTHING_ASKED)

    def find_current() -> ModelFolder | None:
        if not workspace.current_version(name).exists():
            return None
        return workspace.model(name, registry.current(workspace, name))

    new = workspace.model(name, version)
    dataset = workspace.dataset(ModelCard.load(new.card).dataset_key).path
    artifacts.verify(dataset)
    with loading.large_libraries():
        from mlpipeline.steps import gate as gates

    return gates.judge(
        settings.gate,
        new.path,
        find_current,
        dataset=dataset,
        forced=_order(forced),
    )


def _order(file: Path | None) -> Forced | None:
    """Return who has given the order to serve a version whatever the gate says; None for nobody."""
    return Forced.load(file) if file and file.exists() else None


@app.command()
def serve(
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
    among: Among = "",
    name: Annotated[
        str | None,
        typer.Option(help="The model's name; with it no configuration is read."),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(help="The version; by default what was selected, or with --name the current."),
    ] = None,
    replica: ReplicaName = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="The port of REST, V1 and V2.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="The port of gRPC, V2.")] = None,
    metrics: Annotated[
        bool | None,
        typer.Option(help="Whether to tell of the model at /metrics; by default serving.metrics."),
    ] = None,
    log: Annotated[
        RequestLogging | None,
        typer.Option(
            parser=RequestLogging.model_validate_json,
            metavar="JSON",
            help="How to log requests; by default serving.log.",
        ),
    ] = None,
    page: Annotated[
        bool | None,
        typer.Option(help="Whether / is a page for browsers; by default serving.page."),
    ] = None,
    feedback: Annotated[
        str | None,
        typer.Option(help="Where that page may post feedback; by default serving.feedback."),
    ] = None,
    shard: Annotated[
        bool, typer.Option(SHARD, help="It answers parts of requests, for a front.")
    ] = False,
) -> None:
    """Serve one replica of a registered model in the foreground."""
    if name is None:
        settings = configuration.load(config).among(among)
        name, serving = settings.name, settings.serving
        if version is None:
            version = pipeline.plan_of_finished(settings, workspace)[SELECT.name].key
    else:
        serving = Serving()
        version = version or registry.current(workspace, name)
    log = log or serving.log
    with loading.large_libraries():
        from mlpipeline.steps import serving as servers

    servers.serve(
        workspace.model(name, version).path,
        name=name,
        host=host or serving.host,
        http_port=port or serving.port,
        grpc_port=grpc_port or serving.grpc_port,
        replica=replica or socket.gethostname(),
        metrics=serving.metrics if metrics is None else metrics,
        log=(workspace.requests(name), log) if log.share else None,
        page=serving.page if page is None else page,
        feedback=serving.feedback if feedback is None else feedback,
        inbox=workspace.inbox,
        is_shard=shard,
    )


@app.command()
def verify(
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
    output: Annotated[
        Path | None, typer.Option(help="File to write the figures to, as JSON.")
    ] = None,
    url: Annotated[
        str, typer.Option(help="The address of REST; by default serving.host and serving.port.")
    ] = "",
    grpc: Annotated[
        str, typer.Option(help="The address of gRPC as HOST:PORT; by default serving.grpc_port.")
    ] = "",
    autoscaled: Annotated[
        bool,
        typer.Option(
            "--autoscaled",
            help="Replicas come and go: serving.replicas of any names must answer.",
        ),
    ] = False,
    among: Among = "",
    version: Annotated[
        str, typer.Option(help="The version that is served; by default what was selected.")
    ] = "",
    run: Annotated[
        str, typer.Option(help="The run that publishes it, for the model's history.")
    ] = "",
    forced: Annotated[
        Path | None,
        typer.Option(help="File that says who has had it pass the gate by force, if it is there."),
    ] = None,
    only_verify: Annotated[
        bool, typer.Option(ONLY_VERIFY, help="Leave the version that is current as it is.")
    ] = False,
) -> None:
    """Send the test split to what is served, compare, make the version current."""
    settings = configuration.load(config).among(among)
    # Whoever has served it says which it is: by now another run may have trained a candidate that
    # was missing, so that another version would be selected.
    version = version or pipeline.plan_of_finished(settings, workspace)[SELECT.name].key
    with loading.large_libraries():
        from mlpipeline.learning.data.splits import StoredSplit
        from mlpipeline.steps import verification

    selection = workspace.selection(version)
    artifacts.verify(selection.path)
    decision = Decision.load(selection.decision)
    dataset = workspace.dataset(decision.dataset).path
    serving, host = settings.serving, addresses.reachable(settings.serving.host)
    figures = verification.verify(
        base_url=url or f"http://{addresses.join(host, serving.port)}",
        grpc_address=grpc or addresses.join(host, serving.grpc_port),
        name=settings.name,
        expected=verification.Expected(
            split=StoredSplit(dataset, "test"),
            probabilities=np.load(selection.test_probabilities, mmap_mode="r"),
            accuracy=decision.test.accuracy,
            replicas=serving.replicas if autoscaled else serving.replica_names,
        ),
        images=settings.verify.images,
    )
    if not only_verify:
        registry.promote(workspace, settings.name, version, run=run, forced=_order(forced))
    if output:
        figures.save(output)


# The options spelt with underscores are KServe's: `mlpipeline.steps.front` says why.
@app.command()
def front(
    name: Annotated[str, typer.Option("--name", "--model_name", help="The model's name.")],
    replicas: Annotated[
        str,
        typer.Option(
            help="The replicas' addresses, HOST:PORT, separated by commas; a name stands for all "
            "of its addresses."
        ),
    ],
    at_least: Annotated[
        int, typer.Option(help="How many replicas must answer before it listens.")
    ] = 1,
    replica: ReplicaName = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "--http_port", help="The port of REST.")] = 8080,
    grpc_port: Annotated[int, typer.Option(help="The port of gRPC, V2.")] = 8081,
    predictor_host: Annotated[
        str,
        typer.Option(
            "--predictor_host",
            help="Not used: KServe gives one address for all replicas, --replicas names each.",
        ),
    ] = "",
) -> None:
    """Cut large requests into pieces for several replicas, in the foreground."""
    with loading.large_libraries():
        from mlpipeline.steps import front as fronts

    fronts.serve(
        replicas.split(","),
        name=name,
        http_port=port,
        grpc_port=grpc_port,
        front=replica or socket.gethostname(),
        at_least=at_least,
        host=host,
    )


@app.command(rich_help_panel=_EVENTS)
def predict_batch(
    event: EventText,
    workspace: Workspace = DEFAULT_WORKSPACE,
    output: Annotated[Path | None, typer.Option(help="File to write the key to, too.")] = None,
) -> None:
    """Predict a folder of image files; the answer is a file with the event's name."""
    asked = _posted(event, schema.PredictEvent)
    batch = predictions.plan(workspace, asked.model, asked.folder)
    place = workspace.predictions(batch.key)
    if artifacts.is_whole(place.path):
        typer.echo(f"{batch.key} is there already")
    else:
        from mlpipeline.steps import batch_prediction

        batch_prediction.predict(batch, place.path)
    summary = PredictionSummary.load(place.summary)
    answer = workspace.answer(asked.name)
    files.copy(place.table, answer)
    if output:
        artifacts.write_text(output, batch.key)
    typer.echo(
        f"{answer}: {summary.files} files, of which {summary.unreadable} "
        f"could not be read, by version {summary.version}"
    )


@app.command(rich_help_panel=_EVENTS)
def feedback(event: EventText, workspace: Workspace = DEFAULT_WORKSPACE) -> None:
    """Keep corrected labels for the next run."""
    posted = _posted(event, schema.FeedbackEvent)
    kept = "kept" if corrections.add(workspace, posted) else "there already"
    typer.echo(f"corrected labels: {len(posted.corrections)}, {kept}")


@app.command(rich_help_panel=_EVENTS)
def find_drift(
    workspace: Workspace = DEFAULT_WORKSPACE,
    images: Looked = 1_000,
    hours: Hours = None,
    false_alarms: FalseAlarms = 0.01,
    cool_down: Annotated[
        int,
        typer.Option(min=1, metavar="HOURS", help="One event of a model at most in so many hours."),
    ] = 24,
    output: Annotated[
        Path | None, typer.Option(help="File to write the events to: JSON, each in base64.")
    ] = None,
) -> None:
    """Look at the requests of every model; where they have drifted, make a train event."""
    from mlpipeline.cli import drift

    events = []
    looks = drift.compare_all(workspace, images=images, hours=hours, false_alarms=false_alarms)
    for name, compared in looks.items():
        typer.echo(f"{compared.version}: {compared.verdict}")
        if not compared.is_drift:
            continue
        try:
            event = retraining.event(workspace, name, hours=cool_down, now=datetime.now(UTC))
        except PipelineError as error:  # the other models' events are posted all the same
            _log.warning("%s is not trained anew: %s", name, error)
        else:
            events.append(schema.as_argument(event))
    if output:
        artifacts.write_text(output, json.dumps(events))


def _check_models(settings: Config, shape: Sequence[int], classes: int) -> None:
    if any(module_of(candidate.model) for candidate in settings.candidates.values()):
        with loading.tensorflow():
            from mlpipeline.learning.model import models
        models.check(settings.candidates, shape, classes)


def _posted(text: str, kind: type[_Event]) -> _Event:
    """Check an event where it is used: what was posted raw, nobody has looked at before."""
    posted = schema.parse_argument(text, origin="--event")
    if not isinstance(posted, kind):
        raise typer.BadParameter(f"got a {posted.kind} event, expected {kind.__name__}")
    return posted


def _is_reused(task: Task, workspace: layout.Workspace) -> bool:
    is_done = task.is_done(workspace)
    if is_done:
        typer.echo(f"{task.name}: {task.key} is there already")
    return is_done


def _known(candidate: str, settings: Config) -> str:
    if candidate not in settings.candidates:
        raise typer.BadParameter(
            f"got {candidate!r}, expected one of {', '.join(settings.candidates)}",
            param_hint="--candidate",
        )
    return candidate
