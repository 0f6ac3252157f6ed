"""Looks whether the requests of models have drifted, and asks for their training where they have.

    find-drift ──► post × models: a `train` event each, which Argo's server takes as from anybody

Who looks has no right in the cluster, and may write down what was found, no more. Who posts may do
nothing else, and sees no request.
"""

from __future__ import annotations

from hera.workflows import DAG, Parameter, Task, WorkflowTemplate
from hera.workflows import models as m

from mlpipeline.store.layout import LOOKS
from workflows.manifests import by_the_clock, common
from workflows.pipeline import (
    ALL,
    OUTPUTS,
    TENSORFLOW_MEMORY,
    VOLUMES,
    WORKSPACE,
    arguments,
    ref,
    step,
)

_ARGO = "http://argo-server:2746"
_EVERY_HOUR = "17 * * * *"
# The service account `sender` gives no token by itself; this one lasts as long as it takes to post.
_TOKEN = m.Volume(
    name="token",
    projected=m.ProjectedVolumeSource(
        sources=[
            m.VolumeProjection(
                service_account_token=m.ServiceAccountTokenProjection(
                    path="token", expiration_seconds=600
                )
            )
        ]
    ),
)
_OF_TOKEN = m.VolumeMount(
    name=_TOKEN.name, mount_path="/var/run/secrets/kubernetes.io/serviceaccount", read_only=True
)
_OPTIONS = {
    "images": ("1000", "How many of the newest images are looked at."),
    "false-alarms": ("0.01", "The share of looks that may find drift where there is none."),
    "cool-down": ("24", "A model has one event at most in so many hours."),
}
_HEADER = """\
# Looks whether requests of models have drifted, and where they have posts a train event with the
# configuration of the current version. It needs components/events, whose service account posts.
#   now:  argo submit -n mlpipeline --watch --from workflowtemplate/drift
#   stop: argo cron suspend -n mlpipeline drift
# Rendered from workflows/drift.py by `make render`: change that, not this.
"""


def render() -> dict[str, str]:
    """Return the text of each YAML file by its name."""
    image, *_ = arguments()
    given = [
        Parameter(name=name, value=value, description=text)
        for name, (value, text) in _OPTIONS.items()
    ]
    options = common() | {
        "entrypoint": "drift",
        "on_exit": None,
        "arguments": [image, *given],
        "volumes": [*VOLUMES, _TOKEN],
    }
    with WorkflowTemplate(name="drift", **options) as template:
        _add_templates()
    made = [template, by_the_clock(template, _EVERY_HOUR)]
    return {"drift.yaml": _HEADER + "---\n".join(each.to_yaml() for each in made)}


def _add_templates() -> None:
    look = step(
        "find-drift",
        [
            *("step", "find-drift", "--workspace", WORKSPACE, "--output", f"{OUTPUTS}/events"),
            *(f"--{name}={ref(f'workflow.parameters.{name}')}" for name in _OPTIONS),
        ],
        outputs=["events"],
        reads=[ALL],
        writes=[LOOKS],
        memory=TENSORFLOW_MEMORY,
        timeout="30m",
    )
    post = step(
        "post",
        [
            *("cluster", "post", f"--event={ref('inputs.parameters.event')}"),
            *("--url", _ARGO, "--namespace", ref("workflow.namespace")),
        ],
        inputs=["event"],
        account="sender",
        timeout="10m",
    )
    post.volume_mounts = [*(post.volume_mounts or []), _OF_TOKEN]
    with DAG(name="drift"):
        looking = Task(name="find-drift", template=look)
        Task(
            name="post",
            template=post,
            depends=looking.name,
            with_param=looking.get_parameter("events"),
            arguments={"event": ref("item")},
        )
