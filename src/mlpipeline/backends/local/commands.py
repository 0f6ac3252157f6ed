"""What a person calls on this machine: run the pipeline, serve its model, do events."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from mlpipeline import addresses, environment
from mlpipeline.backends.local import display, following, sharded
from mlpipeline.backends.local.backend import LocalBackend
from mlpipeline.backends.local.display import Display, summary
from mlpipeline.backends.local.inbox import Inbox
from mlpipeline.backends.local.rollback import roll_back
from mlpipeline.backends.local.service import Service
from mlpipeline.events import feedback
from mlpipeline.learning.data import expectations
from mlpipeline.plan import config as configuration
from mlpipeline.plan import own_files, permissions, pipeline
from mlpipeline.plan.config import Config
from mlpipeline.runs import garbage
from mlpipeline.runs import record as runs
from mlpipeline.runs.record import RunRecord
from mlpipeline.runs.webhook import Webhook
from mlpipeline.store import registry
from mlpipeline.store.layout import Workspace
from mlpipeline.store.leases import Lease
from mlpipeline.store.schemas.gate import Forced

_Result = TypeVar("_Result")


def run(
    config: Config,
    config_file: Path,
    workspace: Workspace,
    *,
    asynchronous: bool = False,
    forced: Forced | None = None,
) -> None:
    """Run the pipeline, show it, and write its record and its report, whatever happens.

    Args:
        config: The configuration.
        config_file: Where it was read from, for the record.
        workspace: The folder of all artifacts.
        asynchronous: Whether a good candidate is served while others are trained.
        forced: Who wants the result served whatever the gate says, and why; None for nobody.

    Raises:
        PipelineError: A task failed for good; what was finished before is kept.
        GateError: The gate has held the result back, and the configuration calls that an error.
    """
    webhook = Webhook.taken_from()  # before there is a process that could read it
    config = own_files.pinned(feedback.joined(config, workspace))
    config = expectations.against_current(config, workspace)
    record = RunRecord.begin(config, config_file, workspace)
    with runs.under_way(record.folder):
        garbage.wait_for_removal(workspace, f"run {record.run}")
        close_killed(workspace)
        if forced:
            forced.save(record.folder.forced)
        try:
            _run(config, workspace, record, asynchronous=asynchronous)
        finally:
            if webhook:
                webhook.tell(record.content(), record.folder)


def close_killed(workspace: Workspace) -> None:
    """Conclude the records of runs whose processes were killed."""
    for record in runs.close_killed(workspace):
        from mlpipeline.runs import lineage

        lineage.write(workspace, record)


def _run(config: Config, workspace: Workspace, record: RunRecord, *, asynchronous: bool) -> None:
    console = display.console()
    try:
        config_file = record.folder.config  # what the steps read is what was planned
        configuration.write(config, config_file)
        with Display(pipeline.plan(config), console) as shown:
            backend = LocalBackend(config, config_file, workspace, record, shown)
            asyncio.run(_stoppable(backend.run(asynchronous=asynchronous)))
        record.state = "succeeded"
    except KeyboardInterrupt:
        record.state, record.error = "interrupted", "stopped by a signal"
        raise
    except Exception as error:
        record.state, record.error = "failed", str(error)
        raise
    finally:
        with contextlib.suppress(OSError):  # a full disk must not hide what went wrong before
            _conclude(record, workspace, console)


def _conclude(record: RunRecord, workspace: Workspace, console: Console) -> None:
    """Write the record and the report, and show the table that a run ends with."""
    from mlpipeline.runs import lineage, report
    from mlpipeline.runs.mlflow import sending  # with matplotlib, which takes a second

    record.save()
    lineage.write(workspace, record.content())
    uri = sending.configured(default=sending.embedded(workspace))
    # Whoever presses Ctrl-C does not wait for MLflow: the next run sends this one.
    with sending.sending(workspace, "" if record.state == "interrupted" else uri):
        page = report.write(workspace, record.content())
    console.print()
    console.print(summary(report.evidence.collect(workspace, record.content())))
    outcome = record.content().outcome
    console.print(f"\n{outcome} after {record.seconds:.0f} s; report: {page}", soft_wrap=True)


def serve(
    config: Config, workspace: Workspace, shards: int = 0, *, say: Callable[[str], None]
) -> None:
    """Serve the current model by all replicas until Ctrl-C.

    Args:
        config: The configuration, which names the model.
        workspace: The folder of all artifacts.
        shards: How many replicas stand behind a front and share large requests; 0 for no front.
        say: Called with the address and an example once all replicas answer, and with what becomes
            of a version that is current later: replicas take it over, shards have to be restarted.

    Raises:
        ServingError: There is no current model.
        ProcessError: A port is in use, or a replica did not become ready, or ended.
    """
    version = registry.current(workspace, config.name)
    said = _unless_closed(say)
    serving = (
        _serve_shards(config, workspace, version, shards, said)
        if shards
        else _serve_replicas(config, workspace, version, said)
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_stoppable(serving))


async def _serve_replicas(
    config: Config, workspace: Workspace, version: str, say: Callable[[str], None]
) -> None:
    async with Service(config, workspace, workspace.serving_logs) as service:
        service.claim_ports()
        await service.roll(version)
        say(_greeting(config, workspace, version, f"{config.serving.replicas} replicas"))
        await following.take_over(service, workspace, config.name, say=say)


async def _serve_shards(
    config: Config, workspace: Workspace, version: str, count: int, say: Callable[[str], None]
) -> None:
    logs = workspace.serving_logs
    async with sharded.serving(config, workspace, version, count, logs=logs) as ended:
        say(_greeting(config, workspace, version, f"{count} shards and their front"))

        def check() -> None:
            if ended.done():
                ended.result()

        async for newer in following.newer_versions(workspace, config.name, version, check):
            say(f"version {newer} is current: start this again to serve it in place of {version}")


def _unless_closed(say: Callable[[str], None]) -> Callable[[str], None]:
    """Say what somebody may read, if anybody does: what serves goes on without."""

    def said(text: str) -> None:
        with contextlib.suppress(OSError):
            say(text)

    return said


def rollback(
    config: Config,
    config_file: Path,
    workspace: Workspace,
    version: str,
    *,
    why: str,
    force: bool,
    say: Callable[[str], None],
) -> None:
    """Go back to a version of the model, once its answers are verified; tell MLflow.

    Args:
        config: The configuration, which names the model.
        config_file: Where it was read from.
        workspace: The folder of all artifacts.
        version: A registered version; empty for the one that was current before.
        why: What the person says about it, for the history.
        force: Whether also to a version that the gate held back.
        say: Called with how far it is.

    Raises:
        PipelineError: It is not done, and nothing has changed.
    """
    from mlpipeline.runs.mlflow import sending

    work = roll_back(
        config,
        config_file,
        workspace,
        version,
        by=environment.user(),
        why=why,
        force=force,
        say=say,
    )
    way = asyncio.run(_stoppable(work))
    say(f"{way.version} is current, in place of {way.current}; `mlpipeline serve` serves it")
    with sending.sending(workspace, sending.configured(default=sending.embedded(workspace))):
        pass  # the aliases of the registered model


def gc(workspace: Workspace, keep_runs: int, *, dry_run: bool, say: Callable[[str], None]) -> None:
    """Remove what neither the newest runs nor a version that is kept leads to; say what that was.

    Args:
        workspace: The folder of all artifacts.
        keep_runs: How many of the newest runs are kept.
        dry_run: Whether to say what would be removed, and leave it.
        say: Called with each line.

    Raises:
        ArtifactError: What has to be known of what is kept cannot be read; nothing is removed.
        ProcessError: A run was under way all the time.
    """
    if dry_run:
        found = garbage.find(workspace, keep_runs)
    else:
        found = garbage.remove(
            workspace,
            keep_runs,
            who=f"gc of {environment.user()}",
            under_way=partial(_under_way, workspace),
            say=say,
        )
    for line in garbage.describe(found, workspace, is_done=not dry_run):
        say(line)


def _under_way(workspace: Workspace) -> str:
    """What is not to be disturbed, in words; empty for nothing."""
    for run in runs.going_on(workspace):
        return f"run {run}"
    for name in workspace.model_names():
        if holder := Lease(workspace.rollback_lease(name), "gc").holder():
            return f"a rollback of `{name}` by {holder}"
    return ""


def watch(workspace: Workspace) -> None:
    """Do the events that are dropped into the workspace's inbox, until Ctrl-C.

    An event is somebody else's: it names only whose code is allowed, as in a cluster.
    """
    permissions.restrict()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_stoppable(Inbox(workspace).watch()))


def _greeting(config: Config, workspace: Workspace, version: str, who: str) -> str:
    address = addresses.join(addresses.reachable(config.serving.host), config.serving.port)
    request = workspace.model(config.name, version).example
    command = ["curl", *(("--noproxy", "*") if environment.has_proxy() else ())]
    command += ["-H", "Content-Type: application/json", "-d", f"@{request}"]
    command += [f"http://{address}/v1/models/{config.name}:predict"]
    page = f"\nor open http://{address}/ in a browser\n" if config.serving.page else ""
    return (
        f"{config.name}, version {version}: {who} "
        f"behind {address} (gRPC: {config.serving.grpc_port}); "
        f"Ctrl-C stops them. Try:\n\n{shlex.join(command)}\n{page}"
    )


async def _stoppable(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Let SIGTERM and SIGHUP end the work as Ctrl-C does: all that was started is stopped."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # SIGHUP, as under nohup
            loop.add_signal_handler(number, task.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
