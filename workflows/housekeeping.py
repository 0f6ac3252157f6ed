"""Removes what neither the newest runs nor the versions that are kept lead to: one step.

It waits until no workflow is under way; one that begins meanwhile waits in its step `plan`, or in
`find-way-back`, for the moment that this takes.
"""

from __future__ import annotations

from hera.workflows import Parameter

from mlpipeline.store.layout import ARTIFACTS, RUNS
from workflows import pipeline
from workflows.pipeline import MEMO, OWNER, WORKSPACE, ref, step

HOURS = 2  # it waits for one: mlpipeline.runs.garbage


def arguments() -> list[Parameter]:
    """Return the parameters: `argo submit --from workflowtemplate/gc -p keep-runs=20`."""
    image, *_ = pipeline.arguments()
    return [
        image,
        Parameter(
            name="keep-runs",
            value="50",
            description="How many of the newest runs stay, with all that they have used.",
        ),
        Parameter(
            name="dry-run", value="false", description="true: only say what would be removed."
        ),
    ]


def add_templates() -> None:
    """Add the one template to the workflow whose context this is called in."""
    step(
        "gc",
        [
            *("cluster", "gc", "--workspace", WORKSPACE, "--memo", MEMO, *OWNER),
            *("--keep-runs", ref("workflow.parameters.keep-runs")),
            f"--dry-run={ref('workflow.parameters.dry-run')}",
        ],
        # Not what people have asked for, or said: answers and feedback.
        writes=[*ARTIFACTS, RUNS],
        account="gc",
        memory=("256Mi", "1Gi"),
        timeout=f"{HOURS * 60}m",
    )
