"""What a process computes on: one GPU if there is any, and no GPU that is silently left alone."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from mlpipeline.errors import ConfigurationError
from mlpipeline.learning.training import devices


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine to be described: what TensorFlow finds, and what it is told then."""
    described: dict[str, Any] = {"gpus": [], "present": False, "cuda": True, "told": []}
    told = described["told"]
    config = tf.config
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_has_gpu", lambda: described["present"])
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: described["gpus"])
    monkeypatch.setattr(config, "set_visible_devices", lambda gpus, kind: told.append(gpus))
    monkeypatch.setattr(
        config.experimental, "enable_op_determinism", lambda: told.append("deterministic")
    )
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: described["cuda"])
    for threads in ("inter", "intra"):
        setter = f"set_{threads}_op_parallelism_threads"
        monkeypatch.setattr(config.threading, setter, lambda count: None)
    return described


def test_a_worker_takes_one_gpu_and_computes_the_same_every_time(machine: dict[str, Any]) -> None:
    machine |= {"gpus": ["GPU:0", "GPU:1"], "present": True}
    devices.configure()
    assert machine["told"] == [["GPU:0"], "deterministic"]


def test_without_a_gpu_processors_compute(machine: dict[str, Any]) -> None:
    devices.configure()
    assert machine["told"] == [[]]


def test_a_gpu_that_cannot_be_used_is_an_error(machine: dict[str, Any]) -> None:
    machine["present"] = True
    with pytest.raises(ConfigurationError, match=r"finds none[\s\S]*CUDA_VISIBLE_DEVICES=-1"):
        devices.configure()


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_may_be_left_alone_on_purpose(
    machine: dict[str, Any], hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine["present"] = True
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    devices.configure()
    assert machine["told"] == [[]]


def test_a_tensorflow_without_cuda_says_that_it_leaves_the_gpu_alone(
    machine: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    machine |= {"present": True, "cuda": False}
    devices.configure()
    assert "there is a GPU, not used" in caplog.text


def test_people_are_told_the_gpus_name(monkeypatch: pytest.MonkeyPatch) -> None:
    details = {"device_name": "NVIDIA H100 80GB HBM3", "compute_capability": (9, 0)}
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["GPU:0"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    assert devices.name() == "NVIDIA H100 80GB HBM3"
    assert devices.policy("auto") == "mixed_bfloat16"


def test_an_older_gpu_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    details = {"compute_capability": (7, 5)}  # a T4
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["GPU:0"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    assert (devices.name(), devices.policy("auto")) == ("a GPU", "float32")
