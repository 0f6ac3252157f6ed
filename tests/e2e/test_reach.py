"""What the pods of a run see of the workspace, and may change: tried with the same mounts."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from support.workflows_on_kind import (
    QUICK,
    WORKSPACE,
    Run,
    configuration,
    find,
    kubectl,
    on_node,
    remove_artifacts,
    runs,
    wait_until,
)

pytestmark = pytest.mark.timeout(900)

OTHER = f"e2e-other-{uuid.uuid4().hex[:8]}"
FOLDERS = "datasets candidates selections models predictions runs feedback"
# Every folder that is seen, one below the workspace or two, and of each whether a file can be made.
PROBE = """
cd /workspace
for place in . * .[!.]* */* */.[!.]*; do
  [ -d "$place" ] || continue
  if touch "$place/.probe" 2>/dev/null; then rm "$place/.probe"; echo "writes $place"
  else echo "sees $place"; fi
done
"""


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """A run of one candidate that has succeeded; beside its model there is another one's.

    Its model's folder was there, root's and empty: as Kubernetes makes it for a pod that mounts it,
    on storage where nobody else may then write to it.
    """
    content = configuration({"small": QUICK})
    content["data"]["validation"] = random.randrange(400, 600)  # no memo is to answer
    on_node(
        f"for folder in {FOLDERS}; do mkdir -p -m 777 /workspace/$folder; done;"
        f"mkdir -p -m 777 /workspace/models/{OTHER};"
        f"mkdir -m 755 /workspace/models/{content['name']}"
    )
    with runs() as made:
        run = made.submit(content)
        run.assert_succeeds()
        yield run
    remove_artifacts(WORKSPACE / "models" / OTHER)


def _probe(spec: dict[str, Any], container: str) -> tuple[set[str], set[str]]:
    """Return what a pod that mounts the same as a given one sees, and what it can change."""
    name = f"probe-{uuid.uuid4().hex[:8]}"
    (main,) = (each for each in spec["containers"] if each["name"] == container)
    mounted = [m for m in main["volumeMounts"] if m["name"] in ("workspace", "tmp")]
    keys = ("image", "imagePullPolicy", "securityContext")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 120,
            "automountServiceAccountToken": False,
            "securityContext": spec["securityContext"],
            "volumes": [v for v in spec["volumes"] if v["name"] in ("workspace", "tmp")],
            "containers": [
                {key: main[key] for key in keys if key in main}
                | {"name": "main", "command": ["sh", "-c", PROBE], "volumeMounts": mounted}
            ],
        },
    }
    kubectl("create", "--filename=-", send=json.dumps(pod))
    try:
        ended = ("Succeeded", "Failed")
        phase = "--output=jsonpath={.status.phase}"
        wait_until(lambda: kubectl("get", "pod", name, phase) in ended, f"the end of {name}", 120)
        lines = [line.split(" ", 1) for line in kubectl("logs", name).splitlines()]
    finally:
        kubectl("delete", "pod", name, "--wait=false")
    writes = {place for verb, place in lines if verb == "writes"}
    return {place for _, place in lines}, writes


def test_a_replica_sees_its_model_alone_and_can_change_nothing(run: Run) -> None:
    model = run.content["name"]
    (pod, *_) = find("pods", f"serving.kserve.io/inferenceservice={model}")
    seen, writes = _probe(pod["spec"], "kserve-container")
    assert seen == {".", "models", f"models/{model}"}
    assert writes == set()


def test_a_worker_can_change_the_folder_that_it_trains_in_alone(run: Run) -> None:
    key = run.keys()["train-small"]
    (job,) = run.jobs()
    spec = job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]
    work = f"candidates/.{key}.work"
    assert not (WORKSPACE / work).exists(), "what it has made was taken over"
    try:
        seen, writes = _probe(spec, "tensorflow")
    finally:
        remove_artifacts(WORKSPACE / work)  # made again, for the probe to mount
    dataset = f"datasets/{run.keys()['ingest']}"
    assert writes == {work}
    assert seen == {".", "candidates", work, "datasets", dataset, "runs", f"runs/{run.name}"}


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        ("ingest", {"datasets"}),
        ("select", {"selections", "models/MODEL"}),
        ("serve", set()),
        ("verify", {"models/MODEL"}),
    ],
)
def test_a_step_can_change_what_it_publishes_and_no_other_model(
    run: Run, step: str, changes: set[str]
) -> None:
    (pod,) = run.step_pods(step)
    _, writes = _probe(pod["spec"], "main")
    own = run.content["name"]
    expected = {place.replace("MODEL", own) for place in changes}
    # Folders inside of those are open, too.
    assert {p for p in writes if p.rpartition("/")[0] not in expected} == expected
    assert f"models/{OTHER}" not in writes


def test_the_record_cannot_change_what_was_published(run: Run) -> None:
    (pod,) = run.step_pods("record")
    _, writes = _probe(pod["spec"], "main")
    assert {".", "runs"} <= writes
    published = ("datasets", "candidates", "selections", "models", "predictions")
    assert [place for place in writes if place.startswith(published)] == []
