"""`make status`: a version is called ready only if it, and nothing else, is served."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = "MODEL VERSION WANTED SEEN NEW ALL ANSWER WHY"


@pytest.mark.parametrize(
    ("deployment", "said"),
    [
        ("shirts shirts-1 3 3 2 2 2 <none>", ["shirts", "shirts-1", "True"]),
        ("shirts shirts-2 4 3 2 2 2 <none>", ["shirts", "shirts-2", "False"]),  # not looked at yet
        ("shirts shirts-2 4 4 1 3 2 <none>", ["False", "1 of 3 replicas are of it, 2 answer\n"]),
        (
            "shirts shirts-1 1 1 1 1 <none> Deployment does not have minimum availability.",
            ["False", "1 of 1 replicas are of it, 0 answer: Deployment does not have minimum"],
        ),
    ],
)
def test_what_is_not_wholly_served_is_not_called_ready(
    tmp_path: Path, deployment: str, said: list[str]
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f"#!/bin/sh\ncase $* in *component=predictor*) echo '{HEAD}'; echo '{deployment}';; esac\n"
    )
    kubectl.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "status.sh"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    place = done.stdout.index("MODEL")
    line = done.stdout[place:].splitlines(keepends=True)[1]
    assert [part for part in said if part not in line] == []
    assert line.count("True") + line.count("False") == 1


PODS = """SINCE POD PHASE WAITS ENDED BEFORE WHY
2020-11-20T08:00:00Z old-train Failed <none> Error <none> <none>
2020-11-21T08:00:00Z well Running <none> <none> Error <none>
2020-11-21T08:00:00Z shirts-predictor Pending ImagePullBackOff <none> <none> containers not ready
2020-11-28T08:01:00Z new-train Failed <none> OOMKilled <none> <none>"""
EVENTS = """LAST OBJECT REASON MESSAGE
2020-11-28T07:59:59Z gone BackOff of before
  time=2020-11-28T07:59:58 the log of before
2020-11-28T08:02:00Z train FailedCreatePod pods "x" is forbidden: exceeded quota: small"""
DEPLOYMENTS = """NAMESPACE NAME READY UP-TO-DATE AVAILABLE AGE PART-OF
theirs unused 0/0 0 0 5d
kubeflow training-operator 0/0 0 0 5d mlpipeline
kserve kserve-controller-manager 1/1 1 1 5d mlpipeline
theirs broken 0/1 1 0 5d"""
KUBECTL = f"""#!/bin/bash
case "$*" in
  *"get deployments --all"*) echo '{DEPLOYMENTS}' ;;
  *"get workflows"*":.status.phase"*) echo "$WORKFLOWS" ;;
  *"get workflows"*'.templateName "gate"'*) echo 'run-1: kept shirts-1: accuracy 70.00%'
    echo 'run-2: passed: no worse than the gate allows'
    echo 'run-3: passed: forced by ann, because of a new class' ;;
  *"get workflows"*go-template*) echo 'serve(0), Failed: cannot use /workspace: Permission denied'
    echo 'time="2026" level=info argo=true'
    echo 'ingest(0), Failed: main: OOMKilled (exit code 137): WARNING: absl::InitializeLog() is'
    echo 'Error: exit status 137' ;;
  *"get inferenceservices"*why-tensorflow*) echo 'odd: LiteRT cannot: it has no operation Odd' ;;
  *"get pods"*) echo '{PODS}' ;;
  *"get events"*) echo '{EVENTS}' ;;
esac
"""


def _status(folder: Path, workflows: str, pods: str = PODS) -> str:
    (folder / "kubectl").write_text(KUBECTL.replace(PODS, pods))
    (folder / "kubectl").chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "status.sh"],
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "WORKFLOWS": workflows},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


OLD, NEW = "2020-11-19T08:00:00Z", "2020-11-28T08:00:00Z"


def test_what_failed_before_the_newest_workflow_is_not_shown(tmp_path: Path) -> None:
    said = _status(tmp_path, f"{OLD} Failed\n{NEW} Failed")
    hidden = ("old-train", " well ", "BackOff of before", "log of before")
    assert [each for each in hidden if each in said] == []
    assert [pod for pod in ("new-train", "shirts-predictor") if pod not in said] == []


def test_while_an_older_workflow_runs_its_failures_matter(tmp_path: Path) -> None:
    said = _status(tmp_path, f"{OLD} Running\n{NEW} Failed")
    assert "old-train" in said
    assert "of before" in said


def test_what_failed_within_the_hour_matters(tmp_path: Path) -> None:
    form, now = "%Y-%m-%dT%H:%M:%SZ", datetime.now(UTC)
    just_now = PODS.replace("2020-11-20T08:00:00Z", f"{now - timedelta(minutes=5):{form}}")
    said = _status(tmp_path, f"{OLD} Failed\n{now:{form}} Running", pods=just_now)
    assert "old-train" in said
    assert "new-train" not in said


def test_before_any_workflow_everything_matters(tmp_path: Path) -> None:
    assert "old-train" in _status(tmp_path, "")


def test_each_reason_has_what_to_do(tmp_path: Path) -> None:
    lines = _status(tmp_path, f"{NEW} Failed").splitlines()
    to_do = [line.strip().removeprefix("to do: ") for line in lines if "to do:" in line]
    assert [text.split()[0] for text in to_do] == [
        *("kubectl", "raise", "let", "`make", "raise", "ask"),
    ]
    assert "  ingest(0), Failed: main: OOMKilled (exit code 137)" in lines
    assert "argo=true" not in "".join(lines)


def test_an_operator_that_is_down_is_named_and_one_that_nobody_wants_is_not(
    tmp_path: Path,
) -> None:
    section = _status(tmp_path, "").split("platform: ")[1].split("\n\n")[0]
    assert [line.split()[1] for line in section.splitlines()[2:4]] == [
        *("training-operator", "broken"),
    ]
    (to_do,) = [line.strip() for line in section.splitlines() if "to do:" in line]
    assert to_do.startswith("to do: kubectl -n kubeflow scale deployment training-operator ")


def test_a_model_that_litert_cannot_serve_is_named_with_the_reason(tmp_path: Path) -> None:
    section = _status(tmp_path, "").split("models that TensorFlow serves")[1].split("\n\n")[0]
    assert section.splitlines()[1:] == ["  odd: LiteRT cannot: it has no operation Odd"]


def test_what_the_gate_held_back_or_was_made_to_let_pass_is_named(tmp_path: Path) -> None:
    said = _status(tmp_path, f"{NEW} Succeeded")
    section = said.split("versions that were held back")[1].split("\n\n")[0]
    assert section.splitlines()[1:] == [
        "  run-1: kept shirts-1: accuracy 70.00%",
        "  run-3: passed: forced by ann, because of a new class",
    ]
