"""Why a pod does not run: what `kubectl describe` would tell a person, for error messages."""

from __future__ import annotations

import time
from collections.abc import Callable

from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.errors import ClusterError

# Waiting does not mend these. A registry may have a bad minute, so not at the first sight of one.
_HOPELESS = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}
_HOPELESS_SECONDS = 60.0


class StartWatch:
    """Notices pods that do not start, and says why."""

    def __init__(
        self, cluster: Cluster, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Watch pods.

        Args:
            cluster: Where they are.
            seconds: How long one may take to start: to be scheduled, to pull its image, to mount.
            clock: Returns the time in seconds.
        """
        self._cluster = cluster
        self._seconds = seconds
        self._clock = clock
        self._since: dict[str, float] = {}

    def check(self, pods: list[Manifest]) -> None:
        """Look at the pods that there are now.

        Raises:
            ClusterError: One has been waiting for too long.
        """
        now = self._clock()
        for pod in pods:
            uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
            reason = waiting_reason(pod)
            if reason is None:
                if not has_crashed(pod):  # which runs for a moment, and crashes again
                    self._since.pop(uid, None)
                continue
            waited = now - self._since.setdefault(uid, now)
            allowed = self._seconds
            if is_hopeless(pod):
                allowed = min(allowed, _HOPELESS_SECONDS)
            if waited >= allowed:
                lines = [*warnings_of(self._cluster, name), *last_words(self._cluster, pod)]
                raise ClusterError(
                    f"pod {name} does not start: {reason}" + "".join(f"\n    {x}" for x in lines),
                    expected=f"that it runs within {allowed:.0f} s",
                    remedy="for an image: `make image`, and the parameters `image` and "
                    "`predictor-image`; for resources: ask for less or add a node; if memory was "
                    "too small: raise its limit in manifests/base/templates; `make status` shows "
                    "what waits",
                )


def warnings_of(cluster: Cluster, name: str) -> list[str]:
    """Return the latest warnings about an object, such as that a quota has no room for its pods.

    Args:
        cluster: Where it is.
        name: The object's name.
    """
    events = [e for e in cluster.find("Event") if e["involvedObject"].get("name") == name]
    return [str(e.get("message", "")) for e in events if e.get("type") == "Warning"][-3:]


def last_words(cluster: Cluster, pod: Manifest) -> list[str]:
    """Return the lines of the error that a pod has ended with; if it said none, of its log's end.

    Args:
        cluster: Where the pod is.
        pod: The pod.
    """
    for container in pod.get("status", {}).get("containerStatuses", ()):
        for state in (container.get("state", {}), container.get("lastState", {})):
            if said := (state.get("terminated") or {}).get("message"):
                return str(said).splitlines()
    return cluster.last_lines(pod["metadata"]["name"])


def waiting_reason(pod: Manifest) -> str | None:
    """Return what a pod waits for, such as `Unschedulable: 0/3 nodes …`; None if it runs."""
    status = pod.get("status", {})
    statuses = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    for container in statuses:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "PodInitializing"):
            ended = container.get("lastState", {}).get("terminated") or {}
            how = f"{ended.get('reason', '')}, status {ended.get('exitCode')}" if ended else ""
            return ": ".join(filter(None, [waiting["reason"], how, waiting.get("message", "")]))
    if status.get("phase", "Pending") != "Pending":
        return None
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason', '')}: {scheduled.get('message', '')}"
    return "Pending: it has not been started"


def is_hopeless(pod: Manifest) -> bool:
    """Whether a pod waits for what waiting does not mend, such as the end of its crashes."""
    return (waiting_reason(pod) or "").partition(":")[0] in _HOPELESS


def has_crashed(pod: Manifest) -> bool:
    """Whether a pod does not answer, and was started again at least once."""
    containers = pod.get("status", {}).get("containerStatuses", ())
    crashed = any(container.get("lastState", {}).get("terminated") for container in containers)
    return crashed and not is_ready(pod)


def is_ready(pod: Manifest) -> bool:
    """Whether a pod answers, and is not on its way out."""
    ready = _condition(pod, "Ready").get("status") == "True"
    return ready and "deletionTimestamp" not in pod["metadata"]


def is_cut_off(pod: Manifest) -> bool:
    """Whether a pod without a readiness probe runs on a node that is not heard of any more.

    The node controller then says of all the node's pods that they are not ready; a container
    without such a probe is ready for as long as it runs.
    https://kubernetes.io/docs/concepts/architecture/nodes/#node-controller
    """
    containers = pod.get("status", {}).get("containerStatuses", ())
    runs = any("running" in container.get("state", {}) for container in containers)
    return runs and _condition(pod, "Ready").get("status") == "False"


def _condition(pod: Manifest, kind: str) -> Manifest:
    conditions: list[Manifest] = pod.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})
