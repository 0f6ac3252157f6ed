"""A cluster in memory in which KServe does its work: what is applied is rolled out at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlpipeline.backends.cluster.api import Manifest
from support.fake_cluster import Clock, FakeCluster, pod, waiting

READY = [{"type": "Ready", "status": "True"}]
_LABEL = "serving.kserve.io/inferenceservice"


class OperatedCluster(FakeCluster):
    """Services are rolled out by two pods, but for those whose pods cannot start.

    Attributes:
        is_broken: Whether the pods of a service crash.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.is_broken: Callable[[Manifest], bool] = lambda service: False

    def apply(self, manifest: Manifest) -> Manifest:
        applied = super().apply(manifest)
        if manifest["kind"] == "InferenceService":
            self._operate(self.objects["InferenceService", manifest["metadata"]["name"]])
        return applied

    def delete(self, kind: str, name: str) -> None:
        super().delete(kind, name)
        if kind == "InferenceService":  # and all that it owns
            self.remove("Deployment", f"{name}-predictor")
            for end in ("a", "b", "new"):
                self.remove("Pod", f"{name}-{end}")
            owned = [
                o["metadata"] for (k, _), o in self.objects.items() if k == "ControllerRevision"
            ]
            for metadata in owned:
                if metadata["labels"]["mlpipeline/model"] == name:
                    self.remove("ControllerRevision", metadata["name"])

    def _operate(self, service: Manifest) -> None:
        name, predictor = service["metadata"]["name"], service["spec"]["predictor"]
        annotations = dict(predictor.get("annotations") or {})
        if self.is_broken(service):
            self._start(f"{name}-new", annotations, containerStatuses=waiting("CrashLoopBackOff"))
            counts = {"updatedReplicas": 1, "availableReplicas": 2, "replicas": 3}
        else:
            self.remove("Pod", f"{name}-new")
            for end in ("b", "a"):
                self._start(f"{name}-{end}", annotations, conditions=READY)
            counts = {"updatedReplicas": 2, "availableReplicas": 2, "replicas": 2}
        template = {"metadata": {"annotations": annotations}, "spec": predictor}
        self.put(
            {
                "kind": "Deployment",
                "metadata": {"name": f"{name}-predictor", "generation": 1},
                "spec": {"replicas": 2, "template": template},
                "status": {"observedGeneration": 1} | counts,
            }
        )
        service["status"] = {"conditions": READY}

    def _start(self, name: str, annotations: dict[str, str], **status: Any) -> None:
        made = pod(name, {_LABEL: name.rpartition("-")[0]}, **status)
        made["metadata"]["annotations"] = annotations
        self.put(made)
