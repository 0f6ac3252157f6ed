"""Lists the versions of models, which was current when, and why: what `mlpipeline models` prints.

For who may start no pod of their own, and so cannot look into the workspace.
"""

from __future__ import annotations

from hera.workflows import Parameter

from mlpipeline.store.layout import MODELS
from workflows import pipeline
from workflows.pipeline import WORKSPACE, step


def arguments() -> list[Parameter]:
    """Return the parameters: `argo submit --log --from workflowtemplate/models` needs none."""
    image, *_ = pipeline.arguments()
    return [image]


def add_templates() -> None:
    """Add the one template to the workflow whose context this is called in."""
    step("models", ["models", "--workspace", WORKSPACE], reads=[MODELS], timeout="5m")
