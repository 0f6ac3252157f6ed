"""Queues: which one a job waits in, how urgent it is, and why it has to wait.

Kueue holds a job back until there is room for all of its pods, and again when another job has a
better claim to that room; its pods are gone meanwhile, and the job goes on from its checkpoint.

    Suspended ──► pods run ──► Suspended (preempted) ──► pods run ──► …

Where there is no Kueue nobody reads the labels, and every job runs at once.
https://kueue.sigs.k8s.io/docs/tasks/run/kubeflow/tfjobs/
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.errors import ClusterError

_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
_JOB_LABEL = "kueue.x-k8s.io/job-uid"  # of a Workload: what Kueue knows of a job
_NOT_FOR_US = (403, 404)  # no right to read Workloads, or no Kueue


def in_queue(job: Manifest, *, queue: str, priority: str) -> Manifest:
    """Return a job with a queue and a priority; where one is empty, the template's stays."""
    wanted = {_QUEUE_LABEL: queue, _PRIORITY_LABEL: priority}
    labels = job["metadata"].get("labels", {}) | {k: v for k, v in wanted.items() if v}
    return job | {"metadata": job["metadata"] | {"labels": labels}}


class QueueWatch:
    """Notices that a job is held back, says why, and ends what waits for too long."""

    def __init__(
        self, cluster: Cluster, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Allow `seconds` for all that a job waits in its queue, however often."""
        self._cluster = cluster
        self._seconds = seconds
        self._clock = clock
        self._waited = 0.0
        self._since: float | None = None  # it is known to have been held back
        self._said = ""

    def check(self, job: Manifest) -> bool:
        """Return whether a job is held back now.

        Raises:
            ClusterError: It has waited for too long.
        """
        now, since = self._clock(), self._since
        is_held = bool(job["spec"].get("runPolicy", {}).get("suspend"))
        self._since = now if is_held else None
        name = job["metadata"]["name"]
        if not is_held:
            if since is not None:
                self._say(f"TFJob {name}: has its place, after {self._waited:.0f} s in the queue")
            return False
        self._waited += now - since if since is not None else 0.0
        message = f"TFJob {name}: waits in its queue{self._reason(job)}"
        self._say(message)
        if self._waited > self._seconds:
            raise ClusterError(
                f"{message}; that was {self._waited:.0f} s",
                expected=f"a place for all of its pods within {self._seconds:.0f} s",
                remedy="see who has it: kubectl get -n mlpipeline localqueues,workloads; then set "
                "the parameter `queue`, `priority` or `queue-seconds`",
            )
        return True

    def _reason(self, job: Manifest) -> str:
        try:
            found = self._cluster.find("Workload", f"{_JOB_LABEL}={job['metadata']['uid']}")
        except ClusterError as error:
            if error.status in _NOT_FOR_US:
                return ""
            raise
        conditions = [c for w in found for c in w.get("status", {}).get("conditions", ())]
        # Who has taken its place tells more than what room there is not.
        for kind, status in (("Evicted", "True"), ("QuotaReserved", "False")):
            for condition in conditions:
                if (condition["type"], condition["status"]) == (kind, status):
                    return f": {condition['message']}"
        return ""

    def _say(self, message: str) -> None:
        if message != self._said:
            print(message, flush=True)
        self._said = message
