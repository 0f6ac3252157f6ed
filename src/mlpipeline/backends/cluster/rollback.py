"""A rollback in a cluster: what a workflow asks for, and how the model was served last.

What is served is known by the snapshots beside its service: the parameters of the run that has
published it, its configuration among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlpipeline.backends.cluster import planning, snapshots
from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.errors import ClusterError
from mlpipeline.plan.config import Config
from mlpipeline.store.rollback import WayBack


@dataclass(frozen=True)
class Request:
    """What the parameters of a rollback's workflow say.

    Attributes:
        model: The model's name.
        version: The version to go back to; empty for the one that was current before.
        by: Who asks for it.
        why: What they say about it.
        force: Whether also to a version that the gate held back.
    """

    model: str
    version: str
    by: str
    why: str
    force: bool

    @classmethod
    def of(cls, workflow: Manifest) -> Request:
        """Read them from the workflow itself, because they are free text, as `planning` says.

        Raises:
            ConfigurationError: One has what Argo evaluates.
        """
        given = planning.parameters(workflow)
        planning.check_braces(given)
        reason = given.get("force", "").strip()
        return cls(
            model=given.get("model", ""),
            version=given.get("version", ""),
            by=planning.submitter(workflow) or f"workflow {workflow['metadata']['name']}",
            why=given.get("why", "").strip() or reason,
            force=bool(reason),
        )


def parameters_of(cluster: Cluster, way: WayBack) -> Mapping[str, str]:
    """Return the parameters of the run that has published a version, or the latest that is known.

    Args:
        cluster: Where the model is served.
        way: To the version.

    Raises:
        ClusterError: No run is known.
    """
    known = [snapshot for snapshot in snapshots.find(cluster, way.name) if snapshot.parameters]
    of_version = [snapshot for snapshot in known if snapshot.version == way.version]
    if not known:
        raise ClusterError(
            f"which run has published `{way.name}` is not known",
            expected="a service that a run of this release has rolled out",
            remedy="publish it by a run: `make submit`",
        )
    return (of_version or known)[0].parameters


def settings_of(cluster: Cluster, way: WayBack) -> Config:
    """Return the configuration that a version is to be served and verified by.

    Raises:
        ClusterError: No run is known that has published it.
        ConfigurationError: Its configuration does not fit any more.
    """
    given = parameters_of(cluster, way)
    return planning.resolve(given.get("configuration", ""), planning.Overrides.of(given))
