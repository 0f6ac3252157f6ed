"""Which extra of the package brings a module that a command could not import.

`pip install mlpipeline` installs what every command needs. The rest comes by extras (see
pyproject.toml), so that a pod which only talks to the cluster does without TensorFlow's 2 GB.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mlpipeline.errors import MissingExtraError

# Modules that this package imports, by the extra that installs them. A test compares them with
# the imports and with pyproject.toml.
MODULES = {
    "train": ("tensorflow", "keras", "tensorflow_datasets", "litert_quantizer"),
    "serve": (
        "ai_edge_litert",
        "kserve",
        "fastapi",
        "starlette",
        "uvicorn",
        "httptools",
        "orjson",
        "simdjson",
        "prometheus_client",
        "grpc",
        "grpc_health",
        "grpc_reflection",
        "watchfiles",
    ),
    "tracking": ("mlflow", "sqlalchemy", "openlineage", "matplotlib", "jinja2", "markupsafe"),
    "cluster": ("kubernetes", "urllib3", "cryptography"),
}


@contextlib.contextmanager
def named_when_missing() -> Iterator[None]:
    """Turn a failed import into an error that names the extra to install.

    Raises:
        MissingExtraError: An extra brings the module. The import of any other module fails as it
            does without us: that is a bug, or a module of the user's own.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        for extra, modules in MODULES.items():
            if module in modules:
                raise _missing(module, extra) from error
        raise


def _missing(module: str, extra: str) -> MissingExtraError:
    return MissingExtraError(
        f"this command needs the Python module `{module}`, which is not installed",
        expected=f"the extra `{extra}` of mlpipeline",
        remedy=f'pip install "mlpipeline[{extra}]", or "mlpipeline[all]" for every command',
    )
