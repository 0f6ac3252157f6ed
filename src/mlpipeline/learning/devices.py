"""What this process may compute on: its processors, and the number format that they are fast in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import tensorflow as tf

# Flags of /proc/cpuinfo (x86, Arm): without them bfloat16 is emulated, slower than float32.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_BFLOAT16_GPU = (8, 0)  # compute capability, https://docs.nvidia.com/cuda/cuda-c-programming-guide


def available_cpus() -> int:
    """Return how many processors this process really has: its affinity, bounded by its cgroup."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, _cgroup_cpus() or cpus))


def configure() -> None:
    """Make TensorFlow use no more threads than there are processors, and one GPU if there is any.

    Two processes with a thread for every core of the machine hinder each other. A worker is one
    process on one device, so that a cluster's size is its number of workers.
    """
    tf.config.threading.set_intra_op_parallelism_threads(available_cpus())
    tf.config.threading.set_inter_op_parallelism_threads(2)
    tf.config.set_visible_devices(tf.config.list_physical_devices("GPU")[:1], "GPU")


def policy(precision: Literal["auto", "float32", "bfloat16"]) -> str:
    """Return the Keras dtype policy for a precision.

    Workers on unlike machines may choose differently: weights and gradients are float32 throughout.
    """
    if precision == "auto":
        precision = "bfloat16" if _multiplies_bfloat16() else "float32"
    return "mixed_bfloat16" if precision == "bfloat16" else "float32"


def _multiplies_bfloat16() -> bool:
    if gpus := tf.config.get_visible_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpus[0])
        return bool(details.get("compute_capability", (0, 0)) >= _BFLOAT16_GPU)
    try:
        return bool(_BFLOAT16_FLAGS & set(Path("/proc/cpuinfo").read_text().split()))
    except OSError:  # not Linux
        return False


def _cgroup_cpus() -> int | None:
    """The processors' time that the control group grants, rounded up; None without a limit."""
    try:  # version 2
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except OSError:
        try:  # version 1
            folder = Path("/sys/fs/cgroup/cpu")
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else -(-int(quota) // int(period))
