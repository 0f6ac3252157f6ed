"""Step `serve` in a cluster: applies the InferenceService of a version and waits until it serves.

Kubernetes rolls the pods: a new one answers before an old one goes. The service belongs to no
workflow, so it stays when the run that published it is deleted.
https://kserve.github.io/website/docs/admin-guide/kubernetes-deployment
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.backends.cluster.informers import TICK_SECONDS, Reader, Selection
from mlpipeline.backends.cluster.manifests import with_container
from mlpipeline.backends.cluster.pods import StartWatch, is_ready, waiting_reason
from mlpipeline.errors import ClusterError
from mlpipeline.store import artifacts

_log = logging.getLogger(__name__)

_CONTAINER = "kserve-container"  # KServe's own name for the one that answers
_LABEL = "serving.kserve.io/inferenceservice"
_VERSION = "mlpipeline/version"
_CONTENT = "mlpipeline/content"  # of the version, on the pods that have loaded it


@dataclass(frozen=True)
class Revision:
    """What is served once a version has been rolled out.

    Attributes:
        digest: Another one after any change of the service, even one made by hand.
        replicas: The names of the pods that answer.
    """

    digest: str
    replicas: list[str]


def complete(
    template: Manifest,
    *,
    name: str,
    version: str,
    content: str,
    image: str,
    arguments: list[str],
    replicas: int,
) -> Manifest:
    """Return the manifest of a model's InferenceService.

    A version that was lost and made anew has its name, yet not its content: training is not exact
    to the last bit. So the content, by a digest, belongs to what the pods are, and they roll.

    Args:
        template: The InferenceService of `manifests/base/templates`.
        name: Name of the model and of its service.
        version: Name of the version that is published.
        content: Digest of the version's content.
        image: Image of all pods.
        arguments: Command line of the replicas, after `mlpipeline`.
        replicas: How many of them there are at least.
    """
    metadata = template["metadata"]
    annotations = metadata.get("annotations", {}) | {_VERSION: version}
    spec = template["spec"]
    predictor = spec["predictor"]
    changes = {
        "annotations": predictor.get("annotations", {}) | {_CONTENT: content},
        "containers": with_container(
            predictor["containers"], _CONTAINER, image=image, args=arguments
        ),
        "minReplicas": replicas,
        "maxReplicas": max(replicas, predictor.get("maxReplicas", replicas)),
    }
    components = {"predictor": predictor | changes}
    if front := spec.get("transformer"):  # it asks the replicas which version they have
        containers = with_container(front["containers"], _CONTAINER, image=image)
        components["transformer"] = front | {"containers": containers}
    return template | {
        "metadata": metadata | {"name": name, "annotations": annotations},
        "spec": spec | components,
    }


def version(cluster: Cluster, name: str) -> str:
    """Return the version that was last published; empty for none."""
    service = cluster.get("InferenceService", name) or {"metadata": {}}
    return str(service["metadata"].get("annotations", {}).get(_VERSION, ""))


def roll_out(
    cluster: Cluster, service: Manifest, budget: Manifest, *, seconds: float, pending_seconds: float
) -> Revision:
    """Apply a service and its disruption budget, and wait until nothing else is served.

    Args:
        cluster: Where the service runs.
        service: What `complete` returned.
        budget: The template of its PodDisruptionBudget.
        seconds: Seconds that all of it may take.
        pending_seconds: How long a pod may take to start.

    Raises:
        ClusterError: A pod does not start, or it takes too long.
    """
    name = service["metadata"]["name"]
    applied = cluster.apply(service)
    cluster.apply(_complete_budget(budget, applied))
    _wait_until_rolled_out(cluster, service, seconds=seconds, pending_seconds=pending_seconds)
    return _revision(applied, cluster.find("Pod", f"{_LABEL}={name}"))


def _wait_until_rolled_out(
    cluster: Cluster, service: Manifest, *, seconds: float, pending_seconds: float
) -> None:
    name, spec = service["metadata"]["name"], service["spec"]
    start_watch = StartWatch(cluster, pending_seconds)
    end = time.monotonic() + seconds
    logged = ""
    selections = (
        Selection("InferenceService", name=name),
        Selection("Deployment"),
        Selection("Pod", f"{_LABEL}={name}"),
    )
    with cluster.watching(*selections) as view:
        # What the watches have brought may be of different moments: the last word is a fresh look.
        while left := _left_to_do(view, name, spec) or _left_to_do(cluster, name, spec):
            if left != logged:
                _log.info("InferenceService %s: %s", name, left)
                logged = left
            pods = view.find("Pod", selections[2].labels)
            start_watch.check(pods)
            if time.monotonic() > end:
                raise _not_ready(name, seconds, left, pods)
            view.wait(TICK_SECONDS)


def _not_ready(name: str, seconds: float, left: str, pods: list[Manifest]) -> ClusterError:
    # Perhaps sooner than one pod alone would have been given up.
    waits = [
        f"\n    {pod['metadata']['name']}: {reason}"
        for pod in pods
        if (reason := waiting_reason(pod))
    ]
    return ClusterError(
        f"InferenceService {name} is not ready after {seconds:.0f} s: {left}" + "".join(waits),
        expected="that all replicas of the new version answer, and no other",
        remedy="`make status` shows what waits; serving.ready_timeout_seconds allows more",
    )


def current(cluster: Cluster, name: str, content: str) -> Revision | None:
    """Return what serves a version, known by the digest of its content.

    None where something else does, or where not all of it is rolled out and ready.
    """
    service = cluster.get("InferenceService", name)
    if service is None:
        return None
    spec = service["spec"]
    if spec["predictor"].get("annotations", {}).get(_CONTENT) != content:
        return None
    if _left_to_do(cluster, name, spec):
        return None
    return _revision(service, cluster.find("Pod", f"{_LABEL}={name}"))


def digest_of(version: Path) -> str:
    """Return the digest of a published version's content."""
    return artifacts.digest(version)[:16]


def _complete_budget(template: Manifest, service: Manifest) -> Manifest:
    metadata = service["metadata"]
    owner = {
        "apiVersion": service["apiVersion"],
        "kind": service["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return template | {
        "metadata": template["metadata"]
        | {"name": f"{metadata['name']}-predictor", "ownerReferences": [owner]},
        "spec": template["spec"] | {"selector": {"matchLabels": {_LABEL: metadata["name"]}}},
    }


def _left_to_do(reader: Reader, name: str, spec: Manifest) -> str:
    """What is not as it should be yet; empty when all is.

    KServe says Ready while pods still roll (kserve#4626), so the Deployments are looked at, too.
    """
    for component in ("predictor", "transformer"):
        if component in spec:
            deployment = reader.get("Deployment", f"{name}-{component}")
            if left := _left_to_roll(deployment, spec[component]):
                return left
    service = reader.get("InferenceService", name) or {}
    conditions = service.get("status", {}).get("conditions") or []
    ready: Manifest = next((c for c in conditions if c["type"] == "Ready"), {})
    if ready.get("status") != "True":
        return f"KServe does not call it ready: {ready.get('message') or ready.get('reason', '')}"
    return ""


def _left_to_roll(deployment: Manifest | None, component: Manifest) -> str:
    if deployment is None:
        return "KServe has not made its Deployment yet"
    template = deployment["spec"]["template"]
    if not _is_of(template["spec"], template.get("metadata", {}), component):
        return "KServe has not changed its Deployment yet"
    # KServe begins with one replica; the autoscaler brings it to its minimum some seconds later.
    status = deployment.get("status", {})
    wanted = max(component["minReplicas"], deployment["spec"]["replicas"])
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        return "the Deployment has not been looked at yet"
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if not updated == available == wanted or status.get("replicas", 0) != wanted:
        return f"{updated} of {wanted} replicas are new, {available} answer"
    return ""


def _is_of(pod: Manifest, metadata: Manifest, component: Manifest) -> bool:
    """Whether a pod's template is what a component became: KServe adds arguments to a front's."""
    (got,), (wanted,) = (
        [c for c in containers if c["name"] == _CONTAINER]
        for containers in (pod["containers"], component["containers"])
    )
    arguments = wanted.get("args", [])
    content = component.get("annotations", {}).get(_CONTENT)
    return bool(
        got["image"] == wanted["image"]
        and got.get("args", [])[: len(arguments)] == arguments
        and metadata.get("annotations", {}).get(_CONTENT) == content
    )


def _revision(service: Manifest, pods: list[Manifest]) -> Revision:
    metadata = service["metadata"]
    identity = json.dumps([metadata["uid"], metadata["generation"]])
    replicas = sorted(
        pod["metadata"]["name"]
        for pod in pods
        if pod["metadata"]["labels"].get("component") != "transformer" and is_ready(pod)
    )
    return Revision(hashlib.sha256(identity.encode()).hexdigest()[:16], replicas)
