"""What this process may compute on: its processors, and the number format that they are fast in."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf

from mlpipeline import processors
from mlpipeline.errors import ConfigurationError

_log = logging.getLogger(__name__)

# Flags of /proc/cpuinfo (x86, Arm): without them bfloat16 is emulated, slower than float32.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_BFLOAT16_GPU = (8, 0)  # compute capability, https://docs.nvidia.com/cuda/cuda-c-programming-guide


def configure() -> None:
    """Make TensorFlow use no more threads than there are processors, and one GPU if there is any.

    Two processes with a thread for every core of the machine hinder each other. A worker is one
    process on one device, so that a cluster's size is its number of workers.

    Raises:
        ConfigurationError: There is a GPU, and TensorFlow cannot use it.
    """
    tf.config.threading.set_intra_op_parallelism_threads(processors.count())
    tf.config.threading.set_inter_op_parallelism_threads(2)
    gpus = usable_gpus()
    tf.config.set_visible_devices(gpus[:1], "GPU")
    if gpus:
        # Otherwise its kernels sum in any order, and what is resumed ends with other weights. An
        # operation that has no other kernel fails then, and says so.
        tf.config.experimental.enable_op_determinism()


def usable_gpus() -> list[Any]:
    """Return the GPUs that TensorFlow finds; it leaves them alone where a library is missing.

    Raises:
        ConfigurationError: There is a GPU, and TensorFlow, though made for it, finds none.
    """
    gpus: list[Any] = tf.config.list_physical_devices("GPU")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    if gpus or hidden or not _has_gpu():
        return gpus
    if not tf.test.is_built_with_cuda():
        _log.warning("there is a GPU, not used: this TensorFlow is built for processors alone")
        return gpus
    raise ConfigurationError(
        "there is a GPU, and TensorFlow finds none",
        expected="CUDA's libraries where the loader finds them, and a driver that is new enough",
        remedy="set TF_CPP_MIN_LOG_LEVEL=0 and TF_CPP_MAX_VLOG_LEVEL=1 to see which library is "
        "missing, or CUDA_VISIBLE_DEVICES=-1 to train on processors",
    )


def name() -> str:
    """Return what this process computes on, for people: `2 processors`, or the GPU's name."""
    if gpus := tf.config.get_visible_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpus[0])
        return str(details.get("device_name", "a GPU"))
    return f"{processors.count()} processors"


def policy(precision: Literal["auto", "float32", "bfloat16"]) -> str:
    """Return the Keras dtype policy for a precision.

    Workers on unlike machines may choose differently: weights and gradients are float32 throughout.
    """
    if precision == "auto":
        precision = "bfloat16" if _multiplies_bfloat16() else "float32"
    return "mixed_bfloat16" if precision == "bfloat16" else "float32"


def _has_gpu() -> bool:
    """Return whether NVIDIA's driver gives this process, or its container, a GPU."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _multiplies_bfloat16() -> bool:
    if gpus := tf.config.get_visible_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpus[0])
        return bool(details.get("compute_capability", (0, 0)) >= _BFLOAT16_GPU)
    try:
        return bool(_BFLOAT16_FLAGS & set(Path("/proc/cpuinfo").read_text().split()))
    except OSError:  # not Linux
        return False
