"""The record of a workflow: what its nodes, as Argo 3.7 leaves them, say of each step."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlpipeline.backends.cluster import record as records
from mlpipeline.backends.cluster.api import Manifest
from mlpipeline.errors import ClusterError
from mlpipeline.plan import config
from mlpipeline.plan.pipeline import code_of, plan
from mlpipeline.runs import lineage, report
from mlpipeline.runs.record import RunRecord
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas import run as records_of
from mlpipeline.store.schemas.gate import GateCheck, GateTable, Verdict
from mlpipeline.store.schemas.rollout import RolloutTable
from mlpipeline.store.schemas.run import TaskRecord
from support import stored_documents as documents
from support.fake_cluster import FakeCluster

NAME = "mlpipeline-x7k2p"
CONFIG = {
    "name": "shirts",
    "data": {"dataset": "synthetic"},
    "candidates": {"cnn": {"model": "cnn"}, "dropout": {"model": "dropout"}},
}
FIGURES = documents.verification("a", "b")
TABLE = GateTable(
    version="shirts-2",
    current="shirts-1",
    verdict="passed",
    reason="no worse than the gate allows",
    checks=(GateCheck(what="accuracy", unit="share", new=0.9, current=0.8, limit=0.79),),
    images=100,
)
OK = ("Succeeded", "")
KILLED = ("Failed", "OOMKilled (exit code 137)")

# What Argo makes of a step's own error: the reason before it, its executor's last words after it.
ERROR = "the data set is damaged\n  expected: another one\n  to do:    fetch it"
SAID = (
    "Error (exit code 1): train-cnn: 3 of 8\n"
    'time="2026-11-21T12:00:07.310Z" level=info msg="capturing logs" argo=true\n'
    f"error: {ERROR}\n"
    'time="2026-11-21T12:00:08.412Z" level=info msg="sub-process exited" argo=true error="<nil>"\n'
    "Error: exit status 1"
)

PULL = 'Failed to pull image "nonsense": rpc error: code = NotFound desc = failed to pull'
TOO_LATE = ("Failed", "Pod was active on the node longer than the specified deadline")


def warnings(pod: str) -> list[str]:
    """What Kubernetes says of the pods of these tests: of those of ingestion alone."""
    return [PULL, "Error: ErrImagePull", PULL] if "-ingest-pod-" in pod else []


Attempt = tuple[str, str]
"""The phase of a pod, and its message."""


class Run:
    """The nodes of a workflow; a step takes ten seconds, each of its pods as long."""

    def __init__(self) -> None:
        self.nodes: dict[str, Manifest] = {}
        self.spec: Manifest = {}
        self._seconds = itertools.count(0, 10)
        self._ids = itertools.count(1)
        self._add("DAG", "pipeline", "Running", id=NAME)

    def workflow(self, *, packed: bool = False) -> Manifest:
        nodes: Manifest = {"nodes": self.nodes}
        if packed:
            compressed = base64.b64encode(gzip.compress(json.dumps(self.nodes).encode()))
            nodes = {"compressedNodes": compressed.decode(), "nodes": None}
        return {
            "metadata": {"name": NAME},
            "spec": self.spec,
            "status": {"startedAt": _time(0), "phase": "Running"} | nodes,
        }

    def tried(
        self,
        template: str,
        attempts: Sequence[Attempt] = (OK,),
        *,
        boundary: str = NAME,
        **fields: Any,
    ) -> str:
        """Add what is tried again: a Retry node and a Pod node for each attempt."""
        pods = [
            self._add("Pod", template, phase, boundaryID=boundary, message=message)
            for phase, message in attempts
        ]
        phase, message = attempts[-1] if attempts else ("Pending", "")
        more = {"boundaryID": boundary, "children": pods, "message": message}
        return self._add("Retry", template, phase, **more | fields)

    def memoized(
        self,
        step: str,
        attempts: Sequence[Attempt] = (OK,),
        *,
        hit: bool = False,
        outputs: dict[str, str] | None = None,
        **inputs: str,
    ) -> None:
        """Add a step that is answered from the memo if it can be: a DAG around what is tried."""
        phase, _ = attempts[-1] if attempts else ("Pending", "")
        status = {"hit": hit, "key": inputs.get("key", "verify-1"), "cacheName": "memo"}
        node = self._add(
            "DAG",
            step,
            phase,
            boundaryID=NAME,
            inputs=_parameters(inputs),
            outputs=_parameters(outputs or {}),
            memoizationStatus=status,
        )
        if not hit:
            fields = {"inputs": _parameters(inputs), "outputs": _parameters(outputs or {})}
            retry = self.tried(f"{step}-pod", attempts, boundary=node, **fields)
            self.nodes[node]["children"] = [retry]

    def omitted(self, step: str) -> str:
        """Add a step that had nothing to begin with, because one before it failed."""
        message = "omitted: depends condition not met"
        return self._add("Skipped", step, "Omitted", boundaryID=NAME, message=message)

    def _add(self, kind: str, template: str, phase: str, *, id: str = "", **fields: Any) -> str:
        id = id or f"{NAME}-{next(self._ids)}"
        began = next(self._seconds)
        node = {
            "id": id,
            "type": kind,
            "templateName": template,
            "phase": phase,
            "startedAt": _time(began),
            "finishedAt": _time(began + 10) if phase not in ("Running", "Pending") else None,
        }
        self.nodes[id] = {k: v for k, v in (node | fields).items() if v}
        return id


def _time(seconds: int) -> str:
    return f"2026-11-21T12:{seconds // 60:02}:{seconds % 60:02}Z"


def _parameters(values: dict[str, str]) -> Manifest:
    return {"parameters": [{"name": name, "value": value} for name, value in values.items()]}


def _run(attempts: Mapping[str, Sequence[Attempt]] | None = None, *, hit: bool = False) -> Run:
    """A run of all steps; `attempts` of those that are tried other than once and well."""
    attempts = attempts or {}
    tasks = plan(config.parse(CONFIG, origin=""))
    run = Run()
    run.tried("plan")
    run.memoized("ingest", attempts.get("ingest", [OK]), hit=hit, key=tasks["ingest"].key)
    run._add("TaskGroup", "train", "Succeeded", boundaryID=NAME)
    for name in CONFIG["candidates"]:
        task = tasks[f"train-{name}"]
        run.memoized(
            "train",
            attempts.get(name, [OK]),
            hit=hit,
            outputs={"metrics": "{}"},
            candidate=name,
            key=task.key,
        )
    run.memoized("select", attempts.get("select", [OK]), hit=hit, key=tasks["select"].key)
    run._add("DAG", "publish", "Succeeded", boundaryID=NAME, inputs=_parameters({"name": "shirts"}))
    # Never answered from the memo: they look at what is current, and at what is served.
    run.tried("gate", outputs=_parameters({"table": TABLE.model_dump_json()}))
    is_rolled = {"version": tasks["select"].key, "rolled": str(not hit).lower()}
    given = _parameters(is_rolled) if "serve" not in attempts else None
    run.tried("serve", attempts.get("serve", [OK]), outputs=given)
    outputs = {"figures": json.dumps(FIGURES.content())} if "verify" not in attempts else None
    run.memoized("verify", attempts.get("verify", [OK]), hit=hit, outputs=outputs, revision="1")
    run._add("Retry", "record", "Running")  # the exit handler itself
    return run


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    artifacts.write_text(tmp_path / "runs" / NAME / "config.yaml", yaml.safe_dump(CONFIG))
    for task in plan(config.parse(CONFIG, origin="")).values():
        if task.publishes:
            _publish(tmp_path / task.publishes[0])
    return tmp_path


def _publish(folder: Path) -> None:
    with artifacts.publish(folder) as draft:
        (draft / "content").write_text("")


def _record(run: Run, workspace: Path, **how: bool) -> RunRecord:
    return records.record(run.workflow(**how), Workspace(workspace), warnings)


def _task(record: RunRecord, name: str) -> TaskRecord:
    return next(task for task in record.tasks if task.name == name)


# --- what became of the steps -----------------------------------------------------------------


def test_a_run_that_made_all_is_recorded_in_the_order_of_its_steps(workspace: Path) -> None:
    record = _record(_run(), workspace)
    assert (record.run, record.state, record.error) == (NAME, "succeeded", None)
    assert [task.name for task in record.tasks] == [
        *("plan", "ingest", "train-cnn", "train-dropout", "select", "gate", "serve", "verify"),
    ]
    assert {task.state for task in record.tasks} == {"succeeded"}
    assert {task.seconds for task in record.tasks} == {10.0}
    assert [task.candidate for task in record.tasks if task.step == "train"] == ["cnn", "dropout"]
    tasks = plan(config.parse(CONFIG, origin=""))
    for name in ("ingest", "train-cnn", "train-dropout", "select"):
        assert _task(record, name).key == tasks[name].key
    assert record.content().candidates["cnn"]["model"] == "cnn"
    assert record.verification == FIGURES
    assert [task.gate for task in record.tasks if task.gate] == [TABLE]
    assert record.content().outcome == "succeeded"
    assert record.folder.path == workspace / "runs" / NAME


def test_what_the_memo_answered_is_reused_and_took_no_time(workspace: Path) -> None:
    record = _record(_run(hit=True), workspace)
    assert record.state == "succeeded"
    states = {task.name: task.state for task in record.tasks}
    reused = ("ingest", "train-cnn", "train-dropout", "select", "serve", "verify")
    looked = dict.fromkeys(("plan", "gate"), "succeeded")
    assert states == looked | dict.fromkeys(reused, "reused")
    assert all(_task(record, name).seconds == 0 for name in reused)
    assert record.verification == FIGURES, "of the run that verified it"
    assert [one.version for one in record.served] == [_task(record, "select").key]


def test_an_asynchronous_run_says_when_each_version_went_into_service(workspace: Path) -> None:
    tasks = plan(config.parse(CONFIG, origin=""))
    first = plan(config.parse(CONFIG, origin="").among("cnn"))["select"].key
    last = tasks["select"].key
    with artifacts.publish(workspace / "models" / "shirts" / first) as draft:
        documents.model_card(candidate="cnn").save(draft / "model.json")
    run = Run()
    run.tried("plan")
    run.memoized("select", key=first, among="cnn")
    run.tried("serve", outputs=_parameters({"version": first}))
    run.memoized("verify", outputs={"figures": json.dumps(FIGURES.content())})
    run.memoized("select", key=last, among="")
    run.tried("serve", [("Failed", SAID)])
    for _ in range(2):  # the second time it found nothing to change
        run.tried("serve", outputs=_parameters({"version": last}))
    record = _record(run, workspace)
    assert [(one.version, one.candidate) for one in record.served] == [
        (first, "cnn"),
        (last, ""),  # of which nobody has kept what it was
    ]
    assert 0 < record.served[0].seconds < record.served[1].seconds
    assert [task.key for task in record.tasks if task.step == "select"] == [first, last]


def _tried(verdict: Verdict) -> Run:
    """The nodes of a run whose version was tried on requests, and held back."""
    run = Run()
    run.tried("plan")
    run.memoized("select", key="shirts-2", among="")
    run.tried("gate", outputs=_parameters({"table": TABLE.model_dump_json()}))
    said = RolloutTable(
        version="shirts-2", current="shirts-1", verdict=verdict, reason="it is slow"
    )
    run.memoized("canary", outputs={"table": said.model_dump_json()}, wanted="true")
    run._add("Skipped", "serve", "Skipped", boundaryID=NAME, message="when 'kept == passed'")
    run.omitted("verify")
    return run


def test_a_run_whose_version_has_not_stood_its_trial_says_what_was_kept(workspace: Path) -> None:
    record = _record(_tried("kept"), workspace)
    assert record.state == "succeeded"
    assert _task(record, "canary").state == "succeeded"
    assert record.content().outcome == "succeeded, kept shirts-1"
    run = _tried("refused")
    run.tried("refuse", [("Failed", SAID)])
    record = _record(run, workspace)
    assert record.state == "failed"
    assert record.error
    assert record.error.startswith("version shirts-2 is held back: it is slow")


def test_what_was_not_to_be_tried_is_no_task(workspace: Path) -> None:
    run = _run()
    run.memoized("canary", outputs={"verdict": "passed", "table": ""}, wanted="false")
    assert "canary" not in [task.name for task in _record(run, workspace).tasks]


def _held(verdict: str) -> Run:
    """The nodes of a run whose version the gate has held back."""
    run = Run()
    run.tried("plan")
    run.memoized("select", key="shirts-2", among="")
    table = TABLE.model_copy(update={"verdict": verdict, "reason": "accuracy 70.00%"})
    run.tried("gate", outputs=_parameters({"table": table.model_dump_json()}))
    run._add("Skipped", "serve", "Skipped", boundaryID=NAME, message="when 'kept == passed'")
    run.omitted("verify")
    return run


def test_a_run_whose_version_was_held_back_succeeds_and_says_what_was_kept(
    workspace: Path,
) -> None:
    record = _record(_held("kept"), workspace)
    states = {task.name: task.state for task in record.tasks}
    assert states == {
        "plan": "succeeded",
        "select": "succeeded",
        "gate": "succeeded",
        "serve": "skipped",
        "verify": "skipped",
    }
    assert (record.state, record.error, record.served) == ("succeeded", None, [])
    run = record.content()
    assert run.outcome == "succeeded, kept shirts-1"
    assert "kept shirts-1" in report.build(Workspace(workspace), run)


def test_where_the_gate_is_required_a_run_that_is_held_back_has_failed(workspace: Path) -> None:
    run = _held("refused")
    run.tried("refuse", [("Failed", SAID)])
    record = _record(run, workspace)
    assert (record.state, _task(record, "gate").state) == ("failed", "succeeded")
    assert record.error
    assert record.error.startswith("version shirts-2 is held back: accuracy 70.00%")


@pytest.mark.parametrize("step", ["ingest", "cnn", "serve"])
def test_a_step_that_was_tried_again_says_why(workspace: Path, step: str) -> None:
    record = _record(_run({step: [KILLED, ("Error", "pod deleted"), OK]}), workspace)
    task = _task(record, "train-cnn" if step == "cnn" else step)
    assert record.state == "succeeded"
    assert (task.state, task.error) == ("succeeded", None)
    memory, deleted = task.retries
    assert memory.startswith("OOMKilled (exit code 137)\n  expected: ")
    assert "\n  to do:    raise the memory limit" in memory
    assert deleted == "pod deleted"


@pytest.mark.parametrize("step", ["ingest", "select", "serve", "verify"])
def test_a_step_that_failed_is_recorded_with_its_own_message(workspace: Path, step: str) -> None:
    record = _record(_run({step: [KILLED, ("Failed", SAID)]}), workspace)
    task = _task(record, step)
    assert (task.state, task.error) == ("failed", ERROR)
    assert [text.splitlines()[0] for text in task.retries] == ["OOMKilled (exit code 137)"]
    assert (record.state, record.error) == ("failed", ERROR)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            'Error (exit code 2): Traceback …\nValueError: 7\ntime="2026" level=info msg="exited"',
            "Error (exit code 2)\nTraceback …\nValueError: 7",
        ),
        ('time="2026-11-21T12:00:07Z" level=info', "it was ended before it was done"),
        ("", "it was ended before it was done"),
    ],
    ids=["a bug's", "noise", "none"],
)
def test_a_failure_without_a_message_of_ours_has_the_best_there_is(
    workspace: Path, message: str, expected: str
) -> None:
    record = _record(_run({"ingest": [("Failed", message)]}), workspace)
    assert _task(record, "ingest").error == expected


@pytest.mark.parametrize(
    ("message", "to_do"),
    [
        ("OOMKilled (exit code 137): step 3 of 8", "raise the memory limit"),
        ("OOMKilled (exit code 137): error: it was said before", "raise the memory limit"),
        ("pods is forbidden: exceeded quota: small, requested: pods=1", "ask for less"),
        ("ImagePullBackOff: Back-off pulling image", "`make image` builds"),
        ("Pod was active on the node longer than the specified deadline", "`make status` while"),
        ("Internal error occurred: failed calling webhook x: refused", "`make status` says which"),
    ],
)
def test_what_ended_a_step_from_outside_says_what_to_do(
    workspace: Path, message: str, to_do: str
) -> None:
    record = _record(_run({"select": [("Failed", message)]}), workspace)
    *first, expected, remedy = str(record.error).splitlines()
    assert first == message.replace("): ", ")\n").splitlines()
    assert expected.startswith("  expected: ")
    assert remedy.startswith(f"  to do:    {to_do}")


def test_notices_in_the_log_of_a_step_that_said_nothing_are_left_out(workspace: Path) -> None:
    message = (
        "main: OOMKilled (exit code 137): WARNING: All before absl::InitializeLog() is called\n"
        "I0000 00:00:17 18 port.cc:153] oneDNN custom operations are on. You may see\n"
        'time="2026-11-30T02:34:24.635Z" level=info msg="sub-process exited" argo=true\n'
        "Error: exit status 137"
    )
    record = _record(_run({"ingest": [("Failed", message)]}), workspace)
    first, _, to_do = str(record.error).splitlines()
    assert first == "OOMKilled (exit code 137)"
    assert "raise the memory limit" in to_do


@pytest.mark.parametrize("container", ["", "main: "])
def test_the_last_words_of_a_step_are_its_error_whole(workspace: Path, container: str) -> None:
    own = f"TFJob x failed: one worker\n    error: the data is damaged\n{ERROR[-20:]}"
    message = f"{container}Error (exit code 1): error: {own}"
    record = _record(_run({"ingest": [("Failed", message)]}), workspace)
    assert record.error == own


def test_a_candidate_that_failed_fails_its_step_not_the_run(workspace: Path) -> None:
    record = _record(_run({"dropout": [("Failed", SAID)]}), workspace)
    assert (_task(record, "train-dropout").state, record.state) == ("failed", "succeeded")
    assert (_task(record, "train-dropout").error, record.error) == (ERROR, None)


def test_the_selection_among_the_others_is_recorded_by_the_key_that_it_has_then(
    workspace: Path,
) -> None:
    settings = config.parse(CONFIG, origin="")
    (workspace / plan(settings)["train-dropout"].publishes[0] / "content").unlink()
    record = _record(_run({"dropout": [("Failed", SAID)]}), workspace)
    assert _task(record, "select").key == plan(settings, without={"dropout"})["select"].key


def test_what_never_began_is_skipped_and_the_run_has_failed(workspace: Path) -> None:
    run = Run()
    run.tried("plan")
    run.memoized("ingest", [("Failed", SAID)], key="ingest-1")
    _, select, publish = (run.omitted(step) for step in ("train", "select", "publish"))
    run.nodes[select]["children"] = [publish]
    record = _record(run, workspace)
    assert record.state == "failed"
    assert [(task.name, task.state) for task in record.tasks] == [
        ("plan", "succeeded"),
        ("ingest", "failed"),
        ("train", "skipped"),
        ("select", "skipped"),
    ]
    assert _task(record, "select").error is None
    assert _task(record, "select").retries == ()


def test_a_run_that_never_came_to_its_verification_has_failed(workspace: Path) -> None:
    run = Run()
    run.tried("plan")
    assert _record(run, workspace).state == "failed"


@pytest.mark.parametrize("strategy", ["Stop", "Terminate"])
def test_a_run_that_was_stopped_is_interrupted(workspace: Path, strategy: str) -> None:
    run = Run()
    run.tried("plan")
    stopped = f"workflow shutdown with strategy:  {strategy}"
    run.memoized("ingest", [("Failed", stopped)], key="ingest-1")
    run.spec = {"shutdown": strategy}
    record = _record(run, workspace)
    assert record.state == "interrupted"
    assert record.error == stopped


def test_what_still_runs_at_the_end_was_ended(workspace: Path) -> None:
    run = Run()
    run.tried("plan")
    run.memoized("ingest", [("Running", "")], key="ingest-1")
    task = _task(_record(run, workspace), "ingest")
    assert (task.state, task.error) == ("failed", "it was ended before it was done")


def test_a_step_whose_first_pod_was_never_made_has_failed(workspace: Path) -> None:
    run = Run()
    run.tried("plan", [])
    assert _task(_record(run, workspace), "plan").state == "failed"


# --- where it was done, when, and by which code ------------------------------------------------


def test_each_task_says_when_it_began_where_it_ran_and_by_which_code(workspace: Path) -> None:
    run = _run({"dropout": [KILLED, OK]})
    for node in run.nodes.values():
        if node["type"] == "Pod":
            node["hostNodeName"] = "mlpipeline-worker2"
    record = _record(run, workspace)
    pods = {node["id"] for node in run.nodes.values() if node["type"] == "Pod"}
    for task in record.tasks:
        assert task.started is not None
        _, pod, _, _, place = str(task.where).split()
        assert pod in pods
        assert place == "mlpipeline-worker2"
    settings = config.parse(CONFIG, origin="")
    for name, planned in plan(settings).items():
        assert _task(record, name).code == code_of(planned, settings)


def test_what_was_reused_began_nowhere(workspace: Path) -> None:
    task = _task(_record(_run(hit=True), workspace), "ingest")
    assert (task.started, task.where) == (None, None)
    assert task.code, "its key says by which code it was made"


@pytest.mark.parametrize("place", ["spec", "storedWorkflowTemplateSpec"])
def test_the_image_is_where_the_code_came_from(workspace: Path, place: str) -> None:
    workflow = _run().workflow()
    image = {"arguments": {"parameters": [{"name": "image", "value": "mlpipeline:1a2b"}]}}
    (workflow if place == "spec" else workflow["status"])[place] = image
    record = records.record(workflow, Workspace(workspace), warnings)
    assert record.source == "image mlpipeline:1a2b"


def test_the_same_events_are_made_of_it_as_of_a_local_run(workspace: Path) -> None:
    record = _record(_run({"cnn": [KILLED, ("Failed", SAID)]}), workspace)
    record.save()
    file = lineage.write(Workspace(workspace), records_of.Run.load(record.folder.record))
    events = [json.loads(line) for line in file.read_text().splitlines()]
    ends = {e["job"]["name"]: e for e in events if e["eventType"] != "START"}
    assert ends["shirts.train-cnn"]["eventType"] == "FAIL"
    assert ends["shirts.train-cnn"]["run"]["facets"]["errorMessage"]["message"] == ERROR
    others = ("plan", "ingest", "train-dropout", "select", "serve", "verify")
    assert {ends[f"shirts.{name}"]["eventType"] for name in others} == {"COMPLETE"}
    assert ends["shirts"]["eventType"] == "COMPLETE"
    (data,) = ends["shirts.train-dropout"]["inputs"]
    assert data["name"] == f"datasets/{plan(config.parse(CONFIG, origin=''))['ingest'].key}"


# --- what else there may be, or not -----------------------------------------------------------


def test_the_nodes_of_a_large_workflow_are_unpacked(workspace: Path) -> None:
    packed = _record(_run(), workspace, packed=True)
    assert packed.tasks == _record(_run(), workspace).tasks


def test_a_workflow_without_any_node_is_recorded(workspace: Path) -> None:
    run = Run()
    run.nodes = {}
    record = _record(run, workspace)
    assert (record.state, record.tasks, record.verification) == ("failed", [], None)


def test_a_run_without_a_verification_has_no_figures(workspace: Path) -> None:
    record = _record(_run({"verify": [("Failed", SAID)]}), workspace)
    assert record.verification is None


@pytest.mark.parametrize("content", [None, "name: [", "name: shirts"])
def test_a_run_that_failed_before_it_had_a_configuration_is_recorded(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        artifacts.write_text(tmp_path / "runs" / NAME / "config.yaml", content)
    run = Run()
    run.tried("plan", [("Failed", SAID)])
    run.omitted("ingest")
    record = _record(run, tmp_path)
    assert record.content().config == {"candidates": {}}
    assert (record.state, record.error) == ("failed", ERROR)
    page = report.write(Workspace(tmp_path), record.content())
    assert "the data set is damaged" in page.read_text()


@pytest.mark.parametrize("failed", [{}, {"dropout": [("Failed", SAID)]}, {"select": [KILLED]}])
def test_the_report_of_a_record_is_written_beside_it(
    workspace: Path, failed: dict[str, Sequence[Attempt]]
) -> None:
    record = _record(_run(failed), workspace)
    record.save()
    page = report.write(Workspace(workspace), records_of.Run.load(record.folder.record))
    assert page.parent == record.folder.path
    assert NAME in page.read_text()
    assert "train-dropout" in page.read_text()


def test_a_pod_that_did_not_start_in_time_says_what_it_waited_for(workspace: Path) -> None:
    record = _record(_run({"ingest": [TOO_LATE], "cnn": [TOO_LATE]}), workspace)
    assert str(_task(record, "ingest").error).splitlines() == [
        TOO_LATE[1],
        f"    {PULL}",
        "    Error: ErrImagePull",
        "  expected: an image that every node can pull",
        "  to do:    `make image` builds the image and loads it into kind, `make push REGISTRY=…` "
        "sends it to a registry",
    ]
    other = str(_task(record, "train-cnn").error).splitlines()
    assert (other[0], len(other)) == (TOO_LATE[1], 3)


def test_the_word_error_in_somebody_elses_message_does_not_begin_ours(workspace: Path) -> None:
    message = f"ErrImagePull: {PULL}"
    record = _record(_run({"ingest": [("Error", message)]}), workspace)
    first, _, to_do = str(record.error).splitlines()
    assert first == message
    assert "`make image`" in to_do


# --- the records of others ----------------------------------------------------------------------


WORKFLOWS = Path(__file__).parents[2] / "workflows"


def _in_cluster(run: Run, name: str, **spec: Any) -> Manifest:
    """The same workflow under another name, as it is when it has ended."""
    workflow = json.loads(json.dumps(run.workflow()).replace(NAME, name))
    submitted = yaml.safe_load((WORKFLOWS / "pipeline.yaml").read_text())
    ended = {"workflows.argoproj.io/completed": "true"}
    workflow["metadata"] |= {"labels": submitted["metadata"]["labels"] | ended, "uid": f"of-{name}"}
    workflow["status"] |= {"phase": "Failed", "finishedAt": _time(100)}
    own = {key: submitted["spec"][key] for key in ("entrypoint", "onExit")}
    return dict(workflow) | {"kind": "Workflow", "spec": own | spec}


def _of_template(run: Run, name: str) -> Manifest:
    """As `argo submit --from` makes it: what it is, is in the template, and so are the labels."""
    template = yaml.safe_load((WORKFLOWS / "workflow-template.yaml").read_text())
    workflow = _in_cluster(run, name)
    workflow["metadata"]["labels"] = {"workflows.argoproj.io/completed": "true"}
    workflow["spec"] = {"workflowTemplateRef": {"name": template["metadata"]["name"]}}
    workflow["status"]["storedWorkflowTemplateSpec"] = template["spec"]
    return workflow


def _unrecorded(cluster: FakeCluster, workspace: Path) -> dict[str, records_of.Run]:
    made = records.unrecorded(cluster, Workspace(workspace), warnings)
    return {each.run: each for each in made}


def test_a_workflow_whose_exit_handler_could_not_run_is_recorded_by_another(
    workspace: Path,
) -> None:
    cluster, run = FakeCluster(), Run()
    run.tried("plan", [TOO_LATE])
    begun = _in_cluster(_run({"ingest": [KILLED]}), "begun")
    under_way = _in_cluster(run, "under-way")
    del under_way["metadata"]["labels"]["workflows.argoproj.io/completed"]
    event = _in_cluster(run, "predict-1", entrypoint="predict")
    del event["spec"]["onExit"]
    asynchronous = _in_cluster(Run(), "no-quota", entrypoint="asynchronous")
    of_template = _of_template(run, "of-template")
    for workflow in (_in_cluster(run, "no-image"), of_template, begun, under_way, event):
        cluster.put(workflow)
    cluster.put(asynchronous)
    parsed = config.parse(CONFIG, origin="")
    records.begin(begun, parsed, Workspace(workspace))
    config.write(parsed, Workspace(workspace).run("begun").config)

    made = _unrecorded(cluster, workspace)
    assert made.keys() == {"no-image", "of-template", "begun", "no-quota"}
    assert {each.state for each in made.values()} == {"failed"}
    assert {each.seconds for each in made.values()} == {100.0}
    assert str(made["no-image"].error).startswith(TOO_LATE[1])
    assert str(made["begun"].error).startswith("OOMKilled")
    assert made["begun"].name == "shirts"
    for name, written in made.items():
        assert records_of.Run.load(Workspace(workspace).run(name).record) == written
        assert report.write(Workspace(workspace), written).exists()
        lineage.write(Workspace(workspace), written)
    assert _unrecorded(cluster, workspace) == {}


def test_what_is_no_run_of_the_pipeline_gets_no_record(workspace: Path) -> None:
    cluster, run = FakeCluster(), Run()
    run.tried("plan", [TOO_LATE])
    foreign = _in_cluster(run, "foreign")  # has an entrypoint and an exit handler of our names
    foreign["metadata"]["labels"] = {"workflows.argoproj.io/completed": "true"}
    of_other = _of_template(run, "of-other")
    of_other["spec"]["workflowTemplateRef"] = {"name": "other"}
    of_cluster = _of_template(run, "of-cluster")
    of_cluster["spec"]["workflowTemplateRef"]["clusterScope"] = True
    labelled = _in_cluster(Run(), "labelled", entrypoint="build")  # with our label, but no step
    for workflow in (foreign, of_other, of_cluster, labelled):
        cluster.put(workflow)
    assert _unrecorded(cluster, workspace) == {}
    assert [folder.name for folder in (workspace / "runs").iterdir()] == [NAME]


@pytest.mark.parametrize("packed", [False, True])
def test_a_run_that_somebody_has_removed_is_not_recorded_again(
    workspace: Path, packed: bool
) -> None:
    cluster, run = FakeCluster(), _run({"verify": [KILLED]})
    run.nodes = {k: v for k, v in run.nodes.items() if v["templateName"] != "record"}
    run.tried("record", [KILLED, OK])
    workflow = _in_cluster(run, "removed")
    if packed:
        workflow["status"] |= json.loads(
            json.dumps(run.workflow(packed=True)["status"]).replace(NAME, "removed")
        )
    cluster.put(workflow)
    assert _unrecorded(cluster, workspace) == {}
    assert not (workspace / "runs" / "removed").exists()


def test_an_odd_workflow_does_not_keep_others_from_their_records(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster, run, odd = FakeCluster(), Run(), Run()
    run.tried("plan", [TOO_LATE])
    odd.tried("plan")
    odd.tried("verify", outputs=_parameters({"figures": "not json"}))
    damaged = _in_cluster(run, "damaged")
    damaged["status"] |= {"nodes": None, "compressedNodes": "not packed"}
    unseen = _in_cluster(run, "unseen")
    del unseen["status"]
    unseen["metadata"]["creationTimestamp"] = _time(0)
    for workflow in (_in_cluster(odd, "odd"), damaged, unseen, _in_cluster(run, "no-image")):
        cluster.put(workflow)
    assert _unrecorded(cluster, workspace).keys() == {"unseen", "no-image"}
    for name in ("odd", "damaged"):
        assert f"{name}: what the next run does for it is not done" in caplog.text
        assert not (workspace / "runs" / name / "run.json").exists()
    assert "JSONDecodeError" in caplog.text


def test_the_jobs_that_such_a_workflow_has_left_are_ended(
    workspace: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, run = FakeCluster(), Run()
    run.tried("plan")
    for name in ("left", "other"):
        cluster.put(_in_cluster(run, name))
        owner = {"uid": f"of-{name}"}
        metadata = {"name": f"job-{name}", "ownerReferences": [owner]}
        cluster.put({"kind": "TFJob", "metadata": metadata, "status": {}})
    artifacts.write_text(workspace / "runs" / "other" / "run.json", "is there, damaged or not")
    assert _unrecorded(cluster, workspace).keys() == {"left"}
    assert cluster.changes == ["delete TFJob job-left"]

    def refuse(*_: Any) -> None:
        raise ClusterError("forbidden", expected="it", remedy="grant it")

    monkeypatch.setattr(records, "delete_unfinished", refuse)
    cluster.put(_in_cluster(run, "next"))
    assert _unrecorded(cluster, workspace).keys() == {"next"}  # it has its record all the same
    assert "next: what the next run does for it is not done" in caplog.text


def test_of_very_many_the_latest_are_recorded_and_the_others_by_the_next_run(
    workspace: Path,
) -> None:
    cluster = FakeCluster()
    for number in range(25):
        workflow = _in_cluster(Run(), f"run-{number}")
        workflow["status"]["finishedAt"] = _time(100 + number)
        cluster.put(workflow)
    first, second = _unrecorded(cluster, workspace), _unrecorded(cluster, workspace)
    assert list(first) == [f"run-{number}" for number in range(5, 25)]
    assert list(second) == [f"run-{number}" for number in range(5)]


def test_a_record_is_written_where_nobody_knows_why_a_pod_has_not_started(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(pod: str) -> list[str]:
        raise ClusterError(f"events of {pod}: forbidden", expected="them", remedy="grant it")

    workflow = _run({"ingest": [TOO_LATE]}).workflow()
    record = records.record(workflow, Workspace(workspace), refuse)
    assert str(record.error).startswith(TOO_LATE[1])
    assert "forbidden" in caplog.text
