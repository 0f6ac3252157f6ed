"""What an event of `mlpipeline.events.schema` starts in a cluster: a workflow of its own.

    POST /api/v1/events/NAMESPACE/KIND ──► binding ──► workflow KIND-ID, waits for its turn, runs

Argo's server answers when the workflow is there, so what it has accepted is not lost. The workflow
is named after the event, so of a repeated one there can be no second. A semaphore holds back those
of a burst that are too many at once.
https://argo-workflows.readthedocs.io/en/release-3.7/events/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from hera.workflows import Parameter, WorkflowTemplate
from hera.workflows import models as m

from mlpipeline.plan.commands import feedback_arguments, predict_batch_arguments
from mlpipeline.store.layout import ANSWERS, FEEDBACK, NO_REQUESTS, PREDICTIONS
from workflows.manifests import LABELS, common
from workflows.pipeline import (
    ALL,
    OUTPUTS,
    TENSORFLOW_MEMORY,
    WORKSPACE,
    arguments,
    ref,
    step,
)

# Argo evaluates what stands between double braces in any argument: of free text there is none.
_ENCODED = "toBase64(toJSON(payload))"
SEMAPHORES = "events"  # the ConfigMap of manifests/components/events

_HEADERS = {
    "workflow-templates.yaml": """\
# What the bindings beside it submit for an event. By hand, for instance:
#   argo submit -n mlpipeline --from workflowtemplate/predict -p "event=$(base64 -w 0 event.json)"
""",
    "bindings.yaml": """\
# Which event starts which workflow. The workflow has the event's name: a repeated one is refused.
#   post: make event EVENT=event.json
#   see:  kubectl -n mlpipeline get workflows -l workflows.argoproj.io/workflow-event-binding
""",
}


def render() -> dict[str, str]:
    """Return the text of each YAML file by its name."""
    documents = {
        "workflow-templates.yaml": [_predict().to_yaml(), _feedback().to_yaml()],
        "bindings.yaml": [
            _binding("predict", {"event": _ENCODED}),
            _binding("feedback", {"event": _ENCODED}),
            _binding("train", {"configuration": "payload.configuration"}, template="mlpipeline"),
        ],
    }
    note = "# Rendered from workflows/events.py by `make render`: change that, not this.\n"
    return {name: _HEADERS[name] + note + "---\n".join(made) for name, made in documents.items()}


def _predict() -> WorkflowTemplate:
    with WorkflowTemplate(name="predict", **_options("predict", "event")) as template:
        step(
            "predict",
            predict_batch_arguments(
                ref("workflow.parameters.event"),
                workspace=WORKSPACE,
                output=f"{OUTPUTS}/key",
            ),
            outputs=["key"],
            reads=[ALL, NO_REQUESTS],  # the images may lie anywhere
            writes=[PREDICTIONS, ANSWERS],
            memory=TENSORFLOW_MEMORY,
            timeout="30m",
        )
    return template


def _feedback() -> WorkflowTemplate:
    with WorkflowTemplate(name="feedback", **_options("feedback", "event")) as template:
        step(
            "feedback",
            feedback_arguments(ref("workflow.parameters.event"), workspace=WORKSPACE),
            writes=[FEEDBACK],
            timeout="5m",
        )
    return template


def _options(kind: str, *parameters: str) -> dict[str, Any]:
    image, *_ = arguments()
    return common() | {
        "entrypoint": kind,
        "on_exit": None,
        "arguments": [image, *(Parameter(name=name) for name in parameters)],
        "synchronization": m.Synchronization(
            semaphores=[
                m.SemaphoreRef(config_map_key_ref=m.ConfigMapKeySelector(name=SEMAPHORES, key=kind))
            ]
        ),
        # There may be thousands. What succeeded has said all that matters in its outputs.
        "pod_gc": m.PodGC(strategy="OnPodSuccess"),
    }


def _binding(kind: str, parameters: Mapping[str, str], *, template: str = "") -> str:
    """Return a binding as YAML; `parameters` are expressions of the event."""
    binding = m.WorkflowEventBinding(
        api_version="argoproj.io/v1alpha1",
        kind="WorkflowEventBinding",
        metadata=m.ObjectMeta(name=kind, labels=LABELS),
        spec=m.WorkflowEventBindingSpec(
            event=m.Event(selector=f"discriminator == '{kind}' && payload.kind == '{kind}'"),
            submit=m.Submit(
                workflow_template_ref=m.WorkflowTemplateRef(name=template or kind),
                metadata=m.ObjectMeta(name=f"'{kind}-' + payload.id"),
                arguments=m.Arguments(
                    parameters=[
                        m.Parameter(name=name, value_from=m.ValueFrom(event=expression))
                        for name, expression in parameters.items()
                    ]
                ),
            ),
        ),
    )
    content = binding.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False)
