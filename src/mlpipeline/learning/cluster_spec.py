"""Which worker of which cluster this process is, from `TF_CONFIG`.

https://www.tensorflow.org/guide/distributed_training#TF_CONFIG. A TFJob's operator sets it in every
pod, the local backend in every process; a job with one replica has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlpipeline.errors import ConfigurationError

_VARIABLE = "TF_CONFIG"
# In the order in which TensorFlow numbers them: the first is the chief.
_TRAINING_TYPES = ("chief", "worker")


@dataclass(frozen=True)
class ClusterSpec:
    """The workers that train together, and this process's place among them."""

    workers: tuple[str, ...] = ()
    """`host:port` of each; empty for a process that trains alone."""
    index: int = 0

    @property
    def size(self) -> int:
        return max(1, len(self.workers))

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes checkpoints and publishes."""
        return self.index == 0


def from_environment(environ: Mapping[str, str]) -> ClusterSpec:
    """Read the cluster from `TF_CONFIG`; without it the process trains alone.

    Raises:
        ConfigurationError: `TF_CONFIG` is there but is not one of a training worker.
    """
    text = environ.get(_VARIABLE)
    if not text:
        return ClusterSpec()
    try:
        content = json.loads(text)
        cluster, task = content["cluster"], content["task"]
        groups = {kind: _addresses(cluster.get(kind, [])) for kind in _TRAINING_TYPES}
        start = 0 if task["type"] == "chief" else len(groups["chief"])
        group, index = groups[task["type"]], int(task["index"])
        if not 0 <= index < len(group):
            raise IndexError(f"there is no {task['type']} {index}")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigurationError(
            f"{_VARIABLE} is {text!r} ({type(error).__name__}: {error})",
            expected='{"cluster": {"worker": ["host:port"]}, '
            '"task": {"type": "worker", "index": 0}} of a chief or a worker',
            remedy="set it as a TFJob does, or unset it to train in one process",
        ) from error
    return ClusterSpec(groups["chief"] + groups["worker"], start + index)


def _addresses(listed: object) -> tuple[str, ...]:
    if not isinstance(listed, list):  # of a text, its letters would become workers
        raise TypeError(f"{listed!r} is not a list")
    return tuple(map(str, listed))


def to_environment(workers: Sequence[str], index: int) -> dict[str, str]:
    """Return what makes a process worker `index` of `workers`; nothing for a single one."""
    if len(workers) == 1:
        return {}
    task = {"type": "worker", "index": index}
    return {_VARIABLE: json.dumps({"cluster": {"worker": list(workers)}, "task": task})}
