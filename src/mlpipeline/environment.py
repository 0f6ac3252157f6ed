"""Environment variables that libraries read when they are imported: set by `main`, by no import."""

from __future__ import annotations

import os

_DEFAULTS = {
    # TensorFlow reports at every step, as an error, that it cannot tell how often some buffers are
    # referred to; what matters comes as an exception.
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # The first process on a GPU would take all of its memory, and leave none to a second one.
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    # What is measured is what is served, wherever: TF32 is not float32, and answers that depend on
    # the size of their batch were 0.002 off on an H100, 0.000002 without it.
    "NVIDIA_TF32_OVERRIDE": "0",
    # MLflow: nobody is told of its use, and a server that is away is not asked for minutes.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def prepare() -> None:
    """Set each variable that is not set; call it before TensorFlow or MLflow is imported.

    What the user or the pod sets holds.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
