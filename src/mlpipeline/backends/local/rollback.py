"""Goes back to an earlier version of a model: nothing changes unless it answers as it once did.

    find and check ──► serve beside what is served ──► verify ──► current

Its replicas have ports of their own, so a `mlpipeline serve` or a run that goes on is not in the
way; a service that goes on takes the version over once it is current.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from mlpipeline import addresses
from mlpipeline.backends.local import processes, replicas
from mlpipeline.backends.local.turns import at_once
from mlpipeline.plan.commands import ONLY_VERIFY, step_arguments
from mlpipeline.plan.config import Config
from mlpipeline.plan.pipeline import VERIFY
from mlpipeline.runs import garbage
from mlpipeline.store import rollback
from mlpipeline.store.layout import Workspace
from mlpipeline.store.rollback import WayBack
from mlpipeline.store.schemas.run import Verification


async def roll_back(
    config: Config,
    config_file: Path,
    workspace: Workspace,
    version: str,
    *,
    by: str,
    why: str,
    force: bool,
    say: Callable[[str], None],
) -> WayBack:
    """Serve a version, verify its answers, and make it current; return what has changed.

    Args:
        config: The configuration, which names the model.
        config_file: Where it was read from: the step that verifies reads it again.
        workspace: The folder of all artifacts.
        version: A registered version; empty for the one that was current before.
        by: Who goes back, for the history.
        why: What they say about it.
        force: Whether also to a version that the gate held back.
        say: Called with what has been verified.

    Raises:
        GateError: The gate held the version back.
        ServingError: The version is no way back, or another one has become current meanwhile.
        ArtifactError: The history is damaged, or which version is current cannot be read.
        ProcessError: Somebody else goes back right now; or it cannot be served, or not verified.
    """
    lease = workspace.rollback_lease(config.name)
    async with at_once(f"a rollback of `{config.name}`", lease, who=by):
        await asyncio.to_thread(garbage.wait_for_removal, workspace, f"a rollback by {by}")
        way = rollback.find(workspace, config.name, version, force=force)
        say(f"{way.version}: every file is as it was published")
        aside = replicas.beside(config)
        logs = workspace.rollback_logs
        async with replicas.serving(aside, workspace, way.version, logs=logs):
            figures = await _verify(aside, config_file, workspace, way.version)
        sent = sum(protocol.images for protocol in figures.protocols)
        say(f"{way.version}: {sent:,} answers of {len(figures.replicas)} replicas are as recorded")
        way.take(workspace, by=by, why=why, force=force)
        return way


async def _verify(
    config: Config, config_file: Path, workspace: Workspace, version: str
) -> Verification:
    """Send the test split to the replicas, in a process: it needs libraries that take seconds."""
    settings, output = config.serving, workspace.rollback_verification
    arguments = [
        *step_arguments(
            VERIFY.name, config=config_file, workspace=workspace, version=version, output=output
        ),
        *("--url", f"http://{addresses.join(settings.host, settings.port)}"),
        *("--grpc", addresses.join(settings.host, settings.grpc_port)),
        ONLY_VERIFY,
    ]
    await processes.run(
        processes.python_m(arguments), log=workspace.rollback_logs / f"{VERIFY.name}.log"
    )
    return Verification.load(output)
