"""Which trainer a process is, by the cluster that it finds itself in."""

from __future__ import annotations

from mlpipeline.learning.training import parameter_server, synchronous
from mlpipeline.learning.training.cluster_spec import ClusterSpec, ParameterServerSpec
from mlpipeline.learning.training.run import Job, Trainer


def connect(job: Job, cluster: ClusterSpec | ParameterServerSpec) -> Trainer:
    """Find the other processes of a cluster, and return this one's trainer.

    Args:
        job: What to train.
        cluster: This process's place among the others; a parameter server or a worker of one is
            no trainer, but a `parameter_server.Helper`.

    Raises:
        PeerLostError: Another process did not come in time.
        ConfigurationError: The configured devices are not there.
    """
    if isinstance(cluster, ParameterServerSpec):
        return parameter_server.Chief.connect(job, cluster)
    return synchronous.Trainer.connect(job, cluster)
