"""The InferenceService of a model: what is applied for a version, and what is known of it then.

It belongs to no workflow, so it stays when the run that published it is deleted.
https://kserve.github.io/website/docs/admin-guide/kubernetes-deployment
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.backends.cluster.manifests import with_container, with_reach
from mlpipeline.backends.cluster.pods import is_ready
from mlpipeline.store import artifacts

LABEL = "serving.kserve.io/inferenceservice"
"""The label of all pods of a service: its name."""

_CONTAINER = "kserve-container"  # KServe's own name for the one that answers
_VERSION = "mlpipeline/version"
_WHY_TENSORFLOW = "mlpipeline/why-tensorflow"
_PODS = "mlpipeline/pods"
# Of a component: how many pods there are and how they are replaced, not what they are.
_NOT_OF_PODS = {
    *("minReplicas", "maxReplicas", "scaleMetric", "scaleMetricType", "scaleTarget"),
    *("autoScaling", "deploymentStrategy"),
}


@dataclass(frozen=True)
class Revision:
    """What is served once a version has been rolled out.

    Attributes:
        digest: Another one after any change of the service, even one made by hand.
        replicas: The names of the pods that answer.
        rolled: Whether anything had to be done for it.
    """

    digest: str
    replicas: list[str]
    rolled: bool


def complete(
    template: Manifest,
    *,
    name: str,
    version: str,
    content: str,
    code: str,
    image: str,
    arguments: list[str],
    reads: Path,
    replicas: int,
    writes: Path | None = None,
    why_tensorflow: str = "",
) -> Manifest:
    """Return the manifest of a model's InferenceService.

    An annotation of its pods is a digest of all that they are made of, so that they roll when any
    of it changes. A version that was lost and made anew has its name, yet not its content: training
    is not exact to the last bit. An image that was built anew may have its name, yet not its code.

    Args:
        template: The InferenceService of `manifests/base/templates`.
        name: Name of the model and of its service.
        version: Name of the version that is published.
        content: Digest of the version's content.
        code: Version of the code that serves it.
        image: Image of all of its pods.
        arguments: Command line of the replicas, after `mlpipeline`.
        reads: What they see of the workspace, below its root: the folder of the model.
        replicas: How many of them there are at least.
        writes: What they may write to, likewise: the folder of the model's requests, where these
            are logged. Nothing else can be written by what anybody may ask.
        why_tensorflow: Why LiteRT does not serve it; empty where it does. `make status` says it.
    """
    metadata = template["metadata"]
    annotations = metadata.get("annotations", {}) | {_VERSION: version}
    if why_tensorflow:
        annotations |= {_WHY_TENSORFLOW: why_tensorflow}
    spec = template["spec"]
    predictor = spec["predictor"]
    containers = with_container(predictor["containers"], _CONTAINER, image=image, args=arguments)
    changes = {
        "containers": with_reach(
            containers, _CONTAINER, reads=[reads], writes=[writes] if writes else []
        ),
        "minReplicas": replicas,
        "maxReplicas": max(replicas, predictor.get("maxReplicas", replicas)),
    }
    components = {"predictor": predictor | changes}
    if front := spec.get("transformer"):  # it asks the replicas which version they have
        containers = with_container(front["containers"], _CONTAINER, image=image)
        components["transformer"] = front | {"containers": containers}
    service = template | {
        "metadata": metadata | {"name": name, "annotations": annotations},
        "spec": spec | components,
    }
    pods = [
        {key: value for key, value in component.items() if key not in _NOT_OF_PODS}
        for component in components.values()
    ]
    # KServe hands labels and annotations of the service on to its pods.
    made_of = [pods, annotations, metadata.get("labels"), content, code]
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    return with_mark(service, digest)


def with_mark(service: Manifest, mark: str) -> Manifest:
    """Return a service whose pods are known by another mark: applied, it has new ones."""
    marked = {
        name: component | {"annotations": (component.get("annotations") or {}) | {_PODS: mark}}
        for name, component in service["spec"].items()
        if name in ("predictor", "transformer")
    }
    return service | {"spec": service["spec"] | marked}


def mark(annotated: Manifest) -> str:
    """Return what pods are known by, of a component or of a pod's metadata; empty for nothing.

    What comes before a dot is the digest of what they are made of.
    """
    return str((annotated.get("annotations") or {}).get(_PODS, ""))


def version(service: Manifest | None) -> str:
    """Return the version that a service is of; empty for none."""
    metadata = (service or {}).get("metadata") or {}
    return str((metadata.get("annotations") or {}).get(_VERSION, ""))


def image(service: Manifest) -> str:
    """Return the image of a service's replicas."""
    containers = service["spec"]["predictor"]["containers"]
    return str(next(c["image"] for c in containers if c["name"] == _CONTAINER))


def digest_of(version: Path) -> str:
    """Return the digest of a published version's content."""
    return artifacts.digest(version)[:16]


def owner(service: Manifest) -> Manifest:
    """Return a service that there is as an entry of `metadata.ownerReferences`."""
    return {
        "apiVersion": service["apiVersion"],
        "kind": service["kind"],
        "name": service["metadata"]["name"],
        "uid": service["metadata"]["uid"],
    }


def revision(cluster: Cluster, service: Manifest, *, code: str, rolled: bool) -> Revision:
    """Return what a service is, now that it is rolled out.

    Args:
        cluster: Where it runs.
        service: The object as the API returned it.
        code: Version of the code that verifies it: what other code found is not known of it.
        rolled: Whether anything had to be done for it.
    """
    metadata = service["metadata"]
    identity = json.dumps([metadata["uid"], metadata["generation"], code])
    pods = cluster.find("Pod", f"{LABEL}={metadata['name']}")
    replicas = sorted(
        pod["metadata"]["name"]
        for pod in pods
        if pod["metadata"]["labels"].get("component") != "transformer" and is_ready(pod)
    )
    return Revision(hashlib.sha256(identity.encode()).hexdigest()[:16], replicas, rolled)
