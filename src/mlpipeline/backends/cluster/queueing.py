"""Queues: which one a job waits in, how urgent it is, and why it has to wait.

Kueue holds a job back until there is room for all of its pods, and again when another job has a
better claim to that room; its pods are gone meanwhile, and the job goes on from its checkpoint.

    Suspended ──► pods run ──► Suspended (preempted) ──► pods run ──► …

Where there is no Kueue nobody reads the labels, and every job runs at once.
https://kueue.sigs.k8s.io/docs/tasks/run/kubeflow/tfjobs/
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.errors import ClusterError

_log = logging.getLogger(__name__)

_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
_JOB_LABEL = "kueue.x-k8s.io/job-uid"  # of a Workload: what Kueue knows of a job
_WITHOUT_KUEUE = (403, 404)  # no right to read Workloads, or no Kueue
# Only a held job's reason is read, and not watched: Kueue and the rights to its kinds are optional.
_REASON_SECONDS = 10.0


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
        """Watch one job.

        Args:
            cluster: Where the job is.
            seconds: How long it may wait in its queue, all in all, however often.
            clock: Returns the time in seconds.
        """
        self._cluster = cluster
        self._seconds = seconds
        self._clock = clock
        self._waited = 0.0
        self._since: float | None = None  # it is known to have been held back
        self._reason = ""
        self._asked: float | None = None  # when the reason was
        self._logged = ""

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
            self._asked = None
            if since is not None:
                self._report(
                    f"TFJob {name}: has its place, after {self._waited:.0f} s in the queue"
                )
            return False
        self._waited += now - since if since is not None else 0.0
        if self._asked is None or now - self._asked >= _REASON_SECONDS:
            self._reason, self._asked = self._read_reason(job), now
        message = f"TFJob {name}: waits in its queue{self._reason}"
        self._report(message)
        if self._waited > self._seconds:
            raise ClusterError(
                f"{message}; that was {self._waited:.0f} s",
                expected=f"a place for all of its pods within {self._seconds:.0f} s",
                remedy="see who has it: kubectl get -n "
                f"{self._cluster.namespace} localqueues,workloads; then set "
                "the parameter `queue`, `priority` or `queue-seconds`",
            )
        return True

    def _read_reason(self, job: Manifest) -> str:
        try:
            workloads = self._cluster.find("Workload", f"{_JOB_LABEL}={job['metadata']['uid']}")
        except ClusterError as error:
            if error.status in _WITHOUT_KUEUE:
                return ""
            raise
        conditions = [c for w in workloads for c in w.get("status", {}).get("conditions", ())]
        # Who has taken its place tells more than what room there is not.
        for kind, status in (("Evicted", "True"), ("QuotaReserved", "False")):
            for condition in conditions:
                if (condition["type"], condition["status"]) == (kind, status):
                    return f": {condition['message']}"
        return ""

    def _report(self, message: str) -> None:
        if message != self._logged:
            _log.info(message)
        self._logged = message
