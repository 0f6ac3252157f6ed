"""The workflow in the three forms that people need: to submit, to call, and by the clock."""

from __future__ import annotations

from typing import Any

from hera.workflows import CronWorkflow, Workflow, WorkflowTemplate
from hera.workflows import models as m

from workflows import asynchronous
from workflows.pipeline import VOLUMES, add_templates, arguments

_DAY = 24 * 60 * 60
LABELS = {"app.kubernetes.io/part-of": "mlpipeline"}

_HEADERS = {
    "pipeline.yaml": """\
# The pipeline, to be submitted as it is; `make submit` follows it, too.
#   submit: argo submit -n mlpipeline --watch workflows/pipeline.yaml -p workers=2
#   see:    argo get -n mlpipeline @latest
#   logs:   make logs
#   stop:   argo stop -n mlpipeline @latest
""",
    "asynchronous.yaml": """\
# The pipeline in its asynchronous mode: the first candidate that passes `asynchronous.threshold` is
# served while others are trained, and is replaced by each better one.
#   submit: make submit WORKFLOW=asynchronous
#   or:     argo submit -n mlpipeline --watch workflows/asynchronous.yaml
#   see, logs, stop: as for pipeline.yaml
""",
    "workflow-template.yaml": """\
# The same pipeline for other workflows to call, by workflowTemplateRef or templateRef.
# `make deploy` applies it.
#   submit: argo submit -n mlpipeline --watch --from workflowtemplate/mlpipeline
""",
    "cron-workflow.yaml": """\
# Trains anew every Sunday. What has not changed is reused: a week without news costs seconds.
# `make deploy` applies it.
#   now:  argo submit -n mlpipeline --from cronworkflow/retrain
#   stop: argo cron suspend -n mlpipeline retrain
""",
}


def render() -> dict[str, str]:
    """Return the text of each YAML file by its name."""
    with Workflow(generate_name="mlpipeline-", **common()) as workflow:
        add_templates()
    with Workflow(
        generate_name="mlpipeline-", **common() | {"entrypoint": "asynchronous"}
    ) as unsynchronized:
        asynchronous.add_templates()
    with WorkflowTemplate(name="mlpipeline", **common()) as template:
        add_templates()
    cron = CronWorkflow(
        name="retrain",
        labels=LABELS,
        schedules=["0 3 * * 0"],
        concurrency_policy="Forbid",
        starting_deadline_seconds=3600,
        successful_jobs_history_limit=3,
        failed_jobs_history_limit=3,
        workflow_template_ref=m.WorkflowTemplateRef(name="mlpipeline"),
    )
    documents = {
        "pipeline.yaml": workflow,
        "asynchronous.yaml": unsynchronized,
        "workflow-template.yaml": template,
        "cron-workflow.yaml": cron,
    }
    note = "# Rendered from the Python beside it by `make render`: change that, not this.\n"
    return {name: _HEADERS[name] + note + made.to_yaml() for name, made in documents.items()}


def common() -> dict[str, Any]:
    """Return what all workflows have in common, as arguments of Hera's classes."""
    return {
        "labels": LABELS,
        "entrypoint": "pipeline",
        "on_exit": "record",
        "arguments": arguments(),
        "volumes": VOLUMES,
        # Pod Security `restricted`, for every pod.
        "security_context": m.PodSecurityContext(
            run_as_non_root=True,
            run_as_user=1000,
            run_as_group=1000,
            fs_group=1000,
            fs_group_change_policy="OnRootMismatch",
            seccomp_profile=m.SeccompProfile(type="RuntimeDefault"),
        ),
        # Argo's container beside each step has the one token; the steps need none for it.
        "executor": m.ExecutorConfig(service_account_name="executor"),
        "pod_metadata": m.Metadata(labels=LABELS),
        "active_deadline_seconds": 6 * 60 * 60,
        # Pods stay as long as their workflow, for their logs.
        "ttl_strategy": m.TTLStrategy(seconds_after_completion=7 * _DAY),
    }
