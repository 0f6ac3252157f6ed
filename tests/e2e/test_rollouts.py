"""What is served, current and said is one and the same, whatever happens on the way there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.store import artifacts, history
from mlpipeline.store.layout import Workspace
from support.load_client import Asking
from support.pipelines import states
from support.workflows_on_kind import (
    HTTP,
    IMAGE,
    NAMESPACE,
    PREDICTOR_IMAGE,
    QUICK,
    ROOT,
    WORKSPACE,
    Run,
    Runs,
    argo,
    call,
    configuration,
    find,
    get,
    inference_is,
    kill_container,
    kubectl,
    on_node,
    patched,
    task_of,
    wait_until,
)
from support.workflows_on_kind import runs as started_runs

pytestmark = pytest.mark.timeout(1800)


SCRIPTS = ROOT / "scripts"


def _replicas(**fields: Any) -> dict[str, Any]:
    """A patch of the service's template."""
    return {"spec": {"predictor": {"containers": [{"name": "kserve-container"} | fields]}}}


TOO_LITTLE = _replicas(resources={"requests": {"memory": "64Mi"}, "limits": {"memory": "90Mi"}})


@pytest.fixture(scope="module")
def module_runs() -> Iterator[Runs]:
    with started_runs() as made:
        yield made


@pytest.fixture(scope="module")
def first(module_runs: Runs) -> Run:
    """A model that is served by two replicas."""
    content = configuration({"quick": QUICK}, serving={"replicas": 2, "ready_timeout_seconds": 90})
    run = module_runs.submit(content)
    run.assert_succeeds()
    return run


@pytest.fixture(scope="module")
def other(first: Run, module_runs: Runs) -> Run:
    """Another version of the model, which is served in its place."""
    run = module_runs.submit(first.content | {"seed": first.content["seed"] + 1})
    run.assert_succeeds()
    return run


def service_of(run: Run) -> dict[str, Any]:
    found = get("inferenceservice", run.content["name"])
    assert found is not None
    return found


def pods_of(run: Run) -> list[dict[str, Any]]:
    selector = f"serving.kserve.io/inferenceservice={run.content['name']}"
    return [p for p in find("pods", selector) if "deletionTimestamp" not in p["metadata"]]


def assert_served(run: Run) -> None:
    """The version of a run is what the service and its pods have, and the registry names."""
    version, model = run.keys()["select"], run.content["name"]
    assert service_of(run)["metadata"]["annotations"]["mlpipeline/version"] == version
    assert artifacts.read_text(WORKSPACE / "models" / model / "current").strip() == version
    kubectl("rollout", "status", f"deployment/{model}-predictor", "--timeout=60s", seconds=70)
    pods = wait_until(lambda: len(pods := pods_of(run)) == 2 and pods, "two replicas", 60)
    for pod in pods:
        assert version in pod["spec"]["containers"][0]["args"]
        assert pod["status"]["containerStatuses"][0]["ready"]


def roll_back(run: Run, **parameters: str) -> Run:
    """Submit the workflow that goes back to another version of a run's model."""
    given = {"model": run.content["name"], "image": run.image, "predictor-image": PREDICTOR_IMAGE}
    options = [p for name, value in (given | parameters).items() for p in ("-p", f"{name}={value}")]
    name = argo("submit", "--from=workflowtemplate/rollback", "--output=name", *options)
    return Run(name.strip(), run.content, run.image)


def published(run: Run) -> str:
    """When a run was done with what it serves."""
    (node,) = run.nodes("publish", kind="DAG")
    return str(node["finishedAt"])


# --- the memo -----------------------------------------------------------------------------------


def test_of_two_runs_at_once_that_have_been_before_the_last_to_publish_is_served(
    first: Run, other: Run, module_runs: Runs
) -> None:
    module_runs.submit(first.content).assert_succeeds()
    assert_served(first)
    # The second one begins while the first of the two is not served yet, and ends after it.
    away = module_runs.submit(other.content)
    time.sleep(2)
    back = module_runs.submit(first.content)
    for run in (away, back):
        run.assert_succeeds()
    last = max((away, back), key=published)
    assert_served(last)
    assert states(last.record())["serve"] == "succeeded"


def test_a_memo_that_is_gone_or_garbage_is_of_no_consequence(
    first: Run, other: Run, module_runs: Runs
) -> None:
    kubectl("delete", "configmap", "memo")
    again = module_runs.submit(first.content)
    again.assert_succeeds()
    memo = get("configmap", "memo")
    assert memo is not None
    key = again.keys()["train-quick"]
    verified = [k for k in memo["data"] if k.startswith("verify-")]
    assert key in memo["data"]
    assert verified
    garbage = dict.fromkeys([key, again.keys()["ingest"], *verified, "of-others"], "garbage")
    kubectl("patch", "configmap", "memo", "--type=merge", "-p", json.dumps({"data": garbage}))
    healed = module_runs.submit(first.content)
    made = states(healed.assert_succeeds())
    assert made["serve"] == made["select"] == "reused"
    assert made["verify"] == made["train-quick"] == made["ingest"] == "succeeded"
    assert_served(healed)
    memo = get("configmap", "memo")
    assert memo is not None
    assert "garbage" not in memo["data"].values()


# --- roll-outs ----------------------------------------------------------------------------------


def test_a_roll_out_that_cannot_start_is_undone_and_the_run_says_so(
    first: Run, module_runs: Runs
) -> None:
    module_runs.submit(first.content).assert_succeeds()
    before = {pod["metadata"]["name"] for pod in pods_of(first)}
    with patched("inference-service", TOO_LITTLE):
        run = module_runs.submit(first.content | {"seed": first.content["seed"] + 2})
        assert run.wait() == "Failed"
    version = first.keys()["select"]
    record = run.record()
    assert record["state"] == "failed"
    assert f"it is undone, version {version} is served again" in record["error"]
    assert "OOMKilled" in record["error"]
    assert_served(first)
    assert {pod["metadata"]["name"] for pod in pods_of(first)} == before, "they went on answering"


def test_a_version_whose_replicas_answer_as_another_is_undone_too(
    first: Run, module_runs: Runs
) -> None:
    module_runs.submit(first.content).assert_succeeds()
    version, model = first.keys()["select"], first.content["name"]
    of_first = f"--name {model} --workspace /workspace --version {version} --host 0.0.0.0"
    liar = ["sh", "-c", f"exec python -m mlpipeline step serve {of_first}"]
    with patched("inference-service", _replicas(command=liar)):
        run = module_runs.submit(first.content | {"seed": first.content["seed"] + 3})
        assert run.wait() == "Failed"
    assert states(run.record())["verify"] == "failed"
    assert f"version {version} is served again" in run.describe()
    assert_served(first)


def test_the_first_roll_out_of_a_model_leaves_nothing_behind_if_it_cannot_start(
    runs: Runs,
) -> None:
    little = {"name": "kserve-container"}
    little |= {"resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "90Mi"}}}  # type: ignore[dict-item]
    content = configuration({"quick": QUICK}, serving={"replicas": 1, "ready_timeout_seconds": 60})
    with patched("inference-service", {"spec": {"predictor": {"containers": [little]}}}):
        run = runs.submit(content)
        assert run.wait() == "Failed"
    assert "is not served, as before" in run.record()["error"]
    assert get("inferenceservice", content["name"]) is None


def test_a_damaged_model_is_repaired_though_its_pods_have_crashed_for_long(
    first: Run, module_runs: Runs
) -> None:
    module_runs.submit(first.content).assert_succeeds()
    folder = WORKSPACE / "models" / first.content["name"] / first.keys()["select"]
    victim = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    inside = Path("/workspace") / victim.relative_to(WORKSPACE)
    on_node(f"printf damage | dd of='{inside}' bs=1 seek=10 conv=notrunc status=none")

    def crash_for_long() -> bool:
        counts = []
        for pod in pods_of(first):
            (status,) = pod["status"]["containerStatuses"]
            counts.append(status["restartCount"])
            if status["ready"]:
                with suppress(AssertionError):  # it may have ended by now
                    kill_container(pod)
        return len(counts) == 2 and min(counts) >= 4

    wait_until(crash_for_long, "both replicas in a long back-off", 400)
    healed = module_runs.submit(first.content)
    healed.assert_succeeds()
    assert_served(healed)


def test_a_rollback_verifies_and_serves_the_version_before_without_a_failed_request(
    first: Run, other: Run, module_runs: Runs
) -> None:
    for run in (first, other):
        module_runs.submit(run.content).assert_succeeds()
    model, why = first.content["name"], "it takes coats for bags"
    versions = [run.keys()["select"] for run in (other, first)]
    with inference_is(model), Asking(HTTP, model) as asking:
        wait_until(lambda: asking.versions == versions[:1], "an answer of the version", 60)
        assert (back := roll_back(first, why=why)).wait() == "Succeeded", back.describe()
        wait_until(lambda: asking.versions == versions, "an answer of the version before", 60)
    assert asking.failures == []
    assert_served(first)
    *_, last = history.changes(Workspace(WORKSPACE), model)
    assert (last.version, last.how, last.why) == (versions[1], "rolled back", why)


def test_a_steward_goes_back_by_a_token_and_the_history_names_the_steward(
    first: Run, other: Run, module_runs: Runs, tmp_path: Path
) -> None:
    for run in (first, other):
        module_runs.submit(run.content).assert_succeeds()
    model, why = first.content["name"], 'it\'s "coats" # for $(bags)'
    steward = as_account("steward", tmp_path)
    said = call(*steward, f"{SCRIPTS}/models.sh")
    assert [model, other.keys()["select"], "True"] in [
        line.split()[:3] for line in said.splitlines()
    ]

    said = call(
        *steward, f"{SCRIPTS}/rollback.sh", IMAGE, PREDICTOR_IMAGE, model, "", why, seconds=300
    )
    assert said.splitlines()[-1] == f"{model} is served by {first.keys()['select']}"
    assert_served(first)
    *_, last = history.changes(Workspace(WORKSPACE), model)
    assert last.reason == f"rolled back by system:serviceaccount:{NAMESPACE}:steward: {why}"
    assert last.reason in call(*steward, "HISTORY=1", f"{SCRIPTS}/models.sh", seconds=120)
    with pytest.raises(AssertionError, match="cannot create resource"):
        call(*steward, f"{SCRIPTS}/inside.sh", IMAGE, "run", "ls /workspace/requests")


def as_account(account: str, folder: Path) -> tuple[str, ...]:
    """Return how a command is called by who has an account's token, and no other."""
    config = json.loads(kubectl("config", "view", "--minify", "--raw", "--output=json"))
    token = kubectl("create", "token", account, "--duration=30m").strip()
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    file = folder / "kubeconfig"
    file.write_text(json.dumps(config))
    return ("env", f"KUBECONFIG={file}")


# --- the gate -----------------------------------------------------------------------------------


def test_what_the_gate_holds_back_is_neither_served_nor_gone_back_to_but_by_force(
    first: Run, module_runs: Runs
) -> None:
    module_runs.submit(first.content).assert_succeeds()
    content = first.content | {"seed": first.content["seed"] + 2, "gate": {"bytes": 1}}
    held = module_runs.submit(content)
    record = held.assert_succeeds()
    left_out = {"gate": "succeeded", "serve": "skipped", "verify": "skipped"}
    assert states(record).items() >= left_out.items()
    assert task_of(record, "gate")["gate"]["verdict"] == "kept"
    assert_served(first)

    refused = module_runs.submit(content | {"gate": {"bytes": 1, "required": True}})
    assert refused.wait() == "Failed", refused.describe()
    assert states(refused.record()).items() >= left_out.items()
    assert "is held back: size" in refused.record()["error"]

    denied = roll_back(first, version=held.keys()["select"])
    assert denied.wait() == "Failed", denied.describe()
    assert "the gate held version" in denied.step_log("find-way-back")
    assert_served(first)

    forced = module_runs.submit(content, force="the demonstration needs it", by="ann@desk")
    assert states(forced.assert_succeeds())["verify"] == "succeeded"
    assert_served(forced)
    *_, last = history.changes(Workspace(WORKSPACE), first.content["name"])
    # Argo's command has noted whom kubectl's context names, which comes before what people write.
    who = forced.workflow()["metadata"]["labels"]["workflows.argoproj.io/creator"]
    said = f"published by run {forced.name}, forced by {who}: the demonstration needs it"
    assert last.reason == said


# --- training anew ------------------------------------------------------------------------------


def test_retrain_runs_what_is_served_once_more_and_nothing_rolls_without_news(
    first: Run, module_runs: Runs
) -> None:
    module_runs.submit(first.content).assert_succeeds()
    before = service_of(first)["metadata"]["generation"]
    name = argo("submit", "--from=cronworkflow/retrain", "--output=name").strip()
    argo("wait", name, seconds=900)
    parent = get("workflow", name)
    assert parent is not None
    assert parent["status"]["phase"] == "Succeeded", argo("get", "--no-color", name)
    child = Run(f"{name}-{first.content['name']}", first.content, first.image)
    workflow = child.workflow()
    given = {p["name"]: p["value"] for p in workflow["spec"]["arguments"]["parameters"]}
    assert given["image"] == first.image
    assert child.keys() == first.keys()
    record = child.record()
    expected = ("ingest", "train-quick", "select", "serve", "verify")
    assert {task: states(record)[task] for task in expected} == dict.fromkeys(expected, "reused")
    assert service_of(first)["metadata"]["generation"] == before
    assert_served(first)
    assert workflow["metadata"]["namespace"] == NAMESPACE
