"""The workflow in the forms that people need: to submit, to call, again, and by the clock."""

from __future__ import annotations

from typing import Any

from hera.workflows import CronWorkflow, Workflow, WorkflowTemplate
from hera.workflows import models as m

from workflows import asynchronous, housekeeping, models, rollback
from workflows.pipeline import OWNER, VOLUMES, add_templates, arguments, step

_DAY = 24 * 60 * 60
_RUN_HOURS = 6
_RETRAIN_HOURS = _RUN_HOURS + 1  # it waits for runs
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
    "retrain.yaml": """\
# Runs the pipeline once more for every model that is served, with the configuration and the image
# of the run that published it. `make deploy` applies it.
#   submit: argo submit -n mlpipeline --watch --from workflowtemplate/retrain
""",
    "rollback.yaml": """\
# Goes back to an earlier version of a model, once its answers are verified. `make deploy` applies
# it.
#   submit: make rollback IN=cluster MODEL=fashion-mnist
#   or:     argo submit -n mlpipeline --watch --from workflowtemplate/rollback -p model=shirts
""",
    "models.yaml": """\
# Lists the versions of models, which was current when, and why. `make deploy` applies it.
#   submit: make models IN=cluster HISTORY=1
#   or:     argo submit -n mlpipeline --log --from workflowtemplate/models
""",
    "cron-workflow.yaml": """\
# Trains anew what is served, every Sunday. What has not changed is reused, and nothing rolls: a
# week without news costs a minute. `make deploy` applies it.
#   now:  argo submit -n mlpipeline --from cronworkflow/retrain
#   stop: argo cron suspend -n mlpipeline retrain
""",
    "gc.yaml": """\
# Removes from the workspace what neither the newest runs nor the versions that are kept lead to.
# `make deploy` applies it.
#   look:   make gc IN=cluster KEEP_RUNS=50 DRY_RUN=1
#   submit: make gc IN=cluster KEEP_RUNS=50
#   or:     argo submit -n mlpipeline --watch --from workflowtemplate/gc -p keep-runs=50
""",
    "cron-gc.yaml": """\
# Does that every Wednesday night, where manifests/components/housekeeping turns it on: nothing is
# removed unless somebody has said so. `make deploy` applies it.
#   now:  argo submit -n mlpipeline --from cronworkflow/gc
#   stop: argo cron suspend -n mlpipeline gc
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
    with WorkflowTemplate(name="retrain", **_retraining()) as retraining:
        step(
            "retrain",
            ["cluster", "retrain", *OWNER, "--template", str(template.name)],
            account="retrain",
            timeout=f"{_RETRAIN_HOURS * 60}m",
        )
    with WorkflowTemplate(name="rollback", **_going_back()) as going_back:
        rollback.add_templates()
    with WorkflowTemplate(name="models", **_listing()) as listing:
        models.add_templates()
    with WorkflowTemplate(name="gc", **_keeping_house()) as keeping_house:
        housekeeping.add_templates()
    documents = {
        "pipeline.yaml": workflow,
        "asynchronous.yaml": unsynchronized,
        "workflow-template.yaml": template,
        "retrain.yaml": retraining,
        "rollback.yaml": going_back,
        "models.yaml": listing,
        "cron-workflow.yaml": by_the_clock(retraining, "0 3 * * 0"),
        "gc.yaml": keeping_house,
        "cron-gc.yaml": by_the_clock(keeping_house, "0 3 * * 3", suspend=True),
    }
    note = "# Rendered from the Python beside it by `make render`: change that, not this.\n"
    return {name: _HEADERS[name] + note + made.to_yaml() for name, made in documents.items()}


def by_the_clock(
    template: WorkflowTemplate, schedule: str, *, suspend: bool | None = None
) -> CronWorkflow:
    """Return what submits a template by the clock, under the template's name."""
    return CronWorkflow(
        name=template.name,
        labels=LABELS,
        schedules=[schedule],
        cron_suspend=suspend,
        concurrency_policy="Forbid",
        starting_deadline_seconds=3600,
        successful_jobs_history_limit=3,
        failed_jobs_history_limit=3,
        workflow_template_ref=m.WorkflowTemplateRef(name=template.name),
    )


def _retraining() -> dict[str, Any]:
    """What differs from a run: it waits for runs, each of which leaves a record."""
    image, *_ = arguments()
    return common() | {
        "entrypoint": "retrain",
        "on_exit": None,
        "arguments": [image],
        "active_deadline_seconds": _RETRAIN_HOURS * 60 * 60,
    }


def _going_back() -> dict[str, Any]:
    """What differs from a run: it waits for at most one, and leaves no record but the history."""
    return common() | {
        "entrypoint": "rollback",
        "on_exit": None,
        "arguments": rollback.arguments(),
    }


def _listing() -> dict[str, Any]:
    """What differs from a run: it only looks."""
    return common() | {"entrypoint": "models", "on_exit": None, "arguments": models.arguments()}


def _keeping_house() -> dict[str, Any]:
    """What differs from a run: it waits for all of them, and leaves no record."""
    return common() | {
        "entrypoint": "gc",
        "on_exit": None,
        "arguments": housekeeping.arguments(),
        "active_deadline_seconds": housekeeping.HOURS * 60 * 60,
    }


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
        "active_deadline_seconds": _RUN_HOURS * 60 * 60,
        # Pods stay as long as their workflow, for their logs.
        "ttl_strategy": m.TTLStrategy(seconds_after_completion=7 * _DAY),
    }
