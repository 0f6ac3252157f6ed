"""Tries a version on this machine: its replica stands beside those that serve.

    a replica of it ──► step `canary`: the current version's replicas try it ──► verdict

Who has started those does not matter: `mlpipeline serve`, or this run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from mlpipeline import addresses
from mlpipeline.backends.local import replicas
from mlpipeline.errors import ArtifactError, ProcessError
from mlpipeline.plan import rollout
from mlpipeline.plan.config import Config
from mlpipeline.store import registry
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.rollout import RolloutTable, TrialOrder


async def try_version(
    config: Config,
    workspace: Workspace,
    version: str,
    *,
    conduct: Callable[[str], Awaitable[None]],
    output: Path,
) -> RolloutTable:
    """Have the replicas of the current version try another one, if that is asked for.

    Args:
        config: The configuration.
        workspace: The folder of all artifacts.
        version: The registered version.
        conduct: Carries the step `canary` out, given where the version's replica answers.
        output: Where that step writes its table.

    Raises:
        ProcessError: The step failed.
    """
    current = registry.usable(workspace, config.name)
    if table := rollout.without_trial(config, workspace, version):
        return table
    aside = replicas.beside(rollout.of_challenger(config), count=1)
    address = addresses.join(aside.serving.host, aside.serving.port)
    async with AsyncExitStack() as stack:
        running = replicas.serving(aside, workspace, version, logs=workspace.trial_logs)
        try:
            ended = await stack.enter_async_context(running)
        except ProcessError as error:
            fault = f"its replica does not start: {_last_line(error)}"
            return rollout.verdict(config.rollout, version, current, [], fault=fault)
        trial = asyncio.ensure_future(conduct(address))
        try:
            await asyncio.wait({trial, ended}, return_when=asyncio.FIRST_COMPLETED)
            if trial.done():
                await trial
                return RolloutTable.load(output)
        finally:
            trial.cancel()
            await asyncio.wait({trial})
        _take_back(workspace.trial_order(config.name), version)
        how = ended.exception()
        assert isinstance(how, ProcessError), "a replica that ends is an error"
        fault = f"its replica has ended by itself: {_last_line(how)}"
        return rollout.verdict(config.rollout, version, current, [], fault=fault)


def _take_back(order: Path, version: str) -> None:
    """Take the order back that the step may have left when it was ended; not another's."""
    with contextlib.suppress(ArtifactError):
        if TrialOrder.load(order).challenger == version:
            order.unlink(missing_ok=True)


def _last_line(error: ProcessError) -> str:
    return error.got.splitlines()[-1].strip()
