"""A cluster in memory, and a clock that passes only while somebody waits for it."""

from __future__ import annotations

import copy
import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.backends.cluster.informers import Selection
from mlpipeline.backends.cluster.manifests import merge

_FOREVER = 100_000.0
RESOURCES = {
    "ConfigMap": ("", "configmaps"),
    "Event": ("", "events"),
    "Pod": ("", "pods"),
    "ControllerRevision": ("apps", "controllerrevisions"),
    "Deployment": ("apps", "deployments"),
    "PodDisruptionBudget": ("policy", "poddisruptionbudgets"),
    "TFJob": ("kubeflow.org", "tfjobs"),
    "InferenceService": ("serving.kserve.io", "inferenceservices"),
    "Workload": ("kueue.x-k8s.io", "workloads"),
    "Workflow": ("argoproj.io", "workflows"),
}
_VERSIONS = {
    "v1": ["ConfigMap", "Event", "Pod"],
    "apps/v1": ["ControllerRevision", "Deployment"],
    "policy/v1": ["PodDisruptionBudget"],
    "kubeflow.org/v1": ["TFJob"],
    "serving.kserve.io/v1beta1": ["InferenceService"],
    "argoproj.io/v1alpha1": ["Workflow"],
}


class Clock:
    """Stands for the module `time`: `sleep` returns at once, and it is later."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._plans: list[tuple[float, int, Callable[[], object]]] = []

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        """Have something happen when the time has come."""
        heapq.heappush(self._plans, (seconds, next(self._order), action))

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < _FOREVER, "this waits forever"
        while self._plans and self._plans[0][0] <= self.now:
            heapq.heappop(self._plans)[2]()


class FakeCluster(Cluster):
    """Holds objects as the API server does, but nobody acts on them: tests play the operators."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.namespace = "mlpipeline"
        self.objects: dict[tuple[str, str], Manifest] = {}
        self.logs: dict[str, list[str]] = {}
        self.changes: list[str] = []
        """What was written, in order, such as `apply TFJob x`."""
        self.followed: list[str] = []
        """The pods whose logs were followed."""
        self.used: set[tuple[str, str, str]] = set()
        """What it was asked to do: verb, API group and resource."""
        self.clock = clock or Clock()
        self._uids = itertools.count(1)

    def get(self, kind: str, name: str) -> Manifest | None:
        self._use(kind, "get")
        return copy.deepcopy(self.objects.get((kind, name)))

    def find(self, kind: str, selector: str = "") -> list[Manifest]:
        self._use(kind, "list")
        pairs = [pair for pair in selector.split(",") if pair]
        wanted = dict(pair.split("=") for pair in pairs if "!=" not in pair).items()
        unwanted = dict(pair.split("!=") for pair in pairs if "!=" in pair).items()
        return [
            copy.deepcopy(found)
            for (its_kind, _), found in self.objects.items()
            if its_kind == kind
            and wanted <= (labels := found["metadata"].get("labels", {}).items())
            and not unwanted & labels
        ]

    def each(self, kind: str, selector: str = "") -> Iterator[Manifest]:
        return iter(self.find(kind, selector))

    def apply(self, manifest: Manifest) -> Manifest:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        self._use(kind, "patch", "create")  # the API server asks for the latter where there is none
        self.changes.append(f"apply {kind} {name}")
        before = self.objects.get((kind, name), {})
        after: Manifest = merge(copy.deepcopy(before), copy.deepcopy(manifest))
        self.put(after)
        if after.get("spec") != before.get("spec"):
            after["metadata"]["generation"] = after["metadata"].get("generation", 0) + 1
        return copy.deepcopy(after)

    def patch(self, kind: str, name: str, changes: Mapping[str, Any]) -> Manifest:
        self._use(kind, "patch")
        self.changes.append(f"patch {kind} {name}")
        self.objects[kind, name] = merge(self.objects[kind, name], dict(changes))
        return copy.deepcopy(self.objects[kind, name])

    def delete(self, kind: str, name: str) -> None:
        self._use(kind, "delete")
        self.changes.append(f"delete {kind} {name}")
        self.remove(kind, name)

    @contextmanager
    def watching(self, *selections: Selection) -> Iterator[View]:  # type: ignore[override]
        """Yield a view that is always current; a wait in it is one by the cluster's clock."""
        for selection in selections:
            self._use(selection.kind, "list", "watch")
        yield View(self)

    def follow_log(self, pod: str) -> Iterator[str]:
        self.used.add(("get", "", "pods/log"))
        self.followed.append(pod)
        yield from self.logs.get(pod, ())

    def last_lines(self, pod: str, count: int = 12) -> list[str]:
        self.used.add(("get", "", "pods/log"))
        return self.logs.get(pod, [])[-count:]

    def put(self, manifest: Manifest) -> None:
        """Have an object be there, without a step having written it."""
        manifest["metadata"].setdefault("uid", f"uid-{next(self._uids)}")
        self.objects[manifest["kind"], manifest["metadata"]["name"]] = manifest

    def remove(self, kind: str, name: str) -> None:
        self.objects.pop((kind, name), None)

    def _use(self, kind: str, *verbs: str) -> None:
        self.used.update((verb, *RESOURCES[kind]) for verb in verbs)


def discovery(path: str) -> Any:
    """Return what an API server without Kueue says of its resources; None for any other path."""
    if path == "/version":
        return {"gitVersion": "v1.34.4"}
    if path == "/apis":
        versions = [version.split("/") for version in _VERSIONS if "/" in version]
        return {
            "kind": "APIGroupList",
            "groups": [
                {"name": group, "versions": [served], "preferredVersion": served}
                for group, version in versions
                for served in [{"groupVersion": f"{group}/{version}", "version": version}]
            ],
        }
    prefix, _, version = path.strip("/").partition("/")
    if version not in _VERSIONS or prefix != ("apis" if "/" in version else "api"):
        return None
    resources = [
        {"name": RESOURCES[kind][1], "kind": kind, "namespaced": True, "verbs": []}
        for kind in _VERSIONS[version]
    ]
    if version == "v1":
        resources.append({"name": "pods/log", "kind": "Pod", "namespaced": True, "verbs": ["get"]})
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


class View:
    """Stands for the view of `informers`: what is watched is looked up when it is asked for."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster

    def get(self, kind: str, name: str) -> Manifest | None:
        found = [o for o in self._cluster.find(kind) if o["metadata"]["name"] == name]
        return found[0] if found else None

    def find(self, kind: str, selector: str = "") -> list[Manifest]:
        return self._cluster.find(kind, selector)

    def wait(self, seconds: float) -> None:
        self._cluster.clock.sleep(seconds)


def pod(name: str, labels: Mapping[str, str], phase: str = "Running", **status: Any) -> Manifest:
    """Return a pod; `status` is all that its status says beside its phase."""
    return {
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": {"nodeName": "node-1"},
        "status": {"phase": phase} | status,
    }


def waiting(reason: str, message: str = "") -> list[Manifest]:
    """Return the `containerStatuses` of a pod whose container waits."""
    return [{"name": "main", "state": {"waiting": {"reason": reason, "message": message}}}]


def unschedulable(message: str) -> list[Manifest]:
    """Return the `conditions` of a pod that the scheduler finds no place for."""
    return [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
        }
    ]
