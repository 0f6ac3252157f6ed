"""Step `serve` in a cluster: applies the InferenceService of a version and waits until it serves.

Kubernetes rolls the pods: a new one answers before an old one goes. The service belongs to no
workflow, so it stays when the run that published it is deleted.
https://kserve.github.io/website/docs/admin-guide/kubernetes-deployment
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.backends.cluster.manifests import with_container
from mlpipeline.backends.cluster.pods import StartWatch, is_ready, waiting_reason
from mlpipeline.errors import ClusterError
from mlpipeline.store import artifacts

_POLL_SECONDS = 1.0
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
        cluster: Where.
        service: What `complete` returned.
        budget: The template of its PodDisruptionBudget.
        seconds: For all of it.
        pending_seconds: How long a pod may take to start.

    Raises:
        ClusterError: A pod does not start, or it takes too long.
    """
    name = service["metadata"]["name"]
    applied = cluster.apply(service)
    cluster.apply(_complete_budget(budget, applied))
    start_watch = StartWatch(cluster, pending_seconds)
    end = time.monotonic() + seconds
    said = ""
    while True:
        pods = cluster.find("Pod", f"{_LABEL}={name}")
        left = _left_to_do(cluster, name, service["spec"])
        if not left:
            break
        if left != said:
            print(f"InferenceService {name}: {left}", flush=True)
            said = left
        start_watch.check(pods)
        if time.monotonic() > end:
            # Perhaps sooner than one pod alone would have been given up.
            waits = [
                f"\n    {pod['metadata']['name']}: {reason}"
                for pod in pods
                if (reason := waiting_reason(pod))
            ]
            raise ClusterError(
                f"InferenceService {name} is not ready after {seconds:.0f} s: {left}"
                + "".join(waits),
                expected="that all replicas of the new version answer, and no other",
                remedy="`make status` shows what waits; serving.ready_timeout_seconds allows more",
            )
        time.sleep(_POLL_SECONDS)
    return _revision(applied, pods)


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


def _left_to_do(cluster: Cluster, name: str, spec: Manifest) -> str:
    """What is not as it should be yet; empty when all is.

    KServe says Ready while pods still roll (kserve#4626), so the Deployments are looked at, too.
    """
    for component in ("predictor", "transformer"):
        if component in spec:
            deployment = cluster.get("Deployment", f"{name}-{component}")
            if left := _left_to_roll(deployment, spec[component]):
                return left
    service = cluster.get("InferenceService", name) or {}
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
