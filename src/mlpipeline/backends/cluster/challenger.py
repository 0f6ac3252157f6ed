"""A version that is tried in a cluster: an InferenceService of its own, for as long as that takes.

It is made from the template of the model's, so it has the same limits, mounts and rights. It has
one replica and another name, so neither the Service of the model nor its autoscaler knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.backends.cluster.inference_service import LABEL
from mlpipeline.backends.cluster.pods import has_crashed, last_words
from mlpipeline.backends.cluster.rollout import Wait
from mlpipeline.errors import ClusterError

SUFFIX = "-challenger"
_PART, _COMPONENT = "app.kubernetes.io/part-of", "app.kubernetes.io/component"


def of(service: Manifest, owner: Manifest) -> Manifest:
    """Return the manifest of a challenger, given that of the service that the version would have.

    Args:
        service: What `inference_service.complete` returned.
        owner: The workflow that tries it, as an entry of `metadata.ownerReferences`.
    """
    metadata = service["metadata"]
    # What is listed as a model that is served, it is not.
    labels = {k: v for k, v in (metadata.get("labels") or {}).items() if k != _PART}
    predictor = service["spec"]["predictor"] | {"minReplicas": 1, "maxReplicas": 1}
    return service | {
        "metadata": metadata
        | {
            "name": metadata["name"] + SUFFIX,
            "labels": labels | {_COMPONENT: "challenger"},
            "ownerReferences": [owner],
        },
        "spec": {"predictor": predictor},
    }


def address(service: Manifest, namespace: str) -> str:
    """Return where the challenger of a service answers, HOST:PORT of REST.

    Args:
        service: What `of` was given.
        namespace: The namespace that it is in.
    """
    return f"{service['metadata']['name']}{SUFFIX}-predictor.{namespace}.svc:80"


@contextmanager
def served(cluster: Cluster, service: Manifest, wait: Wait) -> Iterator[Callable[[], str]]:
    """Serve a challenger while the body runs.

    Args:
        cluster: Where it runs.
        service: What `of` returned.
        wait: How it is waited for.

    Yields:
        A function that returns what is wrong with its pods; empty for nothing.

    Raises:
        ClusterError: Its pod does not start.
        StoppedError: This pod was told to end.
    """
    name = service["metadata"]["name"]
    if (found := cluster.get("InferenceService", name)) and not _is_challenger(found):
        raise ClusterError(
            f"there is an InferenceService {name}, which is no version that is tried",
            expected=f"none: versions of {name.removesuffix(SUFFIX)} that are tried have that name",
            remedy="call that model otherwise, or leave `rollout` out of the configuration",
        )
    cluster.apply(service)
    try:
        wait.until_rolled_out(service)
        yield lambda: _fault(cluster, name)
    finally:
        cluster.delete("InferenceService", name)


def delete_left(cluster: Cluster, workflow: str) -> None:
    """Delete what a workflow has left that was killed while it tried a version.

    Args:
        cluster: Where it runs.
        workflow: The workflow's `metadata.uid`.
    """
    for service in cluster.find("InferenceService", f"{_COMPONENT}=challenger"):
        owners = service["metadata"].get("ownerReferences", ())
        if workflow in (owner["uid"] for owner in owners):
            cluster.delete("InferenceService", service["metadata"]["name"])


def _is_challenger(service: Manifest) -> bool:
    return (service["metadata"].get("labels") or {}).get(_COMPONENT) == "challenger"


def _fault(cluster: Cluster, name: str) -> str:
    try:
        pods = cluster.find("Pod", f"{LABEL}={name}")
    except ClusterError:  # the next look will see
        return ""
    for pod in pods:
        if has_crashed(pod):
            said = "; ".join(last_words(cluster, pod))
            return f"its pod has crashed{f': {said}' if said else ''}"
    return ""
