"""Whether a service is rolled out: all of its pods are the new ones, and answer."""

from __future__ import annotations

from mlpipeline.backends.cluster.api import Manifest
from mlpipeline.backends.cluster.inference_service import mark
from mlpipeline.backends.cluster.informers import Reader


def left_to_do(reader: Reader, name: str, spec: Manifest) -> str:
    """Return what is not as it should be yet; empty when all is.

    KServe says Ready while pods still roll (kserve#4626), so the Deployments are looked at, too.

    Args:
        reader: Who is asked for the objects.
        name: The name of the service.
        spec: What the service is to be.
    """
    for component in ("predictor", "transformer"):
        if component in spec:
            deployment = reader.get("Deployment", f"{name}-{component}")
            if left := _left_to_roll(deployment, spec[component]):
                return left
    ready = _condition(reader.get("InferenceService", name) or {}, "Ready")
    if ready.get("status") != "True":
        return f"KServe does not call it ready: {ready.get('message') or ready.get('reason', '')}"
    return ""


def _left_to_roll(deployment: Manifest | None, component: Manifest) -> str:
    if deployment is None:
        return "KServe has not made its Deployment yet"
    if mark(deployment["spec"]["template"].get("metadata", {})) != mark(component):
        return "KServe has not changed its Deployment yet"
    # KServe begins with one replica; the autoscaler brings it to its minimum some seconds later.
    status = deployment.get("status", {})
    wanted = max(component["minReplicas"], deployment["spec"]["replicas"])
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        return "the Deployment has not been looked at yet"
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if not updated == available == wanted or status.get("replicas", 0) != wanted:
        refused = _condition(deployment, "ReplicaFailure").get("message", "")  # by a quota, say
        said = f"{updated} of {wanted} replicas are new, {available} answer"
        return f"{said}: {refused}" if refused else said
    return ""


def _condition(thing: Manifest, kind: str) -> Manifest:
    conditions: list[Manifest] = (thing.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == kind), {})
