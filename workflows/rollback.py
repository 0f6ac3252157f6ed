"""Back to an earlier version of a model: found, served, verified as a run does, then current.

    find-way-back ──► rollback (restore ──► verify ──► settle)

Whatever is not verified, or could not be made current, is undone. One workflow at a time changes
what a model serves, a run or a rollback; of two rollbacks the second one finds that the current
version is another one by then, and changes nothing.
"""

from __future__ import annotations

from hera.workflows import DAG, Parameter, Task

from mlpipeline.plan.commands import ONLY_VERIFY, step_arguments
from mlpipeline.plan.pipeline import MODEL, VERIFY
from mlpipeline.store.layout import ARTIFACTS, DATASETS, RUNS, SELECTIONS
from workflows import pipeline
from workflows.pipeline import (
    ALL,
    OF_RUN,
    OUTPUTS,
    OWNER,
    PENDING,
    RUN_OPTIONS,
    STARTS_PODS,
    TENSORFLOW_MEMORY,
    TRACKING,
    WORKSPACE,
    mutex,
    ref,
    step,
)

_NAME, _VERSION = ref("inputs.parameters.name"), ref("inputs.parameters.version")
_INSTEAD_OF = ref("inputs.parameters.instead-of")
_WAY = ("name", "version", "instead-of")
_GO_THE_WAY = ["--version", _VERSION, "--instead-of", _INSTEAD_OF]
_FROM_A_RUN = ("image", "predictor-image", "pending-seconds")


def arguments() -> list[Parameter]:
    """Return the parameters: `argo submit --from workflowtemplate/rollback -p model=shirts`."""
    return [
        *(parameter for parameter in pipeline.arguments() if parameter.name in _FROM_A_RUN),
        Parameter(name="model", value="", description="The model's name."),
        Parameter(
            name="version",
            value="",
            description="The version to go back to; empty for the one that was current before.",
        ),
        Parameter(name="by", value="", description="Who goes back, for the model's history."),
        Parameter(name="why", value="", description="Why, for the model's history."),
        Parameter(
            name="force",
            value="",
            description="Why also to a version that was held back; empty: not to such a one.",
        ),
    ]


def add_templates() -> None:
    """Add all templates to the workflow whose context this is called in."""
    find = step(
        "find-way-back",
        ["cluster", "find-way-back", *RUN_OPTIONS, "--outputs", OUTPUTS, *OWNER],
        outputs=_WAY,
        # It makes the folder of the configuration, which others mount.
        writes=[ALL],
        account="pipeline",
        timeout="5m",
    )
    restore = step(
        "restore",
        [
            *("cluster", "restore", *RUN_OPTIONS, *_GO_THE_WAY, *STARTS_PODS, *OWNER),
            f"--predictor-image={ref('workflow.parameters.predictor-image')}",
        ],
        inputs=_WAY,
        reads=[OF_RUN, str(MODEL.place(_NAME))],
        account="pipeline",
        timeout="20m",
    )
    host = f"{_NAME}-predictor.{ref('workflow.namespace')}.svc"
    config = RUN_OPTIONS[RUN_OPTIONS.index("--config") + 1]
    verify = step(
        VERIFY.name,
        [
            *step_arguments(VERIFY.name, config=config, workspace=WORKSPACE, version=_VERSION),
            *("--url", f"http://{host}", "--grpc", f"{host}:8081", "--autoscaled", ONLY_VERIFY),
        ],
        inputs=_WAY,
        reads=[OF_RUN, DATASETS, SELECTIONS],
        memory=TENSORFLOW_MEMORY,
        timeout="120m",  # it has a deadline of its own
    )
    settle = step(
        "settle",
        ["cluster", "settle", *RUN_OPTIONS, *_GO_THE_WAY, *OWNER],
        environment=[TRACKING],
        inputs=_WAY,
        reads=ARTIFACTS,
        writes=[RUNS, str(MODEL.place(_NAME))],  # MLflow's lock, and the model's history
        account="pipeline",
        memory=("256Mi", "1Gi"),
        timeout="5m",
    )
    undo = step(
        "undo",
        ["cluster", "undo", *RUN_OPTIONS, *PENDING],
        inputs=_WAY,
        reads=[OF_RUN, str(MODEL.place(_NAME))],
        account="pipeline",
        timeout="20m",
    )
    with DAG(
        name="go-back",
        inputs=[Parameter(name=name) for name in _WAY],
        synchronization=mutex(f"publish-{_NAME}"),
    ) as go_back:
        given = {name: ref(f"inputs.parameters.{name}") for name in _WAY}
        Task(name="restore", template=restore, arguments=given)
        Task(name=VERIFY.name, template=verify, arguments=given, depends="restore")
        Task(name="settle", template=settle, arguments=given, depends=VERIFY.name)
        Task(
            name="undo",
            template=undo,
            arguments=given,
            depends=" || ".join(
                f"{name}.{state}"
                for name in (VERIFY.name, "settle")
                for state in ("Failed", "Errored")
            ),
        )
    with DAG(name="rollback"):
        finding = Task(name="find-way-back", template=find)
        Task(
            name="go-back",
            template=go_back,
            arguments={name: finding.get_parameter(name) for name in _WAY},
            depends="find-way-back",
        )
