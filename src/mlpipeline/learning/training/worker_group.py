"""The workers that train together: how they find, wait for and agree with each other."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mlpipeline.errors import ConfigurationError, PeerLostError
from mlpipeline.learning.training.cluster_spec import ClusterSpec
from mlpipeline.learning.training.deadline import deadline

_log = logging.getLogger(__name__)

# What a lost peer shows as. InvalidArgumentError at times too, when a collective breaks off midway.
_PEER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.InternalError,
    tf.errors.DeadlineExceededError,
    tf.errors.CancelledError,
    tf.errors.InvalidArgumentError,
)


@contextmanager
def waiting_for(peers: str, seconds: int) -> Iterator[None]:
    """Bound a wait for other processes; what a lost one shows as becomes `PeerLostError`.

    Where the time is over, the process ends with a status that is retried, see `deadline`.

    Args:
        peers: Who they are, for the message.
        seconds: How long to wait.
    """
    try:
        with deadline(seconds):
            yield
    except _PEER_ERRORS as error:
        raise PeerLostError(
            f"lost one of {peers}: {str(error)[:300]}",
            expected="that all of them answer until the end",
            remedy="start all again that have ended: they resume from the newest checkpoint",
        ) from error


class WorkerGroup:
    """This worker's connection to the others; `connect` makes it.

    Args:
        cluster: The workers, and which one this process is.
        strategy: TensorFlow's, which sums over them.
        timeout_seconds: How long to wait for the others at every exchange.

    Attributes:
        sent_bytes: Bytes that this worker has sent to the others so far, see `account`.
    """

    def __init__(self, cluster: ClusterSpec, strategy: Any, timeout_seconds: int) -> None:
        self.size, self.index, self.is_chief = cluster.size, cluster.index, cluster.is_chief
        self.strategy = strategy
        self.sent_bytes = 0.0
        self._timeout = timeout_seconds
        self._peers = ", ".join(cluster.workers)

    @classmethod
    def connect(
        cls,
        cluster: ClusterSpec,
        timeout_seconds: int,
        *,
        communication: Literal["auto", "ring", "nccl"] = "auto",
        pack_bytes: int = 0,
    ) -> Self:
        """Wait until all workers are there.

        Args:
            cluster: The workers, and which one this process is.
            timeout_seconds: How long to wait for the others, now and at every exchange.
            communication: What sums over all workers; `auto` is NCCL where there are GPUs.
            pack_bytes: Sum gradients in packs of so many bytes; 0 for all at once.

        Raises:
            ConfigurationError: NCCL was asked for, and there is no GPU here.
            PeerLostError: A worker did not come in time.
        """
        if communication == "nccl" and not tf.config.get_visible_devices("GPU"):
            raise ConfigurationError(
                f"training.communication is `nccl`, and worker {cluster.index} sees no GPU",
                expected="a GPU for each worker, or `ring`",
                remedy="set `auto`, which is NCCL where there are GPUs",
            )
        if cluster.size == 1:
            return cls(cluster, tf.distribute.get_strategy(), timeout_seconds)
        peers = ", ".join(cluster.workers)
        _log.info("waiting at most %d s for all of %s", timeout_seconds, peers)
        implementations = tf.distribute.experimental.CommunicationImplementation
        options = tf.distribute.experimental.CommunicationOptions(
            timeout_seconds=timeout_seconds,
            implementation=implementations[communication.upper()],
            bytes_per_pack=pack_bytes,
        )
        with waiting_for(peers, timeout_seconds):
            strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
        return cls(cluster, strategy, timeout_seconds)

    @contextmanager
    def waiting(self, extra_seconds: int = 0) -> Iterator[None]:
        """Bound a wait for the others; what a lost one shows as becomes `PeerLostError`.

        Args:
            extra_seconds: How much longer than usual it may take.
        """
        bound = self._timeout + extra_seconds
        with deadline(bound) if self.size == 1 else waiting_for(self._peers, bound):
            yield

    def sum(self, values: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
        """Sum a vector `[N]` over all workers, in float64."""
        own = np.asarray(values, np.float64)
        if self.size == 1:
            return own
        self.account(own.nbytes)
        with self.waiting():
            return np.asarray(self._reduce(tf.constant(own)).numpy())

    def account(self, summed_bytes: float) -> None:
        """Add to `sent_bytes` what a worker sends while so many bytes are summed over all.

        In ring all-reduce, each of W parts goes around twice, but for a hop: once to be summed,
        once to be known to all. So a worker sends 2 (W - 1) / W of the bytes, and receives as many,
        however many workers there are. No way of summing needs less: Patarasuk and Yuan, Bandwidth
        Optimal All-reduce Algorithms, https://doi.org/10.1016/j.jpdc.2008.09.002. What carries the
        bytes (gRPC, TCP) adds to them.

        Args:
            summed_bytes: Size of what is summed.
        """
        self.sent_bytes += 2 * (self.size - 1) / self.size * summed_bytes

    def gather(self, value: float) -> list[float]:
        """Return every worker's value, in the order of their indices."""
        own = np.zeros(self.size)
        own[self.index] = value
        return [float(v) for v in self.sum(own)]

    def average(self, variables: Sequence[Any]) -> None:
        """Give all workers the mean of the float variables that each keeps for itself."""
        if not variables or self.size == 1:
            return
        flat = np.concatenate([np.ravel(v.numpy()) for v in variables])
        mean = self.sum(flat) / self.size
        ends = np.cumsum([np.size(v.numpy()) for v in variables])[:-1]
        for variable, part in zip(variables, np.split(mean, ends), strict=True):
            variable.assign(part.reshape(variable.shape).astype(np.float32))

    def agree(self, variables: Sequence[Any]) -> bool:
        """Return whether the variables are bit-identical on all workers."""
        digest = hashlib.sha256()
        for variable in variables:
            digest.update(variable.numpy().tobytes())
        # 48 bits: a number that a float64 holds exactly.
        return len(set(self.gather(int.from_bytes(digest.digest()[:6])))) == 1

    @tf.function  # type: ignore[untyped-decorator]
    def _reduce(self, own: Any) -> Any:
        replicated = self.strategy.run(lambda value: value, args=(own,))
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, replicated, axis=None)

    def run(self, function: Callable[..., Any], args: Any) -> Any:
        """Run a training step on this worker; the optimizer sums its gradients over all."""
        return self.strategy.run(function, args=args)
