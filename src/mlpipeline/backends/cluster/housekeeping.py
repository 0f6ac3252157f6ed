"""What a removal in a cluster has to know: which workflows go on, and which versions are served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlpipeline.backends.cluster import inference_service, memo
from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.runs.garbage import Garbage

TEMPLATE = "gc"
"""The WorkflowTemplate of a removal: two of them take turns by themselves."""

# Argo's label; a workflow that it has not looked at yet has none.
_GOES_ON = "workflows.argoproj.io/completed!=true"
_OURS = "app.kubernetes.io/part-of=mlpipeline"


def under_way(cluster: Cluster) -> str:
    """Return which workflow is not to be disturbed, in words; empty for none.

    Any counts, also a user's own, or one that is suspended: nobody here knows what it reads.

    Args:
        cluster: Where they are.
    """
    for workflow in cluster.each("Workflow", _GOES_ON):
        if not _is_removal(workflow):
            return f"workflow {workflow['metadata']['name']}"
    return ""


def served(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Yield the models that are served, each with its version: it need not be the current one.

    Args:
        cluster: Where they are.
    """
    for service in cluster.find("InferenceService", _OURS):
        if version := inference_service.version(service):
            yield service["metadata"]["name"], version


def forget(cluster: Cluster, cache: str, removed: Sequence[Garbage]) -> None:
    """Have Argo forget the memos of what was removed.

    Args:
        cluster: Where the memo is.
        cache: The name of the ConfigMap that it is.
        removed: What was removed.
    """
    memo.forget(cluster, cache, dict.fromkeys((garbage.path.name for garbage in removed), False))


def _is_removal(workflow: Manifest) -> bool:
    return bool((workflow["spec"].get("workflowTemplateRef") or {}).get("name") == TEMPLATE)
