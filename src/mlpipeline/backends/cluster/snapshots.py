"""What was rolled out, kept beside the service: what a roll-out that fails goes back to.

A ControllerRevision for each of the last states, as a StatefulSet keeps its own: the manifest as it
was applied, and the parameters of the run that did it. They are the service's, and go with it.
https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/controller-revision-v1/
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from mlpipeline.backends.cluster import inference_service
from mlpipeline.backends.cluster.api import Cluster, Manifest

_LABEL = "mlpipeline/model"
_KEPT = 5


@dataclass(frozen=True)
class Snapshot:
    """A state of a service that was rolled out.

    Attributes:
        name: Of the object that it is kept in.
        number: The newest has the highest.
        service: The manifest.
        parameters: Those of the run's workflow; empty if nobody knows them.
    """

    name: str
    number: int
    service: Manifest
    parameters: Mapping[str, str]

    @property
    def version(self) -> str:
        """The version that was served."""
        return inference_service.version(self.service)

    @property
    def mark(self) -> str:
        """What its pods are known by."""
        return inference_service.mark(self.service["spec"]["predictor"])


def find(cluster: Cluster, model: str) -> list[Snapshot]:
    """Return the states of a model's service that are kept, the newest first."""
    found = [
        Snapshot(
            kept["metadata"]["name"],
            int(kept["revision"]),
            kept["data"]["service"],
            kept["data"]["parameters"],
        )
        for kept in cluster.find("ControllerRevision", f"{_LABEL}={model}")
    ]
    return sorted(found, key=lambda snapshot: snapshot.number, reverse=True)


def keep(
    cluster: Cluster, service: Manifest, parameters: Mapping[str, str], *, owner: Manifest
) -> None:
    """Keep a state of a service as the newest, and no more than a few older ones.

    Args:
        cluster: Where the service is.
        service: The manifest that was applied.
        parameters: Those of the run's workflow.
        owner: The service, as `inference_service.owner` returns it.
    """
    model = service["metadata"]["name"]
    data = {"service": service, "parameters": dict(parameters)}
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    name = f"{model}-{digest[:16]}"
    known = find(cluster, model)
    if known and known[0].name == name:
        return
    labels = {_LABEL: model, "app.kubernetes.io/part-of": "mlpipeline"}
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
            "revision": known[0].number + 1 if known else 1,
            "data": data,
        }
    )
    others = [snapshot for snapshot in known if snapshot.name != name]
    for snapshot in others[_KEPT - 1 :]:
        remove(cluster, snapshot)


def remove(cluster: Cluster, snapshot: Snapshot) -> None:
    """Remove a state that nobody is to go back to."""
    cluster.delete("ControllerRevision", snapshot.name)
