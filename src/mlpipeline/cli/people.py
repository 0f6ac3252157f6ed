"""What a person calls: run the pipeline, serve its model, look at what was done."""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mlpipeline import environment, loading
from mlpipeline.cli.options import (
    DEFAULT_CONFIG,
    DEFAULT_WORKSPACE,
    ConfigFile,
    FalseAlarms,
    Hours,
    Looked,
    Workspace,
)
from mlpipeline.errors import ConfigurationError, EventError
from mlpipeline.events import dropping, retraining, schema
from mlpipeline.plan import config as configuration
from mlpipeline.store import layout, registry, signatures
from mlpipeline.store.schemas.gate import Forced
from mlpipeline.store.schemas.run import Run

_log = logging.getLogger(__name__)
_EDGE = Path("edge")
_WORKSPACE_OF_PODS = layout.Workspace(Path("/workspace"))


def add_to(app: typer.Typer) -> None:
    """Add the commands to a command line, in the order in which its help shows them."""
    panels = {
        "Begin": (new,),
        "Run the pipeline, use its model": (run, serve, rollback, sign, predict, edge),
        "Events": (watch, post_event),
        "Look at what was done": (models, drift, metrics, report, site, lineage, track),
        "Keep house": (gc,),
    }
    for panel, commands in panels.items():
        for command in commands:
            app.command(rich_help_panel=panel)(command)


def new(
    folder: Annotated[
        Path, typer.Argument(help="Where to write it; its name is the project's, and the model's.")
    ],
) -> None:
    """Write a small project of your own: data, model, configuration, test, image."""
    from mlpipeline.cli import project

    written = project.write(folder)
    typer.echo(f"{folder}: {', '.join(str(file) for file in written)}")
    typer.echo("To begin with: read its README.md, then run `pytest` and `make` there.")


def run(
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
    asynchronous: Annotated[
        bool,
        typer.Option("--asynchronous", help="Serve a good candidate while others are trained."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Serve the result whatever the gate says; say why, too."),
    ] = False,
    why: Annotated[
        str, typer.Option(help="Why it is forced, for the record; it goes with --force.")
    ] = "",
) -> None:
    """Run the whole pipeline on this machine; what is finished is reused."""
    from mlpipeline.backends.local import commands

    if force != bool(why.strip()):
        raise typer.BadParameter("--force and --why go together: the record says why")
    forced = Forced(who=environment.user(), reason=why.strip()) if force else None
    settings = configuration.load(config)
    commands.run(settings, config, workspace, asynchronous=asynchronous, forced=forced)


def serve(
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_534,
            help="The port of REST in place of serving.port; gRPC gets the next one.",
        ),
    ] = None,
    shards: Annotated[
        int,
        typer.Option(min=0, help="How many replicas share each large request; 0: none do."),
    ] = 0,
) -> None:
    """Serve the current model by all replicas until Ctrl-C."""
    from mlpipeline.backends.local import commands

    settings = configuration.load(config)
    if port is not None:
        serving = settings.serving.model_copy(update={"port": port, "grpc_port": port + 1})
        settings = settings.model_copy(update={"serving": serving})
    commands.serve(settings, workspace, shards, say=typer.echo)


def rollback(
    version: Annotated[
        str, typer.Argument(help="The version; by default the one that was current before.")
    ] = "",
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
    why: Annotated[str, typer.Option(help="Why, for the model's history.")] = "",
    force: Annotated[
        bool,
        typer.Option("--force", help="Also to a version that the gate held back; say why, too."),
    ] = False,
) -> None:
    """Go back to another version of the model, once its files and answers are verified."""
    from mlpipeline.backends.local import commands

    if force and not why.strip():
        raise typer.BadParameter("--force needs --why: the history says it")
    settings = configuration.load(config)
    commands.rollback(
        settings, config, workspace, version, why=why.strip(), force=force, say=typer.echo
    )


def sign(
    version: Annotated[
        str, typer.Argument(help="The version to sign; by default the current one.")
    ] = "",
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Sign a version with the key of MLPIPELINE_SIGNING_KEY, for replicas that trust no other."""
    name = configuration.load(config).name
    folder = workspace.model(name, version or registry.current(workspace, name))
    if not signatures.sign(folder):
        raise ConfigurationError(
            f"{signatures.SIGNING_KEY} is not set",
            expected="a key to sign with, as PEM",
            remedy="docs/how-to/sign.md says how one is made",
        )
    typer.echo(f"{folder.version}: {folder.signature}")


def predict(
    image: Annotated[Path, typer.Argument(help="The image file.")],
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Say what the current model sees in an image."""
    from mlpipeline.cli import prediction

    for line in prediction.describe(configuration.load(config), workspace, image):
        typer.echo(line)


def edge(
    output: Annotated[
        Path, typer.Option(help="The folder to write; not there yet, or empty.")
    ] = _EDGE,
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Write the current model into a folder for a small machine, with a program that asks it."""
    from mlpipeline.cli import edge as edges

    written = edges.write(configuration.load(config), workspace, output)
    typer.echo(f"{output}: {', '.join(written)}")
    typer.echo("To use it: copy the folder to the machine, and read its README.md there.")


def watch(workspace: Workspace = DEFAULT_WORKSPACE) -> None:
    """Do the events that are dropped into the workspace's folder inbox/, until Ctrl-C."""
    from mlpipeline.backends.local import commands

    commands.watch(workspace)


def post_event(
    files: Annotated[
        list[Path], typer.Argument(help="A JSON file for each event: see mlpipeline.events.schema.")
    ],
    url: Annotated[str, typer.Option(help="The URL of Argo's server.")] = "http://127.0.0.1:2746",
    token: Annotated[
        str, typer.Option(envvar="ARGO_TOKEN", help="The token of a service account.")
    ] = "",
    namespace: Annotated[
        str, typer.Option(envvar="NAMESPACE", help="The namespace that workflows run in.")
    ] = "mlpipeline",
    seconds: Annotated[float, typer.Option(help="How long to try to post each.")] = 120,
    workspace: Annotated[
        layout.Workspace,
        typer.Option(
            parser=layout.Workspace.parse,
            metavar="DIRECTORY",
            help="Where the cluster's workspace is, for the addresses of answers.",
        ),
    ] = _WORKSPACE_OF_PODS,
) -> None:
    """Post events to a cluster, each until it is accepted; say where answers will be."""
    from mlpipeline.backends.cluster import reasons
    from mlpipeline.events import posting

    failed = []
    for event in [schema.read(file) for file in files]:
        outcome = posting.post(event, url=url, token=token, namespace=namespace, seconds=seconds)
        said = reasons.of_posted(outcome)
        if outcome.has_failed:
            failed.append(event.name)
        elif isinstance(event, schema.PredictEvent):
            said += f"; its answer: {workspace.answer(event.name)}"
        typer.echo(f"{event.name}: {said}")
    if failed:
        names = " ".join(failed)
        raise EventError(
            f"posted before, and failed: {names}",
            expected="events that are new, under way or done",
            remedy="mend what it says, then have it done again, as it is: "
            f"kubectl -n {namespace} delete workflow {names}, and post it again. Mended itself, "
            "it is another event: give it another id",
        )


def models(
    model: Annotated[str, typer.Argument(help="The name of one; by default all.")] = "",
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """List the versions of models: their figures, which was current when, and why."""
    from rich.console import Console

    from mlpipeline.runs import versions

    # As wide as it needs: versions are not to be cut, and terminals wrap.
    console = Console(highlight=False, markup=False, width=500)
    for table in versions.tables(workspace, model):
        console.print(table)
        console.print()


def drift(
    model: Annotated[
        str, typer.Argument(help="The model's name; by default the configuration's.")
    ] = "",
    config: ConfigFile = DEFAULT_CONFIG,
    workspace: Workspace = DEFAULT_WORKSPACE,
    images: Looked = 1_000,
    hours: Hours = None,
    false_alarms: FalseAlarms = 0.01,
    fail: Annotated[bool, typer.Option("--fail", help="Fail where there is drift.")] = False,
    train: Annotated[
        bool,
        typer.Option("--train", help="Where there is drift, put a train event into the inbox."),
    ] = False,
    cool_down: Annotated[
        int, typer.Option(min=1, metavar="HOURS", help="There is one at most in so many hours.")
    ] = 24,
) -> None:
    """Say whether what the current model is asked is like what it was validated by."""
    from rich.console import Console

    from mlpipeline.cli import drift as comparing

    name = model or configuration.load(config).name
    compared = comparing.compare(
        workspace,
        name,
        images=images,
        hours=hours,
        false_alarms=false_alarms,
    )
    console = Console(highlight=False, markup=False, width=500)
    console.print(*compared.summary, sep="\n")
    console.print(comparing.table(compared))
    console.print(compared.verdict)
    if train and compared.is_drift:
        event = retraining.event(workspace, name, hours=cool_down, now=datetime.now(UTC))
        said = "waits in the inbox" if dropping.put(workspace.inbox, event) else "was posted before"
        console.print(f"{event.name}: {said}")
    if fail and compared.is_drift:
        raise typer.Exit(1)


def metrics(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port; 0 is any.")] = 9_464,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    certificate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT", help="A server whose certificate may expire; repeatable."
        ),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Tell Prometheus of the workspace's runs and trainings, at /metrics, until Ctrl-C."""
    from mlpipeline.runs import workspace_metrics

    collector = workspace_metrics.WorkspaceMetrics(workspace, certificate or ())
    with contextlib.suppress(KeyboardInterrupt):
        workspace_metrics.serve(collector, host, port).join()


def report(
    run: Annotated[Path, typer.Argument(help="The run's folder, in workspace/runs.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Write the report of an earlier run again."""
    from mlpipeline.runs import report as reports

    typer.echo(reports.write(workspace, Run.load(layout.RunFolder(run).record)))


def site(workspace: Workspace = DEFAULT_WORKSPACE) -> None:
    """Write one page of all models and runs, which leads to their reports."""
    from mlpipeline.runs.report import site as sites

    typer.echo(sites.write(workspace))


def lineage(
    version: Annotated[str, typer.Argument(help="A version of a model, served or registered.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Say which run, candidate, data and code a version of a model came from."""
    from rich.console import Console

    from mlpipeline.runs import trace

    tree, damaged = trace.trace(workspace, version)
    for problem in damaged:
        _log.warning("left out, because it is damaged: %s", problem)
    # As wide as it needs: digests are not to be cut, and terminals wrap.
    Console(highlight=False, markup=False, width=500).print(tree)


def track(workspace: Workspace = DEFAULT_WORKSPACE) -> None:
    """Send the runs to MLflow that it does not have yet: to MLFLOW_TRACKING_URI, or a file."""
    from mlpipeline.backends.local import commands

    with loading.large_libraries():
        from mlpipeline.runs.mlflow import client, sending

    commands.close_killed(workspace)
    uri = sending.configured() or sending.embedded(workspace)
    for run in client.send(workspace, uri):
        typer.echo(f"sent {run}")


def gc(
    keep_runs: Annotated[
        int, typer.Option(min=1, help="How many of the newest runs stay, with all that they used.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and leave it.")
    ] = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Remove what neither the newest runs nor the versions that are kept lead to.

    Kept are the current version of each model, the one before it, what the gate has held back since
    and what the file models/NAME/pinned names. A run that is under way is waited for.
    """
    from mlpipeline.backends.local import commands

    commands.gc(workspace, keep_runs, dry_run=dry_run, say=typer.echo)
