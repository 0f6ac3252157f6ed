"""Step `serve` in a cluster: applies the InferenceService of a version and waits until it serves.

Kubernetes rolls the pods: a new one answers before an old one goes. A roll-out that fails is
undone: what was served before is applied again, and comes back as it was, with its annotations.

    apply ──► wait ──► kept as a snapshot
                └────► a pod does not start ──► the last good snapshot is applied, the step fails
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mlpipeline.backends.cluster import inference_service, snapshots
from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.backends.cluster.inference_service import LABEL, Revision
from mlpipeline.backends.cluster.informers import TICK_SECONDS, Selection
from mlpipeline.backends.cluster.pods import StartWatch, has_crashed, is_hopeless, waiting_reason
from mlpipeline.backends.cluster.readiness import left_to_do
from mlpipeline.backends.cluster.snapshots import Snapshot
from mlpipeline.errors import ClusterError, ClusterUnreachableError, StoppedError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Publication:
    """The run that a version is rolled out for.

    Attributes:
        good: The version that was last verified; empty for none. A failed roll-out goes back to it.
        parameters: Those of its workflow: with them the same can be trained again.
        code: Version of the code that verifies.
        stop: Set when this pod is told to end.
        is_over: Asked then: whether the whole run is to end, not this pod alone.
    """

    good: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    is_over: Callable[[], bool] = lambda: True


def roll_out(
    cluster: Cluster,
    service: Manifest,
    budget: Manifest,
    publication: Publication,
    *,
    seconds: float,
    pending_seconds: float,
) -> Revision:
    """Apply a service and its disruption budget, and wait until nothing else is served.

    Where that is so already, nothing is changed.

    Args:
        cluster: Where the service runs.
        service: What `inference_service.complete` returned.
        budget: The template of its PodDisruptionBudget.
        publication: The run that it is done for.
        seconds: Seconds that all of it may take, and going back once more.
        pending_seconds: How long a pod may take to start.

    Raises:
        ClusterError: A pod does not start, or it takes too long; says what is served now.
        StoppedError: This pod was told to end.
    """
    name = service["metadata"]["name"]
    before = cluster.get("InferenceService", name)
    was_served = before is not None and not left_to_do(cluster, name, before["spec"])
    if before is not None:
        if was_served:
            _keep_what_is_not_known(cluster, before)
        service = _with_pods_that_run(cluster, service, before)
    wait = Wait(cluster, seconds, pending_seconds, publication.stop)
    applied = cluster.apply(service)
    owner = inference_service.owner(applied)
    try:
        cluster.apply(_complete_budget(budget, name, owner))
        wait.until_rolled_out(service)
    except StoppedError:
        if publication.is_over():  # otherwise this pod's successor goes on
            good = _find_good(cluster, service, publication.good)
            _log.info("the workflow was stopped: %s", _go_back(cluster, name, good))
        raise
    except ClusterUnreachableError:  # the next attempt will see
        raise
    except ClusterError as error:
        good = _find_good(cluster, service, publication.good)
        raise _undone(error, wait.go_back(name, good)) from error
    snapshots.keep(cluster, service, publication.parameters, owner=owner)
    rolled = (
        not was_served
        or before is None
        or before["metadata"].get("generation") != applied["metadata"]["generation"]
    )
    return inference_service.revision(cluster, applied, code=publication.code, rolled=rolled)


def undo(cluster: Cluster, name: str, good: str, *, seconds: float, pending_seconds: float) -> str:
    """Go back to the version that was last verified, from one that was rolled out and is not.

    Args:
        cluster: Where the service runs.
        name: The service's name.
        good: The version that was last verified; empty for none.
        seconds: Seconds that it may take.
        pending_seconds: How long a pod may take to start.

    Returns:
        What is served now.
    """
    service = cluster.get("InferenceService", name)
    if service is None:
        return "there is no service"
    failed = inference_service.mark(service["spec"]["predictor"])
    known = snapshots.find(cluster, name)
    found = next((s for s in known if s.version == good and s.mark != failed), None)
    if found is None:
        version = inference_service.version(service)
        return f"version {version} stays: no other is known to have been verified"
    for snapshot in known:
        if snapshot.mark == failed:
            snapshots.remove(cluster, snapshot)
    wait = Wait(cluster, seconds, pending_seconds, threading.Event())
    return wait.go_back(name, found)


class Wait:
    """The wait for a roll-out, and for the way back."""

    def __init__(
        self, cluster: Cluster, seconds: float, pending_seconds: float, stop: threading.Event
    ) -> None:
        """Prepare it.

        Args:
            cluster: Where the service runs.
            seconds: Seconds that it may take.
            pending_seconds: How long a pod may take to start.
            stop: Set when this pod is told to end.
        """
        self._cluster = cluster
        self._seconds = seconds
        self._pending_seconds = pending_seconds
        self._stop = stop

    def until_rolled_out(self, service: Manifest) -> None:
        """Wait until all pods are those of a service that was applied, and answer.

        Raises:
            ClusterError: One does not start, or it takes too long.
            StoppedError: This pod was told to end.
        """
        name, spec = service["metadata"]["name"], service["spec"]
        start_watch = StartWatch(self._cluster, self._pending_seconds)
        end = time.monotonic() + self._seconds
        logged = ""
        selections = (
            Selection("InferenceService", name=name),
            Selection("Deployment"),
            Selection("Pod", f"{LABEL}={name}"),
        )
        with self._cluster.watching(*selections) as view:
            # What the watches have brought may be of different moments: the last word is a fresh
            # look.
            while left := left_to_do(view, name, spec) or left_to_do(self._cluster, name, spec):
                if left != logged:
                    _log.info("InferenceService %s: %s", name, left)
                    logged = left
                # Older pods may crash for as long as they like: they are replaced.
                pods = [p for p in view.find("Pod", selections[2].labels) if _is_of(p, service)]
                start_watch.check(pods)
                if self._stop.is_set():
                    raise StoppedError("this pod was told to end")
                if time.monotonic() > end:
                    raise _not_ready(name, self._seconds, left, pods)
                view.wait(TICK_SECONDS)

    def go_back(self, name: str, good: Snapshot | None) -> str:
        """Apply what was good, wait for it, and say what is served now."""
        try:
            said = _go_back(self._cluster, name, good)
            if good is not None:
                self.until_rolled_out(good.service)
        except (ClusterError, StoppedError) as error:
            return f"it could not be undone: {error.got}"
        return said


def _go_back(cluster: Cluster, name: str, good: Snapshot | None) -> str:
    if good is not None:
        cluster.apply(good.service)
        return f"it is undone, version {good.version} is served again"
    if snapshots.find(cluster, name):
        return "it stays, because nothing else was served well before"
    cluster.delete("InferenceService", name)  # its pods would crash for ever
    return f"it is undone, {name} is not served, as before"


def _find_good(cluster: Cluster, service: Manifest, version: str) -> Snapshot | None:
    """What is to be served again: the last state of a version, or the last of all if it has none.

    Not one with the very pods that have just failed.
    """
    failed = _digest(inference_service.mark(service["spec"]["predictor"]))
    known = snapshots.find(cluster, service["metadata"]["name"])
    of_version = [snapshot for snapshot in known if snapshot.version == version]
    return next((s for s in of_version or known if _digest(s.mark) != failed), None)


def _keep_what_is_not_known(cluster: Cluster, service: Manifest) -> None:
    """Keep what is served, if an older release of this pipeline, or a person, has put it there."""
    metadata = service["metadata"]
    if snapshots.find(cluster, metadata["name"]):
        return
    own = {key: metadata[key] for key in ("name", "labels", "annotations") if key in metadata}
    manifest = {key: service[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": own}
    snapshots.keep(cluster, manifest, {}, owner=inference_service.owner(service))


def _with_pods_that_run(cluster: Cluster, service: Manifest, before: Manifest) -> Manifest:
    """Keep the pods of the same service, unless one of them crashes: then all are replaced.

    What it crashed of may be mended by now, and Kubernetes waits minutes before it tries again.
    """
    mark = inference_service.mark(service["spec"]["predictor"])
    had = inference_service.mark(before["spec"]["predictor"])
    if _digest(had) != mark:
        return service
    name = service["metadata"]["name"]
    pods = cluster.find("Pod", f"{LABEL}={name}")
    stuck = [p for p in pods if _is_of(p, before) and (is_hopeless(p) or has_crashed(p))]
    if stuck:
        names = ", ".join(pod["metadata"]["name"] for pod in stuck)
        _log.info("%s: all pods are replaced, because these do not run: %s", name, names)
        return inference_service.with_mark(service, f"{mark}.{uuid.uuid4().hex[:8]}")
    return inference_service.with_mark(service, had)


def _digest(mark: str) -> str:
    """What pods are made of; what follows tells those that were replaced from their like."""
    return mark.partition(".")[0]


def _is_of(pod: Manifest, service: Manifest) -> bool:
    mark = inference_service.mark(service["spec"]["predictor"])
    return inference_service.mark(pod["metadata"]) == mark


def _complete_budget(template: Manifest, name: str, owner: Manifest) -> Manifest:
    metadata = {"name": f"{name}-predictor", "ownerReferences": [owner]}
    return template | {
        "metadata": template["metadata"] | metadata,
        "spec": template["spec"] | {"selector": {"matchLabels": {LABEL: name}}},
    }


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


def _undone(error: ClusterError, said: str) -> ClusterError:
    return ClusterError(
        f"{error.got}\n    {said}",
        expected=error.expected,
        remedy=error.remedy,
        status=error.status,
    )
