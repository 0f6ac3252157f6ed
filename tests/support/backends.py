"""The two backends as the contract suite sees them: a configuration in, a record out."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from mlpipeline.plan import config
from mlpipeline.store import artifacts
from support.pipelines import Pipeline

ROOT = Path(__file__).parents[2]
_NODE = "mlpipeline-control-plane"
_LIMIT_SECONDS = 600

Record = dict[str, Any]


class Backend(Protocol):
    """Runs configurations in one workspace."""

    @property
    def workspace(self) -> Path: ...

    def run(self, content: dict[str, Any]) -> Record:
        """Run to the end and return the record, whatever became of it."""

    def damage(self, file: Path) -> None:
        """Overwrite a file of the workspace."""


@dataclass
class Local:
    """`make run`."""

    folder: Path

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    def run(self, content: dict[str, Any]) -> Record:
        pipeline = Pipeline(self.folder, content)
        pipeline.call("run")
        return pipeline.last_run()

    def damage(self, file: Path) -> None:
        file.write_text("damaged")


@dataclass
class Kubernetes:
    """`argo submit`, on the kind cluster of the current context."""

    image: str = os.environ.get("IMAGE", "mlpipeline:0.2.0")
    predictor: str = os.environ.get("PREDICTOR_IMAGE", "mlpipeline-predictor:0.2.0")

    @property
    def workspace(self) -> Path:
        return ROOT / "workspace-kind"

    def run(self, content: dict[str, Any]) -> Record:
        run = _output(
            *("argo", "submit", "-n", "mlpipeline", "-o", "name", "workflows/pipeline.yaml"),
            *("-p", f"image={self.image}", "-p", f"predictor-image={self.predictor}"),
            *("-p", f"configuration={yaml.safe_dump(content)}"),
        ).strip()
        # Its status says whether the workflow succeeded, which is the record's to say here.
        subprocess.run(
            ["argo", "wait", "-n", "mlpipeline", run],
            check=False,
            timeout=_LIMIT_SECONDS,
            stdout=subprocess.DEVNULL,
        )
        record: Record = artifacts.read_json(self.workspace / "runs" / run / "run.json")
        return record

    def damage(self, file: Path) -> None:
        # Its owner is the pods' user, so it is done as root, on a node.
        place = Path("/workspace") / file.relative_to(self.workspace)
        _output("docker", "exec", _NODE, "sh", "-c", f"echo damaged >{place}")

    def remove(self, name: str) -> None:
        """Take a model out of service."""
        _output(
            *("kubectl", "-n", "mlpipeline", "delete", "inferenceservice", name),
            "--ignore-not-found",
        )


def planned_keys(content: dict[str, Any]) -> dict[str, str]:
    """The keys that this code, in this process, has for a configuration."""
    from mlpipeline.plan import pipeline

    tasks = pipeline.plan(config.parse(content, origin="test"))
    return {task.name: task.key for task in tasks.values() if task.key}


def _output(*command: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
