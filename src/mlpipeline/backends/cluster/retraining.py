"""Step `retrain`: runs the pipeline once more for every model that is served.

With the parameters of the run that published it, its configuration and image among them: they are
kept beside the service. So only what is new, data or corrected labels, makes another version.
"""

from __future__ import annotations

import logging
import threading

from mlpipeline.backends.cluster import inference_service, snapshots
from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.backends.cluster.informers import TICK_SECONDS, Selection
from mlpipeline.backends.cluster.tfjob import WorkflowReference, is_over
from mlpipeline.errors import ClusterError, StoppedError

_log = logging.getLogger(__name__)

_LABEL = "mlpipeline/retrained-by"
_PART = {"app.kubernetes.io/part-of": "mlpipeline"}
_ENDED = ("Succeeded", "Failed", "Error")


def retrain(
    cluster: Cluster, owner: WorkflowReference, *, template: str, stop: threading.Event
) -> None:
    """Submit a workflow for each model that is served, or find it under way; wait for all of them.

    Each has a limit of its time itself.

    Args:
        cluster: Where the models are served.
        owner: The workflow that this step belongs to. Those that it submits go with it.
        template: The name of the WorkflowTemplate that is the pipeline.
        stop: Set when this pod is told to end.

    Raises:
        ClusterError: One did not succeed.
        StoppedError: This pod was told to end.
    """
    for workflow in _workflows(cluster, owner, template):
        name = workflow["metadata"]["name"]
        if cluster.get("Workflow", name) is None:
            cluster.apply(workflow)
            _log.info("%s is submitted", name)
    selection = Selection("Workflow", f"{_LABEL}={owner.name}")
    with cluster.watching(selection) as view:
        while left := [w for w in view.find("Workflow", selection.labels) if not _has_ended(w)]:
            if stop.is_set():
                _stop(cluster, owner, left)
                raise StoppedError("this pod was told to end")
            view.wait(TICK_SECONDS)
        _say(view.find("Workflow", selection.labels))


def _workflows(cluster: Cluster, owner: WorkflowReference, template: str) -> list[Manifest]:
    labels = _PART | {_LABEL: owner.name}
    workflows = []
    for service in cluster.find("InferenceService", "app.kubernetes.io/part-of=mlpipeline"):
        model, version = service["metadata"]["name"], inference_service.version(service)
        known = [s for s in snapshots.find(cluster, model) if s.version == version and s.parameters]
        if not known:
            _log.warning("%s stays as it is: which run has published it is not known", model)
            continue
        given = [{"name": n, "value": value} for n, value in sorted(known[0].parameters.items())]
        metadata = {"name": f"{owner.name}-{model}", "labels": labels}
        workflows.append(
            {
                "apiVersion": "argoproj.io/v1alpha1",
                "kind": "Workflow",
                "metadata": metadata | {"ownerReferences": [owner.owner()]},
                "spec": {
                    "workflowTemplateRef": {"name": template},
                    "arguments": {"parameters": given},
                },
            }
        )
    if not workflows:
        _log.info("there is nothing to train anew")
    return workflows


def _stop(cluster: Cluster, owner: WorkflowReference, workflows: list[Manifest]) -> None:
    """Stop what nobody waits for any more; not if it is this pod alone that ends."""
    if is_over(cluster.get("Workflow", owner.name)):
        for workflow in workflows:
            name = workflow["metadata"]["name"]
            cluster.patch("Workflow", name, {"spec": {"shutdown": "Stop"}})
            _log.info("%s is stopped", name)


def _say(workflows: list[Manifest]) -> None:
    failed = []
    for workflow in workflows:
        name, status = workflow["metadata"]["name"], workflow["status"]
        _log.info("%s: %s", name, status["phase"])
        if status["phase"] != "Succeeded":
            failed.append(f"\n    {name}: {status.get('message') or status['phase']}")
    if failed:
        raise ClusterError(
            f"{len(failed)} of {len(workflows)} runs did not succeed:" + "".join(failed),
            expected="that each does",
            remedy="`argo get` of these names shows why; what is served stays as it was",
        )


def _has_ended(workflow: Manifest) -> bool:
    return (workflow.get("status") or {}).get("phase") in _ENDED
