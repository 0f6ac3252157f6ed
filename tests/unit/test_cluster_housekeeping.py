"""What a removal in a cluster waits for, what it leaves, and that Argo forgets what is gone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from mlpipeline.backends.cluster import api, housekeeping
from mlpipeline.cli import app
from mlpipeline.runs import garbage
from mlpipeline.store.layout import Workspace
from mlpipeline.store.leases import Lease
from support.fake_cluster import FakeCluster
from support.past_runs import add_run, made_by, there
from support.registered import NAME

pytestmark = pytest.mark.timeout(60)

OWNER = "gc-x7k2p/workflow-uid"
_ENDED = {"workflows.argoproj.io/completed": "true"}
_TIMES = dict.fromkeys(("creationTimestamp", "lastHitTimestamp"), "2026-11-30T00:34:33Z")
_ENTRY = json.dumps({"nodeID": "of-a-step", "outputs": {}} | _TIMES)

Invoke = Callable[..., str]


@pytest.fixture
def workspace(tmp_path: Any) -> Workspace:
    """Three runs, the third of which is all that is to stay."""
    made = Workspace(tmp_path)
    for day in range(3):
        add_run(made, day, promote=False)
    return made


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()
    labels = {"workflows.argoproj.io/configmap-type": "Cache"}
    remembered = dict.fromkeys(("cnn-0", "ingest-1", "cnn-2", "of-others"), _ENTRY)
    memo = {"kind": "ConfigMap", "metadata": {"name": "memo", "labels": labels}}
    made.put(memo | {"data": remembered})
    _workflow(made, "gc-x7k2p", template="gc")
    monkeypatch.setattr(api, "connect", lambda: made)
    return made


def _workflow(cluster: FakeCluster, name: str, template: str = "", **labels: str) -> None:
    """Have a workflow be there, which goes on unless a label says otherwise."""
    spec: dict[str, Any] = {"workflowTemplateRef": {"name": template}} if template else {}
    metadata = {"name": name, "labels": labels}
    cluster.put({"kind": "Workflow", "metadata": metadata, "spec": spec})


def _serve(cluster: FakeCluster, version: str) -> None:
    labels = {"app.kubernetes.io/part-of": "mlpipeline"}
    annotations = {"mlpipeline/version": version}
    metadata = {"name": NAME, "labels": labels, "annotations": annotations}
    cluster.put({"kind": "InferenceService", "metadata": metadata, "spec": {}})


@pytest.fixture
def invoke(workspace: Workspace) -> Invoke:
    """Call the command as the workflow does, and return what it prints."""

    def run(*options: str) -> str:
        common = ["--workspace", str(workspace), "--memo", "memo", "--workflow", OWNER]
        arguments = ["cluster", "gc", *common, "--keep-runs", "1", *options]
        result = CliRunner().invoke(app.app, arguments)
        if result.exception:
            raise result.exception
        return result.output

    return run


def test_what_is_removed_argo_forgets_and_the_rest_it_does_not(
    workspace: Workspace, cluster: FakeCluster, invoke: Invoke
) -> None:
    *lines, last = [line for line in invoke().splitlines() if not line.startswith("time=")]
    assert there(workspace) == made_by(2)
    assert {line.split("  ")[0] for line in lines} == made_by(0, 1)
    assert last.startswith("removed: 10, ")
    assert cluster.objects["ConfigMap", "memo"]["data"].keys() == {"cnn-2", "of-others"}


def test_a_dry_run_waits_for_nothing_and_changes_nothing(
    workspace: Workspace, cluster: FakeCluster, invoke: Invoke
) -> None:
    _workflow(cluster, "mlpipeline-abcde")
    assert invoke("--dry-run=true").splitlines()[-1].startswith("would be removed: 10, ")
    assert there(workspace) == made_by(0, 1, 2)
    assert cluster.changes == []


@pytest.mark.parametrize("text", ["", "yes", "True"])
def test_where_it_is_not_clear_whether_to_remove_anything_nothing_is(
    workspace: Workspace, cluster: FakeCluster, invoke: Invoke, text: str
) -> None:
    with pytest.raises(SystemExit):
        invoke(f"--dry-run={text}")
    assert there(workspace) == made_by(0, 1, 2)


def test_what_is_served_stays_whatever_is_current(
    workspace: Workspace, cluster: FakeCluster, invoke: Invoke
) -> None:
    _serve(cluster, f"{NAME}-0")
    invoke()
    assert there(workspace) == made_by(2) | made_by(0) - {"runs/run-0"}


@pytest.mark.parametrize(
    ("name", "template", "labels", "waits"),
    [
        ("mlpipeline-abcde", "", {}, True),  # nobody has looked at it yet
        ("mlpipeline-abcde", "", {"workflows.argoproj.io/completed": "false"}, True),
        ("mlpipeline-abcde", "", _ENDED, False),
        ("rollback-abcde", "rollback", {}, True),
        ("of-a-user", "", {}, True),
        ("gc-other", "gc", {}, False),  # it takes turns with this one by a lease
    ],
)
def test_what_it_waits_for(
    cluster: FakeCluster, name: str, template: str, labels: dict[str, str], waits: bool
) -> None:
    _workflow(cluster, name, template, **labels)
    assert housekeeping.under_way(cluster) == (f"workflow {name}" if waits else "")


def test_a_run_that_is_under_way_is_waited_for_and_one_that_begins_meanwhile_is_not_held_up(
    workspace: Workspace,
    cluster: FakeCluster,
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(garbage, "_LOOK_AGAIN_SECONDS", 0.05)
    _workflow(cluster, "mlpipeline-abcde")
    removing = threading.Thread(target=invoke)
    removing.start()
    end = time.monotonic() + 30
    while ("list", "argoproj.io", "workflows") not in cluster.used:
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.2)  # it has seen that one goes on
    garbage.wait_for_removal(workspace, "workflow mlpipeline-fghij")
    assert there(workspace) == made_by(0, 1, 2)
    cluster.remove("Workflow", "mlpipeline-abcde")
    removing.join(30)
    assert there(workspace) == made_by(2)


@pytest.mark.parametrize("command", ["plan", "find-way-back"])
def test_runs_and_rollbacks_begin_with_a_look_whether_something_is_removed(
    workspace: Workspace, cluster: FakeCluster, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "_LONGEST_WAIT_SECONDS", 0.0)
    Lease(workspace.removal_lease, "workflow gc-x7k2p").take()
    _workflow(cluster, "mlpipeline-abcde")
    options = ["--workspace", str(workspace), "--workflow", "mlpipeline-abcde/uid"]
    options += ["--config", str(workspace.root / "config.yaml")]
    options += ["--outputs", str(workspace.root / "outputs")]
    if command == "plan":
        options += ["--memo", "memo"]
    result = CliRunner().invoke(app.app, ["cluster", command, *options])
    assert "workflow gc-x7k2p" in str(result.exception)
    assert not (workspace.root / "outputs").exists()
