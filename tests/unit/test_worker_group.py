"""The workers that train together: what can be said of them without starting any."""

from __future__ import annotations

import pytest

from mlpipeline.errors import ConfigurationError
from mlpipeline.learning.training.cluster_spec import ClusterSpec
from mlpipeline.learning.training.worker_group import WorkerGroup


def test_nccl_without_a_gpu_is_refused_at_once() -> None:
    cluster = ClusterSpec(("127.0.0.1:1", "127.0.0.1:2"), 1)
    with pytest.raises(ConfigurationError, match="worker 1 sees no GPU"):
        WorkerGroup.connect(cluster, timeout_seconds=1, communication="nccl")


def test_a_worker_alone_sends_nothing() -> None:
    alone = WorkerGroup.connect(ClusterSpec(), timeout_seconds=1)
    alone.account(1_000)
    assert alone.sum([1.0, 2.0]).tolist() == [1.0, 2.0]
    assert alone.sent_bytes == 0
