"""Which process of which cluster this one is, from `TF_CONFIG`.

https://www.tensorflow.org/guide/distributed_training#TF_CONFIG. A TFJob's operator sets it in every
pod, the local backend in every process; a job with one replica has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlpipeline.errors import ConfigurationError

Role = Literal["chief", "ps", "worker"]  # TensorFlow's names

_VARIABLE = "TF_CONFIG"
# In the order in which TensorFlow numbers them: the first is the chief.
_TRAINING_TYPES = ("chief", "worker")


@dataclass(frozen=True)
class ClusterSpec:
    """The workers that train together, and this process's place among them."""

    workers: tuple[str, ...] = ()
    """`host:port` of each; empty for a process that trains alone."""
    index: int = 0
    """Number of this process among them."""

    @property
    def size(self) -> int:
        """How many workers train."""
        return max(1, len(self.workers))

    @property
    def has_peers(self) -> bool:
        """Whether this process is connected to others."""
        return self.size > 1

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes checkpoints and publishes."""
        return self.index == 0


@dataclass(frozen=True)
class ParameterServerSpec:
    """A chief, the workers that it gives work to, and the servers that hold the weights."""

    chief: str
    """Its `host:port`."""
    parameter_servers: tuple[str, ...]
    """`host:port` of each."""
    workers: tuple[str, ...]
    """`host:port` of each."""
    role: Role = "chief"
    """What this process is."""
    index: int = 0
    """Its number among those of its role."""

    @property
    def size(self) -> int:
        """How many workers train."""
        return len(self.workers)

    @property
    def has_peers(self) -> bool:
        """Whether this process is connected to others."""
        return True

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes checkpoints and publishes."""
        return self.role == "chief"

    def addresses(self) -> dict[Role, list[str]]:
        """Return the addresses by role, as TensorFlow takes them."""
        return {
            "chief": [self.chief],
            "ps": list(self.parameter_servers),
            "worker": list(self.workers),
        }

    def environment_of(self, role: Role, index: int) -> dict[str, str]:
        """Return what makes a process number `index` of a role."""
        return _environment(self.addresses(), role, index)


def from_environment(environ: Mapping[str, str]) -> ClusterSpec | ParameterServerSpec:
    """Read the cluster from `TF_CONFIG`; without it the process trains alone.

    Raises:
        ConfigurationError: `TF_CONFIG` is there but is not one of a process that trains.
    """
    text = environ.get(_VARIABLE)
    if not text:
        return ClusterSpec()
    try:
        content = json.loads(text)
        cluster, task = content["cluster"], content["task"]
        # Only these: a TFJob's operator names an evaluator, too, whether or not there is one.
        groups = {kind: _addresses(cluster.get(kind, [])) for kind in ("ps", *_TRAINING_TYPES)}
        group, index = groups[task["type"]], int(task["index"])
        if not 0 <= index < len(group):
            raise IndexError(f"there is no {task['type']} {index}")
        if groups["ps"]:
            (chief,), (_, *_) = groups["chief"], groups["worker"]
            return ParameterServerSpec(chief, groups["ps"], groups["worker"], task["type"], index)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigurationError(
            f"{_VARIABLE} is {text!r} ({type(error).__name__}: {error})",
            expected='{"cluster": {"worker": ["host:port"]}, '
            '"task": {"type": "worker", "index": 0}} of a chief or a worker; '
            "with `ps`, one chief",
            remedy="set it as a TFJob does, or unset it to train in one process",
        ) from error
    start = 0 if task["type"] == "chief" else len(groups["chief"])
    return ClusterSpec(groups["chief"] + groups["worker"], start + index)


def _addresses(listed: object) -> tuple[str, ...]:
    if not isinstance(listed, list):  # of a text, its letters would become workers
        raise TypeError(f"{listed!r} is not a list")
    return tuple(map(str, listed))


def to_environment(workers: Sequence[str], index: int) -> dict[str, str]:
    """Return what makes a process worker `index` of `workers`; nothing for a single one."""
    if len(workers) == 1:
        return {}
    return _environment({"worker": list(workers)}, "worker", index)


def _environment(cluster: Mapping[Any, list[str]], role: Role, index: int) -> dict[str, str]:
    return {_VARIABLE: json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})}
