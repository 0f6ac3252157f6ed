"""Where the time of a workflow goes, by what the cluster itself has recorded of it.

Kubernetes notes when a pod was made and placed, and when each of its containers began and ended.
Each instant counts for one cause, the first of those that were going on. What is left over is
between two pods, where the kubelet notes that one has ended and Argo makes the next: so the sum of
all causes is the whole. Kubernetes writes whole seconds, which evens out over several runs.

    pod made ─► placed ─► init container ─► main container ─► wait container ─► next pod made
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any

Manifest = Mapping[str, Any]
Span = tuple[float, float]

WORK = ("ingest", "train", "select", "load the model")
_OPERATORS = {"TFJob": "the training operator makes pods", "InferenceService": "KServe makes pods"}
_PLACED = "a node for a pod"
_SANDBOX = "volumes and network of a pod"
_INIT = "Argo's init container"
_START = "start of the main container"
_REPORT = "Argo's wait container reports"
_REST = "Kubernetes and Argo: a pod's end to the next pod"
_STEPS = ("plan", "train", "gate", "serve", "verify", "record")
_TALKS = {step: f"process of {step}" for step in _STEPS}
CAUSES = (
    *(*WORK, *_OPERATORS.values(), _PLACED, _SANDBOX, _INIT, _START),
    *(*_TALKS.values(), _REPORT, _REST),
)

# The containers that work, by which one knows whose a pod is: Argo's, TFJob's and KServe's.
_MAIN, _WORKER, _REPLICA = "main", "tensorflow", "kserve-container"
_COMPONENT = "app.kubernetes.io/component"


def by_cause(objects: Iterable[Manifest], began: float, ended: float) -> dict[str, float]:
    """Return the seconds of each cause, in order; together they are all the time from end to end.

    Args:
        objects: The pods, TFJobs and InferenceServices that there are.
        began: When the workflow was submitted; objects that are older are none of it.
        ended: When that was there which is measured.
    """
    new = [o for o in objects if _made(o) >= math.floor(began)]
    spans = [
        (cause, max(start, began), min(end, ended)) for cause, (start, end) in _spans(new, ended)
    ]
    seconds = dict.fromkeys(CAUSES, 0.0)
    moments = {moment for _, *span in spans for moment in span if began < moment < ended}
    for left, right in pairwise(sorted({began, *moments, ended})):
        going_on = {cause for cause, start, end in spans if start <= left and right <= end}
        seconds[next((c for c in CAUSES if c in going_on), _REST)] += right - left
    return seconds


def _spans(objects: list[Manifest], ended: float) -> Iterator[tuple[str, Span]]:
    pods = [o for o in objects if o["kind"] == "Pod" and _main(o)]
    for pod in pods:
        yield from _of_pod(pod, ended)
    for kind, main in (("TFJob", _WORKER), ("InferenceService", _REPLICA)):
        for owner in (o for o in objects if o["kind"] == kind):
            made = _made(owner)
            first = (_made(p) for p in pods if _main(p) == main and _made(p) >= made)
            yield _OPERATORS[kind], (made, min(first, default=ended))


def _of_pod(pod: Manifest, ended: float) -> Iterator[tuple[str, Span]]:
    """What a pod's own record says: how it came to run, its process, and what Argo does after."""
    main, status = _main(pod), pod["status"]
    started, stopped = _ran(status, "containerStatuses", main, ended)
    init = _ran(status, "initContainerStatuses", "init", started)
    placed = next(c for c in status["conditions"] if c["type"] == "PodScheduled")
    moments = (_made(pod), _seconds(placed["lastTransitionTime"]), *init, started)
    yield from zip((_PLACED, _SANDBOX, _INIT, _START), pairwise(moments), strict=True)
    yield _process(pod), (started, stopped)
    yield _REPORT, (stopped, _ran(status, "containerStatuses", "wait", stopped)[1])


def _process(pod: Manifest) -> str:
    """What a pod's main container does."""
    if (main := _main(pod)) != _MAIN:
        return "train" if main == _WORKER else "load the model"
    step: str = pod["metadata"]["labels"].get(_COMPONENT, "")
    return _TALKS.get(step, step)  # the `train` of Argo waits for the workers


def _main(pod: Manifest) -> str:
    names = {container["name"] for container in pod["spec"]["containers"]}
    return next((n for n in (_MAIN, _WORKER, _REPLICA) if n in names), "")


def _ran(status: Manifest, which: str, name: str, otherwise: float) -> Span:
    """Return when a container began and ended; a moment that there is not is `otherwise`."""
    found = (s["state"] for s in status.get(which, ()) if s["name"] == name)
    state: Manifest = next(found, {})
    span = state.get("terminated") or state.get("running") or {}
    moments = (span.get("startedAt"), span.get("finishedAt"))
    start, end = (_seconds(moment) if moment else otherwise for moment in moments)
    return start, end


def _made(thing: Manifest) -> float:
    return _seconds(thing["metadata"]["creationTimestamp"])


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
