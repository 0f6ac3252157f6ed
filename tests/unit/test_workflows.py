"""The workflow: its YAML is what Python says, its pods go not too far, its commands are ours."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from mlpipeline.backends.cluster import housekeeping
from mlpipeline.cli import app, options
from mlpipeline.plan import config
from mlpipeline.plan.pipeline import CANARY, GATE, INGEST, SERVE, STEPS, needs_of
from mlpipeline.runs import garbage, webhook
from mlpipeline.store import layout
from mlpipeline.store.signatures import SIGNING_KEY

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / "workflows"
FILES = (
    *("pipeline.yaml", "asynchronous.yaml", "workflow-template.yaml"),
    *("retrain.yaml", "rollback.yaml", "models.yaml", "cron-workflow.yaml"),
    *("gc.yaml", "cron-gc.yaml"),
)
RUN = ("plan", *(step.name for step in STEPS), "record")
# What is served may change at any time: the steps gate, canary and serve look.
MEMOIZED = {step.name for step in STEPS} - {GATE.name, CANARY.name, SERVE.name}

Manifest = dict[str, Any]


@functools.cache
def _spec(name: str = "pipeline") -> Manifest:
    spec: Manifest = yaml.safe_load((WORKFLOWS / f"{name}.yaml").read_text())["spec"]
    return spec


def _templates(name: str) -> dict[str, Manifest]:
    return {template["name"]: template for template in _spec(name)["templates"]}


TEMPLATES = _templates("pipeline")
ASYNCHRONOUS = _templates("asynchronous")
PODS = [template for template in TEMPLATES.values() if "container" in template]
JUDGES = [ASYNCHRONOUS["judge"], ASYNCHRONOUS["judge-last"]]
RETRAIN = _templates("retrain")["retrain"]
ROLLBACK = _templates("rollback")
WAY_BACK = [template for template in ROLLBACK.values() if "container" in template]
GC = _templates("gc")["gc"]
MODELS = _templates("models")["models"]
OTHERS = [*JUDGES, RETRAIN, GC, MODELS, TEMPLATES["undo"], TEMPLATES["refuse"], *WAY_BACK]
each_pod = pytest.mark.parametrize(
    "pod", [*PODS, *JUDGES, RETRAIN, *WAY_BACK, GC, MODELS], ids=lambda pod: pod["name"]
)
each_workflow = pytest.mark.parametrize("workflow", ["pipeline", "asynchronous", "rollback", "gc"])


def _pod_of(step: str) -> Manifest:
    """The template of a step's pod: a memoized step is a DAG around it."""
    template = TEMPLATES[step]
    if "dag" in template:
        (task,) = template["dag"]["tasks"]
        template = TEMPLATES[task["template"]]
    return template


def _tasks(
    templates: dict[str, Manifest] = TEMPLATES,
) -> Iterator[tuple[Manifest, Manifest]]:
    """Every task of every DAG, with the template that it is in."""
    for template in templates.values():
        for task in template.get("dag", {}).get("tasks", ()):
            yield template, task


def _parameters(holder: Manifest, which: str) -> dict[str, Manifest]:
    return {p["name"]: p for p in holder.get(which, {}).get("parameters", ())}


# --- the YAML ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        from workflows import manifests

        return manifests.render()


@pytest.mark.parametrize("name", FILES)
def test_the_yaml_is_what_the_python_beside_it_says(rendered: dict[str, str], name: str) -> None:
    assert rendered[name] == (WORKFLOWS / name).read_text(), "run `make render`"


def test_no_yaml_is_left_of_what_is_no_longer_rendered(rendered: dict[str, str]) -> None:
    found = {file.name for file in WORKFLOWS.glob("*.yaml")} - {"kustomization.yaml"}
    assert found == set(rendered) == set(FILES)


def test_what_is_called_and_what_goes_by_the_clock_is_the_same_pipeline() -> None:
    template = yaml.safe_load((WORKFLOWS / "workflow-template.yaml").read_text())
    assert template["spec"] == _spec()
    retrain = yaml.safe_load((WORKFLOWS / "retrain.yaml").read_text())
    args = RETRAIN["container"]["args"]
    assert args[args.index("--template") + 1] == template["metadata"]["name"]
    cron = yaml.safe_load((WORKFLOWS / "cron-workflow.yaml").read_text())
    assert cron["spec"]["workflowSpec"] == {
        "workflowTemplateRef": {"name": retrain["metadata"]["name"]}
    }


def test_training_anew_waits_for_as_long_as_its_runs_may_take() -> None:
    spec = _spec("retrain")
    assert spec["activeDeadlineSeconds"] > _spec()["activeDeadlineSeconds"]
    assert spec["activeDeadlineSeconds"] == 60 * int(RETRAIN["timeout"].removesuffix("m"))


def test_what_nobody_needs_is_removed_by_the_clock_only_where_somebody_turns_that_on() -> None:
    cron = yaml.safe_load((WORKFLOWS / "cron-gc.yaml").read_text())["spec"]
    assert cron["suspend"] is True
    template = yaml.safe_load((WORKFLOWS / "gc.yaml").read_text())
    reference = cron["workflowSpec"]["workflowTemplateRef"]["name"]
    assert reference == template["metadata"]["name"] == housekeeping.TEMPLATE
    assert template["spec"]["activeDeadlineSeconds"] > garbage._LONGEST_WAIT_SECONDS


def test_what_is_not_verified_is_undone_and_that_is_no_success() -> None:
    (undo,) = (t for t in TEMPLATES["publish"]["dag"]["tasks"] if t["name"] == "undo")
    assert undo["depends"] == "verify.Failed || verify.Errored"
    assert TEMPLATES[undo["template"]]["container"]["args"][:2] == ["cluster", "undo"]


def test_only_what_the_gate_lets_pass_is_served_and_what_it_refuses_fails_the_run() -> None:
    tasks = {task["name"]: task for task in TEMPLATES["publish"]["dag"]["tasks"]}
    verdict = "{{tasks.gate.outputs.parameters.verdict}}"
    tried = "{{tasks.canary.outputs.parameters.verdict}}"
    assert tasks["serve"]["when"] == f"{verdict} == passed && {tried} == passed"
    assert tasks["serve"]["depends"] == "canary"
    last = "{{inputs.parameters.last}} == true"
    assert tasks["refuse-by-gate"]["when"] == f"{verdict} == refused && {last}"
    assert tasks["refuse-by-canary"]["when"] == f"{tried} == refused && {last}"
    assert tasks["refuse-by-gate"]["depends"] == tasks["canary"]["depends"] == "gate"
    assert tasks["refuse-by-canary"]["depends"] == "canary"
    # Of a task that was left out Argo would otherwise go on.
    assert tasks["verify"]["depends"] == "serve.Succeeded"
    # Inside the mutex by which one run at a time publishes: what is current stays so.
    assert "mutexes" in TEMPLATES["publish"]["synchronization"]


@pytest.mark.parametrize("step", ["canary", "serve"])
def test_what_is_tried_and_served_is_the_very_version_that_the_gate_has_seen(step: str) -> None:
    tasks = {task["name"]: task for task in TEMPLATES["publish"]["dag"]["tasks"]}
    (version,) = (p for p in tasks[step]["arguments"]["parameters"] if p["name"] == "version")
    assert version["value"] == "{{tasks.gate.outputs.parameters.version}}"
    assert "--version={{inputs.parameters.version}}" in _pod_of(step)["container"]["args"]


def test_where_nothing_is_to_be_tried_no_pod_runs_and_what_comes_next_goes_on() -> None:
    trial = TEMPLATES["canary"]
    (task,) = trial["dag"]["tasks"]
    assert task["when"] == "{{inputs.parameters.wanted}} == true"
    given = {t["name"]: t for t in TEMPLATES["publish"]["dag"]["tasks"]}["canary"]["arguments"]
    values = {p["name"]: p["value"] for p in given["parameters"]}
    assert values["wanted"] == "{{tasks.gate.outputs.parameters.canary}}"
    # Of a task that was skipped there are no outputs.
    said = {p["name"]: p["valueFrom"]["expression"] for p in trial["outputs"]["parameters"]}
    assert said.keys() == _parameters(_pod_of("canary"), "outputs").keys()
    assert said["verdict"].endswith(": 'passed'")


def test_the_history_is_told_who_has_passed_the_gate_by_a_file_not_by_their_words() -> None:
    tasks = {task["name"]: task for task in TEMPLATES["publish"]["dag"]["tasks"]}
    given = {p["name"]: p["value"] for p in tasks["verify"]["arguments"]["parameters"]}
    assert given["forced"] == "{{tasks.gate.outputs.parameters.forced}}"
    args = _pod_of("verify")["container"]["args"]
    assert args[args.index("--forced") + 1] == "{{inputs.parameters.forced}}"


def test_a_rollback_takes_turns_with_runs_and_what_it_cannot_settle_is_undone() -> None:
    publish, go_back = TEMPLATES["publish"], ROLLBACK["go-back"]
    assert go_back["synchronization"] == publish["synchronization"]
    tasks = {task["name"]: task.get("depends") for task in go_back["dag"]["tasks"]}
    assert tasks == {
        "restore": None,
        "verify": "restore",
        "settle": "verify",
        "undo": "verify.Failed || verify.Errored || settle.Failed || settle.Errored",
    }


# --- the steps --------------------------------------------------------------------------------


def test_every_step_of_the_pipeline_has_its_template_and_no_other_pod_runs() -> None:
    assert [_pod_of(step) for step in RUN if step in TEMPLATES] == [_pod_of(step) for step in RUN]
    assert {pod["name"] for pod in PODS} == {_pod_of(step)["name"] for step in RUN} | {
        "undo",
        "refuse",
    }


@each_workflow
def test_everything_but_the_exit_handler_is_reached_from_the_entrypoint(workflow: str) -> None:
    templates = _templates(workflow)
    reached, names = set(), {_spec(workflow)["entrypoint"]}
    while names:
        name = names.pop()
        reached.add(name)
        tasks = _tasks(templates)
        names |= {t["template"] for parent, t in tasks if parent["name"] == name} - reached
    handler = None if workflow in ("rollback", "gc") else "record"
    assert _spec(workflow).get("onExit") == handler
    assert set(templates) - reached == {handler} - {None}


def test_steps_come_in_the_order_of_the_plan() -> None:
    needs = {
        task["name"]: set(re.split(r"[^\w-]+", task.get("depends", "").split(".")[0])) - {""}
        for parent, task in _tasks()
        if parent["name"] in ("pipeline", "publish") and task["template"] not in ("undo", "refuse")
    }
    expected = {step.name: {needed.name for needed in needs_of(step)} for step in STEPS}
    # Of this workflow alone: `plan` comes before all, and `publish` is a graph of its own.
    expected["publish"], expected[GATE.name] = expected[GATE.name], set()
    first = [step.name for step in STEPS if not needs_of(step)]
    assert needs == expected | {"plan": set()} | {name: {"plan"} for name in first}


def test_what_is_published_and_what_is_rolled_out_is_memoized() -> None:
    assert {name for name, template in TEMPLATES.items() if "memoize" in template} == MEMOIZED


@pytest.mark.parametrize("step", sorted(MEMOIZED))
def test_a_memo_is_kept_for_ever_and_only_one_run_at_a_time_makes_it(step: str) -> None:
    memoize = TEMPLATES[step]["memoize"]
    assert memoize["maxAge"] == ""
    memo = yaml.safe_load((ROOT / "manifests" / "base" / "memo.yaml").read_text())
    assert memoize["cache"]["configMap"]["name"] == memo["metadata"]["name"]
    # What is remembered of ingestion has the limits in it; what must not be made twice has not.
    made = "{{inputs.parameters.key}}" if step == INGEST.name else memoize["key"]
    assert TEMPLATES[step]["synchronization"]["mutexes"] == [{"name": made}]


@pytest.mark.parametrize("step", sorted(MEMOIZED))
def test_a_memoized_step_hands_all_that_it_is_given_to_its_pod_and_back(step: str) -> None:
    pod = _pod_of(step)
    (task,) = TEMPLATES[step]["dag"]["tasks"]
    assert set(_parameters(TEMPLATES[step], "inputs")) == set(_parameters(pod, "inputs"))
    assert set(_parameters(task, "arguments")) == set(_parameters(pod, "inputs"))
    handed = {
        name: output["valueFrom"]["parameter"]
        for name, output in _parameters(TEMPLATES[step], "outputs").items()
    }
    prefix = f"{{{{tasks.{task['name']}.outputs.parameters."
    assert handed == {name: f"{prefix}{name}}}}}" for name in _parameters(pod, "outputs")}


def test_a_verification_is_remembered_by_what_is_served_and_how_much_was_sent() -> None:
    key = TEMPLATES["verify"]["memoize"]["key"]
    assert key == "verify-{{inputs.parameters.revision}}-{{inputs.parameters.images}}"


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_nothing_is_both_memoized_and_tried_again(template: Manifest) -> None:
    assert not {"memoize", "retryStrategy"} <= set(template), "Argo 3.7 then never ends"


def test_trainings_wait_for_their_turn_where_the_memo_does_not_answer() -> None:
    limits = yaml.safe_load((ROOT / "manifests" / "base" / "limits.yaml").read_text())
    limited = {
        name: template["synchronization"]["semaphores"]
        for name, template in TEMPLATES.items()
        if "semaphores" in template.get("synchronization", {})
    }
    # On the pod, not on what is memoized: there it would be waited for before the memo is asked.
    ((name, (semaphore,)),) = limited.items()
    assert name == _pod_of("train")["name"]
    reference = semaphore["configMapKeyRef"]
    assert reference["name"] == limits["metadata"]["name"]
    assert int(limits["data"][reference["key"]]) >= 1


# --- the asynchronous mode ----------------------------------------------------------------------


def test_the_asynchronous_mode_is_made_of_the_same_steps() -> None:
    steps = {name: t for name, t in TEMPLATES.items() if name != "pipeline"}
    assert {name: ASYNCHRONOUS[name] for name in steps} == steps
    own = ASYNCHRONOUS.keys() - steps
    assert own == {"asynchronous", "candidate", "offer", "judge", "judge-last"}


def test_one_candidate_at_a_time_is_judged_by_what_is_served_and_published_if_better() -> None:
    offer = ASYNCHRONOUS["offer"]
    assert offer["synchronization"]["mutexes"] == [{"name": "offer-{{inputs.parameters.name}}"}]
    judge, select, publish = offer["dag"]["tasks"]
    assert "when" not in judge
    better = "{{tasks.judge.outputs.parameters.replaces}} == true"
    assert select["when"] == publish["when"] == better
    assert (select["depends"], publish["depends"]) == ("judge", "select")


def test_an_early_candidate_that_the_gate_refuses_fails_nothing() -> None:
    (*_, publish) = ASYNCHRONOUS["offer"]["dag"]["tasks"]
    given = {p["name"]: p["value"] for p in publish["arguments"]["parameters"]}
    assert given["last"] == "false"
    assert _parameters(ASYNCHRONOUS["publish"], "inputs")["last"]["value"] == "true"
    (settled,) = (t for t in ASYNCHRONOUS["asynchronous"]["dag"]["tasks"] if t["name"] == "publish")
    assert "last" not in {p["name"] for p in settled["arguments"]["parameters"]}


def test_the_last_judgement_waits_for_all_candidates_and_is_always_looked_after() -> None:
    tasks = {task["name"]: task for task in ASYNCHRONOUS["asynchronous"]["dag"]["tasks"]}
    assert tasks["select"]["depends"] == "candidate.AnySucceeded"
    assert "--last" in ASYNCHRONOUS[tasks["judge"]["template"]]["container"]["args"]
    assert "--last" not in ASYNCHRONOUS["judge"]["container"]["args"]
    assert "when" not in tasks["publish"]
    (among,) = (p for p in tasks["publish"]["arguments"]["parameters"] if p["name"] == "among")
    assert among["value"] == "{{tasks.judge.outputs.parameters.among}}"


# --- the pods ---------------------------------------------------------------------------------


@each_pod
def test_a_pod_has_a_limit_of_time_and_of_memory_and_is_tried_again(pod: Manifest) -> None:
    assert re.fullmatch(r"\d+m", pod["timeout"])
    assert pod["retryStrategy"]["limit"] >= 1
    resources = pod["container"]["resources"]
    assert {"cpu", "memory"} <= set(resources["requests"])
    assert "memory" in resources["limits"]
    assert "cpu" not in resources["limits"], "it would only slow a step down"


@each_pod
def test_an_expression_alone_decides_whether_a_pod_is_tried_again(pod: Manifest) -> None:
    # What it decides is tried in a cluster: a pod that was deleted (test_training_accidents), an
    # error of ours and an image that cannot be pulled (test_failures).
    assert pod["retryStrategy"]["retryPolicy"] == "Always"
    expression = pod["retryStrategy"]["expression"]
    for part in ("longer than the specified deadline", "lastRetry.status", "lastRetry.exitCode"):
        assert part in expression


@each_pod
def test_a_pod_meets_the_restricted_standard(pod: Manifest) -> None:
    everywhere = _spec()["securityContext"]
    assert everywhere["runAsNonRoot"] is True
    assert everywhere["runAsUser"] > 0
    assert everywhere["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["container"]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "securityContext" not in pod


@each_pod
def test_a_pod_has_a_token_only_if_it_talks_to_the_api(pod: Manifest) -> None:
    talks = pod["container"]["args"][0] == "cluster"
    account = {"retrain": "retrain", "gc": "gc"}.get(pod["name"], "pipeline")
    assert pod["serviceAccountName"] == (account if talks else "step")
    assert pod["automountServiceAccountToken"] is talks


OWN_CODE_ONLY = {"plan", "record", "find-way-back"}


HIDDEN = {"mountPath": "/workspace/requests", "subPath": "requests/.none"}


def _mounts(pod: Manifest) -> dict[str, bool]:
    """What a pod sees of the workspace, and whether it can change it."""
    return {
        mount.get("subPath", ""): not mount.get("readOnly", False)
        for mount in pod["container"]["volumeMounts"]
        if mount["name"] == "workspace" and not mount.items() >= HIDDEN.items()
    }


@each_pod
def test_a_pod_may_write_to_what_it_publishes_and_to_nothing_else(pod: Manifest) -> None:
    component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
    writes = {place for place, writable in _mounts(pod).items() if writable}
    step = next((step for step in STEPS if step.name == component), None)
    model = "models/{{inputs.parameters.name}}"
    if component in OWN_CODE_ONLY:
        assert writes == {""}
    elif component == "verify":
        makes_current = "--only-verify" not in pod["container"]["args"]
        assert writes == ({model} if makes_current else set())
    elif component in ("gate", "canary"):
        assert writes == {model}, "it writes down what it holds back"
    elif component == "settle":
        assert writes == {model, "runs"}, "it makes the version current, and tells MLflow"
    elif component == "gc":
        assert writes == {*layout.ARTIFACTS, "runs"}, "not what people have asked for, or said"
    else:
        published = step.publishes if step else ()
        assert writes == {model if kind.is_named else kind.folder for kind in published}


@each_pod
def test_a_pod_sees_what_it_reads(pod: Manifest) -> None:
    component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
    seen = _mounts(pod)
    if component in ("retrain", "refuse"):
        assert seen == {}
        return
    if component == "models":
        assert seen == {"models": False}
        return
    if "" in seen or component == "gc":
        return
    if component == "settle":
        assert seen.items() >= dict.fromkeys(layout.ARTIFACTS, False).items()
        return
    assert seen["runs/{{workflow.name}}"] is False, "its configuration"
    step = next((step for step in STEPS if step.name == component), None)
    for kind in step.reads if step else ():
        if not (kind.is_named and "--only-verify" in pod["container"]["args"]):
            assert ("models/{{inputs.parameters.name}}" if kind.is_named else kind.folder) in seen


def test_what_all_runs_have_published_the_record_cannot_change() -> None:
    mounts = _mounts(TEMPLATES["record"])
    assert {place for place, writable in mounts.items() if not writable} == {*layout.ARTIFACTS}


@each_pod
def test_a_secret_is_known_to_the_step_that_needs_it_alone(pod: Manifest) -> None:
    given = {e["name"]: e["valueFrom"] for e in pod["container"]["env"]}
    secrets = {name: e["secretKeyRef"] for name, e in given.items() if "secretKeyRef" in e}
    known = {
        "record": {
            webhook.URL_VARIABLE: ("webhook", "url"),
            webhook.FORM_VARIABLE: ("webhook", "form"),
        },
        "gate": {SIGNING_KEY: ("signing-key", "pem")},
    }
    expected = {
        name: {"name": secret, "key": key, "optional": True}
        for name, (secret, key) in known.get(pod["name"], {}).items()
    }
    assert secrets == expected


@each_pod
def test_a_folder_is_mounted_where_it_is_in_the_workspace(pod: Manifest) -> None:
    for mount in pod["container"]["volumeMounts"]:
        if mount["name"] == "workspace" and not mount.items() >= HIDDEN.items():
            place = mount.get("subPath")
            assert mount["mountPath"] == (f"/workspace/{place}" if place else "/workspace")


@each_pod
def test_no_pod_that_may_run_code_of_others_sees_what_the_model_was_asked(pod: Manifest) -> None:
    component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
    mounts = pod["container"]["volumeMounts"]
    sees_all = any(m["name"] == "workspace" and "subPath" not in m for m in mounts)
    is_hidden = any(mount.items() >= {**HIDDEN, "readOnly": True}.items() for mount in mounts)
    assert is_hidden is (sees_all and component not in OWN_CODE_ONLY)
    assert not any("requests" in place for place in _mounts(pod))


@each_pod
def test_only_who_starts_pods_sees_their_templates(pod: Manifest) -> None:
    names = {mount["name"] for mount in pod["container"]["volumeMounts"]}
    assert ("templates" in names) is ("--templates" in pod["container"]["args"])


def test_argos_own_container_has_an_account_of_its_own() -> None:
    assert _spec()["executor"] == {"serviceAccountName": "executor"}
    assert "serviceAccountName" not in _spec(), "each template names its own"


@each_pod
def test_a_pod_is_of_the_runs_image_mounts_only_what_there_is_and_says_what_it_is(
    pod: Manifest,
) -> None:
    container = pod["container"]
    assert container["image"] == "{{workflow.parameters.image}}"
    assert {m["name"] for m in container["volumeMounts"]} <= {v["name"] for v in _spec()["volumes"]}
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
    assert pod in OTHERS or _pod_of(component) is pod


# --- the commands -----------------------------------------------------------------------------


def _filled_in(text: str) -> str:
    """What Argo makes of an argument, where a run is submitted without parameters of its own."""
    defaults = {
        f"workflow.parameters.{name}": str(parameter["value"])
        for workflow in ("pipeline", "gc")
        for name, parameter in _parameters(_spec(workflow), "arguments").items()
    }
    return re.sub(r"\{\{([\w.-]+)\}\}", lambda match: defaults.get(match[1], "x"), text)


@each_pod
def test_a_command_is_one_of_our_command_line_with_options_that_it_has(pod: Manifest) -> None:
    container = pod["container"]
    assert container["command"] == ["python", "-m", "mlpipeline"]
    command = typer.main.get_command(app.app)
    rest = [_filled_in(argument) for argument in container["args"]]
    while isinstance(command, typer.core.TyperGroup):
        command = command.commands[rest.pop(0)]
    with command.make_context(command.name, rest) as context:  # fails if an option is unknown
        assert str(context.params.get("workspace", "/workspace")) == "/workspace"


@each_pod
def test_an_output_is_read_from_where_the_command_writes_it(pod: Manifest) -> None:
    outputs = _parameters(pod, "outputs")
    paths = {name: output["valueFrom"]["path"] for name, output in outputs.items()}
    args = pod["container"]["args"]
    if "--output" in args:
        (name,) = outputs
        assert paths[name] == args[args.index("--output") + 1]
    elif outputs:
        folder = args[args.index("--outputs") + 1]
        assert paths == {name: f"{folder}/{name}" for name in outputs}


def test_training_has_time_to_wait_for_its_place_and_its_pods_and_to_train() -> None:
    of_run = {name: p["value"] for name, p in _parameters(_spec(), "arguments").items()}
    waits = int(of_run["queue-seconds"]) + int(of_run["pending-seconds"])
    seconds = 60 * int(_pod_of("train")["timeout"].removesuffix("m"))
    assert waits + config.Training().deadline_seconds < seconds < _spec()["activeDeadlineSeconds"]


# --- the parameters ---------------------------------------------------------------------------


@each_workflow
def test_every_parameter_of_a_run_has_a_default_and_says_what_it_is_for(workflow: str) -> None:
    for name, parameter in _parameters(_spec(workflow), "arguments").items():
        assert "value" in parameter, name
        assert parameter["description"], name


def test_the_configuration_by_default_is_that_of_a_local_run() -> None:
    value = _parameters(_spec(), "arguments")["configuration"]["value"]
    assert value == (ROOT / options.DEFAULT_CONFIG).read_text()


@each_workflow
def test_every_parameter_that_is_put_in_somewhere_is_there(workflow: str) -> None:
    templates, spec = _templates(workflow), _spec(workflow)
    of_run = {f"workflow.parameters.{name}" for name in _parameters(spec, "arguments")}
    of_argo = {"workflow.name", "workflow.namespace", "workflow.uid"}
    used: set[str] = set()
    for name, template in templates.items():
        known = (
            of_run | of_argo | {f"inputs.parameters.{n}" for n in _parameters(template, "inputs")}
        )
        for task in template.get("dag", {}).get("tasks", ()):
            outputs = _parameters(templates[task["template"]], "outputs")
            known |= {f"tasks.{task['name']}.outputs.parameters.{n}" for n in outputs}
            if "withParam" in task:
                known |= {"item.candidate", "item.key"}  # what `planning.plan` says of trainings
        found = set(re.findall(r"\{\{([\w.-]+)\}\}", yaml.safe_dump(template, width=10_000)))
        assert found <= known, name
        used |= found
    # Steps read these from the workflow: Argo would evaluate what a user has written in them.
    free_text = {"configuration", "model", "candidates", "workers", "replicas", "by", "force"}
    if workflow == "gc":
        free_text = set()
    if workflow == "rollback":
        free_text = {"model", "version", "by", "why", "force"}
    read_by_steps = {f"workflow.parameters.{name}" for name in free_text}
    assert of_run - read_by_steps <= used, "no parameter is without effect"
    assert not used & read_by_steps


@each_workflow
def test_every_task_is_given_what_its_template_takes(workflow: str) -> None:
    templates = _templates(workflow)
    for _, task in _tasks(templates):
        given = set(_parameters(task, "arguments"))
        inputs = _parameters(templates[task["template"]], "inputs")
        needed = {name for name, parameter in inputs.items() if "value" not in parameter}
        assert needed <= given <= set(inputs), task["name"]


def test_the_names_of_templates_are_different() -> None:
    names = [template["name"] for template in _spec()["templates"]]
    assert not [name for name, group in itertools.groupby(sorted(names)) if len([*group]) > 1]
