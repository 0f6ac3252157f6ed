"""Step `train` in a cluster: applies a TFJob, waits for its end, and shows its chief's progress.

The job has a name that follows from what it makes. So whoever asks for the same candidate finds the
job that is under way: a second run, or this step's next pod after the first was killed.

    apply ──► Created ──► Running ⇄ Restarting ──► Succeeded | Failed
      ▲                                                          │
      └──────────────── a worker's pod was deleted ──────────────┘

The operator starts a worker anew whose container failed, but calls the whole job failed when a
worker's pod is deleted, as when its node is drained. Then this step applies the job once more, and
the new workers go on from the checkpoint. (With parameter servers, a worker that is started anew
finds the others still at work.)

A node that falls silent takes its workers with it, and the others wait for these in vain, again and
again. That does not count as their failure. Kubernetes lets go of such pods once the node is back,
or its object is deleted, as a cloud does when the machine is gone; until then nobody can know that
they do not compute any more.

Where there are queues, a job may be held back before and in the middle of its training
(`queueing`). That is no failure, and takes none of its time.

TFJob is served by training-operator 1.9 for the last time; this module is all that knows of it.
https://www.kubeflow.org/docs/components/trainer/legacy-v1/user-guides/tensorflow/
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mlpipeline.backends.cluster.api import Cluster, Manifest
from mlpipeline.backends.cluster.informers import TICK_SECONDS, Selection, View
from mlpipeline.backends.cluster.manifests import with_container, with_reach
from mlpipeline.backends.cluster.pods import StartWatch, is_cut_off, last_words, warnings_of
from mlpipeline.backends.cluster.queueing import QueueWatch
from mlpipeline.errors import ClusterError, ClusterUnreachableError, StoppedError
from mlpipeline.plan.config import Training

_log = logging.getLogger(__name__)

_CONTAINER = "tensorflow"  # the operator wants this name
_DELETION_SECONDS = 120.0
_JOB_LABEL = "training.kubeflow.org/job-name"
_ROLE_LABEL = "training.kubeflow.org/job-role"


@dataclass(frozen=True)
class WorkflowReference:
    """The workflow that a step belongs to. What it creates goes when the workflow is deleted.

    Attributes:
        name: Its name.
        uid: Its `metadata.uid`.
    """

    name: str
    uid: str

    @classmethod
    def parse(cls, text: str) -> WorkflowReference:
        """Return the reference that `NAME/UID` is, as the workflow passes it to its steps."""
        name, _, uid = text.partition("/")
        return cls(name, uid)

    def owner(self) -> Manifest:
        """Return it as an entry of `metadata.ownerReferences`."""
        return {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "name": self.name,
            "uid": self.uid,
        }


def job_name(key: str) -> str:
    """Return a DNS label that leaves room for what the operator adds, such as `-worker-12`."""
    prefix, _, digest = key.rpartition("-")
    return f"train-{prefix[:22].strip('-').lower()}-{digest}"


def complete(
    template: Manifest,
    *,
    name: str,
    image: str,
    arguments: list[str],
    settings: Training,
    workflow: WorkflowReference,
    reads: Iterable[Path],
    writes: Path,
) -> Manifest:
    """Return the manifest of a job.

    Args:
        template: The TFJob of `manifests/base/templates`.
        name: Name of the job.
        image: Image of all of its pods.
        arguments: Command line of its pods, after `mlpipeline`.
        settings: How many pods of which role, and the deadline.
        workflow: Owner of the job.
        reads: What its pods see of the workspace, below its root.
        writes: The one folder of it that they may write to.
    """
    worker = template["spec"]["tfReplicaSpecs"]["Worker"]
    containers = with_container(
        worker["template"]["spec"]["containers"], _CONTAINER, image=image, args=arguments
    )
    containers = with_reach(containers, _CONTAINER, reads=reads, writes=[writes])
    pod = worker["template"] | {"spec": worker["template"]["spec"] | {"containers": containers}}
    policy = template["spec"].get("runPolicy", {})
    return template | {
        "metadata": template["metadata"] | {"name": name, "ownerReferences": [workflow.owner()]},
        "spec": template["spec"]
        | {
            "runPolicy": policy | {"activeDeadlineSeconds": settings.deadline_seconds},
            "tfReplicaSpecs": {
                role: worker
                | {"replicas": count, "template": pod if role == "Worker" else _idle(pod)}
                for role, count in _replicas(settings).items()
            },
        },
    }


def _idle(pod: Manifest) -> Manifest:
    """Return the pod without its claim to GPUs, which only who computes gradients has a use for.

    Where it may be placed stays the same: beside its workers.
    """
    containers = []
    for container in pod["spec"]["containers"]:
        resources = {
            kind: {name: amount for name, amount in amounts.items() if "/" not in name}
            for kind, amounts in container.get("resources", {}).items()
        }
        containers.append(container | {"resources": resources})
    return pod | {"spec": pod["spec"] | {"containers": containers}}


def _replicas(settings: Training) -> dict[str, int]:
    """How many pods of which role. Where there is a chief, its success is the job's."""
    if settings.strategy == "parameter_server":
        return {"Chief": 1, "PS": settings.parameter_servers, "Worker": settings.workers}
    return {"Worker": settings.workers}


def run(
    cluster: Cluster,
    job: Manifest,
    settings: Training,
    *,
    workflow: WorkflowReference,
    pending_seconds: float,
    queue_seconds: float,
    stop: threading.Event,
) -> None:
    """Apply a job, or find it under way, and wait for its end.

    Args:
        cluster: Where the job runs.
        job: What `complete` returned.
        settings: The deadline, and how often a worker is started before it counts as failed.
        workflow: Is asked, at the end of this pod, whether the job is still wanted.
        pending_seconds: How long a worker may take to start.
        queue_seconds: How long the job may be held back by its queue, all in all.
        stop: Set when this pod is told to end.

    Raises:
        ClusterError: The job failed, or was not done in time.
        StoppedError: This pod was told to end.
    """
    name = job["metadata"]["name"]
    existing = cluster.get("TFJob", name)
    if existing is not None and (_outcome(existing) or "deletionTimestamp" in existing["metadata"]):
        # It ended, and yet its artifact is not there: otherwise this step would not have begun.
        _delete(cluster, name)
        existing = None
    if existing is None:
        cluster.apply(job)
    _log.info("TFJob %s: %s", name, "under way already" if existing else "applied")
    wait = _Wait(cluster, name, settings, pending_seconds, queue_seconds, stop)
    try:
        while not wait.until_end():
            _delete(cluster, name)
            cluster.apply(job)
            _log.info("TFJob %s: applied again, because a worker's pod was deleted", name)
    except StoppedError:
        # The pod alone may be meant: its node is drained. Then its successor goes on waiting.
        if is_over(cluster.get("Workflow", workflow.name)):
            cluster.delete("TFJob", name)
            _log.info("TFJob %s: deleted, because the workflow was stopped", name)
        raise
    except ClusterUnreachableError:  # the job may be well: the next attempt will see
        raise
    except ClusterError:
        cluster.delete("TFJob", name)
        raise


def is_under_way(cluster: Cluster, name: str) -> bool:
    """Whether there is a job that has not ended."""
    job = cluster.get("TFJob", name)
    return job is not None and not _outcome(job)


def delete_unfinished(cluster: Cluster, workflow: WorkflowReference) -> None:
    """Delete the jobs that a workflow has left behind: nobody waits for them."""
    for job in cluster.find("TFJob"):
        name, owners = job["metadata"]["name"], job["metadata"].get("ownerReferences", ())
        if workflow.uid in (owner["uid"] for owner in owners) and not _outcome(job):
            cluster.delete("TFJob", name)
            _log.info("TFJob %s: deleted, because nobody waits for it", name)


class _Wait:
    """The wait for a job, also when it has to be applied again: its limits are for all of it."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        settings: Training,
        pending_seconds: float,
        queue_seconds: float,
        stop: threading.Event,
    ) -> None:
        self._cluster = cluster
        self._name = name
        self._settings = settings
        self._pending_seconds = pending_seconds
        self._stop = stop
        self._start_watch = StartWatch(cluster, pending_seconds)
        self._queue_watch = QueueWatch(cluster, queue_seconds)
        self._starts: dict[str, set[str]] = defaultdict(set)  # uids of the pods of each name
        self._followed: set[str] = set()
        self._silent_nodes: set[str] = set()  # those that were logged
        self._endings: dict[str, str] = {}  # how the last pod of each name ended
        self._began = time.monotonic()

    def until_end(self) -> bool:
        """Return True once the job has succeeded, False if it is to be applied again."""
        selections = (
            Selection("TFJob", name=self._name),
            Selection("Pod", f"{_JOB_LABEL}={self._name}"),
        )
        last_pod = time.monotonic()
        with self._cluster.watching(*selections) as view:
            while not self._stop.is_set():
                view.wait(TICK_SECONDS)
                job = view.get("TFJob", self._name)
                if job is None:
                    raise _failed(self._name, "somebody deleted it")
                outcome = _outcome(job)
                # The job may be ahead of its pods in the view; how it ended they have to tell.
                pods = (self._cluster if outcome else view).find("Pod", selections[1].labels)
                if pods:
                    last_pod = time.monotonic()
                    self._see(pods)
                if outcome and outcome["type"] == "Succeeded":
                    self._until_pods_end(view)
                    return True
                if cut_off := [pod for pod in pods if is_cut_off(pod)]:
                    self._report_silent_nodes(cut_off)
                    self._starts.clear()
                self._check_attempts(pods)
                if outcome:
                    if _lost_a_pod(job, pods):
                        return False
                    last_lines = _last_lines(self._cluster, pods)
                    raise _failed(self._name, outcome.get("message", ""), last_lines)
                self._start_watch.check(pods)
                if self._queue_watch.check(job):
                    self._began = last_pod = time.monotonic()
                    self._starts.clear()  # its workers have not failed; the next ones count anew
                self._check_time(last_pod)
        raise StoppedError("this pod was told to end")

    def _until_pods_end(self, view: View) -> None:
        """Wait for pods that have not seen yet that the job is over: they may still write."""
        end = time.monotonic() + _DELETION_SECONDS
        while running := self._running():
            if time.monotonic() > end:
                _log.warning("TFJob %s: still running: %s", self._name, ", ".join(running))
                return
            view.wait(TICK_SECONDS)

    def _running(self) -> list[str]:
        pods = self._cluster.find("Pod", f"{_JOB_LABEL}={self._name}")
        return [p["metadata"]["name"] for p in pods if p["status"].get("phase") == "Running"]

    def _check_time(self, last_pod: float) -> None:
        """Raise if nothing has happened for too long, or the training takes too long."""
        now, pending_seconds = time.monotonic(), self._pending_seconds
        if now - last_pod > pending_seconds:
            refused = warnings_of(self._cluster, self._name)
            guess = "" if refused else ": is its operator well?"
            raise _failed(self._name, f"it had no pod for {pending_seconds:.0f} s{guess}", refused)
        # The operator ends it in time; this is for one that does not, and for all attempts.
        if now - self._began > self._settings.deadline_seconds + pending_seconds:
            raise _failed(self._name, f"not done after {now - self._began:.0f} s")

    def _see(self, pods: list[Manifest]) -> None:
        for pod in pods:
            name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
            if _terminated(pod):
                self._endings[name] = _ending(pod)
            if "deletionTimestamp" in pod["metadata"]:
                continue  # on its way out; it was seen when it came
            self._starts[name].add(uid)
            is_chief = pod["metadata"]["labels"].get(_ROLE_LABEL) == "master"
            if is_chief and uid not in self._followed and pod["status"]["phase"] != "Pending":
                self._followed.add(uid)
                _show_log(self._cluster, name)

    def _report_silent_nodes(self, cut_off: list[Manifest]) -> None:
        for pod in cut_off:
            node = pod["spec"]["nodeName"]
            # A pod that is told to end need not be ready, on a good node either.
            if node not in self._silent_nodes and "deletionTimestamp" not in pod["metadata"]:
                self._silent_nodes.add(node)
                _log.warning(
                    "TFJob %s: node %s does not answer, and %s is there. Training goes on when the "
                    "node is back, or on another one once it is deleted: kubectl delete node %s",
                    self._name,
                    node,
                    pod["metadata"]["name"],
                    node,
                )

    def _check_attempts(self, pods: list[Manifest]) -> None:
        attempts = self._settings.attempts
        for name, uids in self._starts.items():
            if len(uids) > attempts:
                ended = f"; the one before: {self._endings[name]}" if name in self._endings else ""
                raise _failed(
                    self._name,
                    f"{name.removeprefix(self._name + '-')} was started {len(uids)} times; "
                    f"training.attempts is {attempts}{ended}",
                    _last_lines(self._cluster, pods),
                )


def _lost_a_pod(job: Manifest, pods: list[Manifest]) -> bool:
    """Whether a failed job failed because a worker's pod was deleted.

    Then the operator has counted a worker as failed, yet none has ended with an error of its own;
    a job that took too long has no failed worker.
    """
    replicas = job.get("status", {}).get("replicaStatuses") or {}
    final = any(0 < _terminated(pod).get("exitCode", 0) < 128 for pod in pods)
    return any(role.get("failed") for role in replicas.values()) and not final


def _terminated(pod: Manifest) -> Manifest:
    """How a pod's container ended; empty while it has not."""
    for container in pod["status"].get("containerStatuses", ()):
        ended: Manifest = container.get("state", {}).get("terminated") or {}
        if ended:
            return ended
    return {}


def _outcome(job: Manifest) -> Manifest | None:
    """The condition that says how the job ended; None while it has not."""
    conditions: list[Manifest] = (job.get("status") or {}).get("conditions") or []
    endings = (c for c in conditions if c["type"] in ("Succeeded", "Failed"))
    return next((c for c in endings if c["status"] == "True"), None)


def is_over(workflow: Manifest | None) -> bool:
    """Whether the workflow was stopped, terminated or deleted."""
    if workflow is None or "deletionTimestamp" in workflow["metadata"]:
        return True
    return bool(workflow["spec"].get("shutdown"))


def _delete(cluster: Cluster, name: str) -> None:
    """Delete a job and wait until its pods are gone, whose names the next job's pods will have."""
    cluster.delete("TFJob", name)
    end = time.monotonic() + _DELETION_SECONDS
    selections = Selection("TFJob", name=name), Selection("Pod", f"{_JOB_LABEL}={name}")
    with cluster.watching(*selections) as view:
        while (pods := view.find("Pod", selections[1].labels)) or view.get("TFJob", name):
            if time.monotonic() > end:
                left = [f"{p['metadata']['name']} is on {p['spec'].get('nodeName')}" for p in pods]
                reason = f"the old one was not gone after {_DELETION_SECONDS:.0f} s"
                raise _failed(name, reason, left)
            view.wait(TICK_SECONDS)


def _show_log(cluster: Cluster, pod: str) -> None:
    def follow() -> None:
        try:
            for line in cluster.follow_log(pod):
                # The worker's own lines, its progress among them, go on to who follows this pod.
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
        except ClusterError as error:  # the job goes on, whether or not it can be watched
            _log.warning("no log of %s: %s", pod, error.got)

    threading.Thread(target=follow, daemon=True).start()


def _last_lines(cluster: Cluster, pods: list[Manifest]) -> list[str]:
    """Return the last lines of the workers' logs; of those that failed, where there are such."""
    failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
    lines = []
    for pod in failed or pods:
        name = pod["metadata"]["name"]
        lines += [f"{name}: {_ending(pod)}", *last_words(cluster, pod)]
    return lines


def _ending(pod: Manifest) -> str:
    if ended := _terminated(pod):
        return f"{ended.get('reason', '')}, status {ended.get('exitCode')}"
    return str(pod["status"].get("reason") or pod["status"].get("phase"))


def _failed(name: str, why: str, lines: list[str] | None = None) -> ClusterError:
    return ClusterError(
        f"TFJob {name} failed: {why}" + "".join(f"\n    {line}" for line in lines or ()),
        expected="that all its workers succeed",
        remedy="read the lines above; if memory was too small: raise its limit in "
        "manifests/base/templates, or lower batch_size; `make status` shows what waits, and why",
    )
