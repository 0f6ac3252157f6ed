"""A cluster in memory, and a clock that passes only while somebody waits for it."""

from __future__ import annotations

import copy
import heapq
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.backends.cluster.manifests import merge

_FOREVER = 100_000.0


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


class Stop(threading.Event):
    """An event that is waited for by that clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout, "a wait without an end"
        if not self.is_set():
            self._clock.sleep(timeout)
        return self.is_set()


class FakeCluster(Cluster):
    """Holds objects as the API server does, but nobody acts on them: tests play the operators."""

    def __init__(self) -> None:
        self.namespace = "mlpipeline"
        self.objects: dict[tuple[str, str], Manifest] = {}
        self.logs: dict[str, list[str]] = {}
        self.changes: list[str] = []
        """What was written, in order, such as `apply TFJob x`."""
        self.followed: list[str] = []
        """The pods whose logs were followed."""
        self._uids = itertools.count(1)

    def get(self, kind: str, name: str) -> Manifest | None:
        return copy.deepcopy(self.objects.get((kind, name)))

    def find(self, kind: str, selector: str = "") -> list[Manifest]:
        wanted = dict(pair.split("=") for pair in selector.split(",") if pair).items()
        return [
            copy.deepcopy(found)
            for (its_kind, _), found in self.objects.items()
            if its_kind == kind and wanted <= found["metadata"].get("labels", {}).items()
        ]

    def apply(self, manifest: Manifest) -> Manifest:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        self.changes.append(f"apply {kind} {name}")
        before = self.objects.get((kind, name), {})
        after: Manifest = merge(copy.deepcopy(before), copy.deepcopy(manifest))
        self.put(after)
        if after.get("spec") != before.get("spec"):
            after["metadata"]["generation"] = after["metadata"].get("generation", 0) + 1
        return copy.deepcopy(after)

    def patch(self, kind: str, name: str, changes: Mapping[str, Any]) -> Manifest:
        self.changes.append(f"patch {kind} {name}")
        self.objects[kind, name] = merge(self.objects[kind, name], dict(changes))
        return copy.deepcopy(self.objects[kind, name])

    def delete(self, kind: str, name: str) -> None:
        self.changes.append(f"delete {kind} {name}")
        self.remove(kind, name)

    def follow_log(self, pod: str) -> Iterator[str]:
        self.followed.append(pod)
        yield from self.logs.get(pod, ())

    def last_lines(self, pod: str, count: int = 12) -> list[str]:
        return self.logs.get(pod, [])[-count:]

    def put(self, manifest: Manifest) -> None:
        """Have an object be there, without a step having written it."""
        manifest["metadata"].setdefault("uid", f"uid-{next(self._uids)}")
        self.objects[manifest["kind"], manifest["metadata"]["name"]] = manifest

    def remove(self, kind: str, name: str) -> None:
        self.objects.pop((kind, name), None)


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
