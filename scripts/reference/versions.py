"""Every pinned version, from the file that pins it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from reference import tables

_PLATFORM = {
    "argo-workflows": "Argo Workflows",
    "training-operator": "Kubeflow training operator",
    "kserve": "KServe (controller)",
    "kueue": "Kueue",
    "metrics-server": "metrics-server",
}
_LIBRARIES = {
    "tensorflow-cpu": "TensorFlow",
    "keras": "Keras",
    "tensorflow-datasets": "TensorFlow Datasets",
    "ai-edge-litert": "LiteRT",
    "litert-quantizer": "LiteRT's quantizer",
    "numpy": "NumPy",
    "kserve": "KServe (model server)",
    "pydantic": "Pydantic",
    "typer": "Typer",
    "kubernetes": "Kubernetes' Python client",
    "hera": "Hera",
    "mlflow-skinny": "MLflow's client",
    "openlineage-python": "OpenLineage's client",
}


def render(root: Path) -> str:
    """Return one table of the platform, one of the libraries, one of the rest.

    Args:
        root: Folder of the repository.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    dockerfile = root / "docker" / "Dockerfile"
    monitoring = root / "manifests" / "components" / "monitoring"
    platform = [
        (title, find(root / f"manifests/platform/{name}/kustomization.yaml", r"\?ref=v?([^&\s]+)"))
        for name, title in _PLATFORM.items()
    ]
    lock = root / "requirements.lock"
    libraries = [
        (title, find(lock, rf"^{re.escape(name)}==(\S+)")) for name, title in _LIBRARIES.items()
    ]
    rest = [
        ("mlpipeline", project["version"]),
        ("Python", project["requires-python"]),
        ("Python of the images", find(dockerfile, r"^FROM python:(\S+)")),
        ("uv of the images", find(dockerfile, r"uv==([\d.]+)")),
        ("uv of the environment", find(root / "Makefile", r"^UV_VERSION := (\S+)")),
        ("MLflow's server", find(root / "docker" / "tracking.in", r"^mlflow==(\S+)")),
        ("Prometheus", find(monitoring / "prometheus.yaml", r"image: prom/prometheus:v(\S+)")),
        ("Alertmanager", find(monitoring / "alertmanager.yaml", r"prom/alertmanager:v(\S+)")),
    ]
    return "\n\n".join(
        f"## {title}\n\n{tables.table(('what', 'version'), [(a, f'`{b}`') for a, b in rows])}"
        for title, rows in [
            ("The project", rest),
            ("Platform in the cluster", platform),
            ("Libraries, as locked", libraries),
        ]
    )


def find(file: Path, pattern: str) -> str:
    """Return what a pattern's one group matches in a file."""
    match = re.search(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise LookupError(f"{file} has nothing that matches {pattern}")
    return match[1]
