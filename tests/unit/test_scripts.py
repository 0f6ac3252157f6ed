"""The bash scripts: small, checked, and called by what there is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlpipeline.backends.cluster import reasons
from support.not_tested import needs

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
LIBRARIES = {
    "lib.sh",
    "address.sh",
    "wait.sh",
    "advice.sh",
    "follow.sh",
    "apply.sh",
    "conflicts.sh",
    "platform.sh",
    "system.sh",
}  # they are sourced
MAKEFILE = (ROOT / "Makefile").read_text()
# That of the environment first, as in `make check`.
SHELLCHECK = shutil.which("shellcheck", path=Path(sys.executable).parent) or "shellcheck"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_small_and_introduces_itself(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert len(lines) <= 105
    is_library = script.name in LIBRARIES
    assert os.access(script, os.X_OK) is not is_library
    assert lines[0] == ("# shellcheck shell=bash" if is_library else "#!/usr/bin/env bash")
    assert re.match(r"# [A-Z]\S+ \S+", lines[1])
    if not is_library:
        assert "set -euo pipefail" in lines


@needs(SHELLCHECK, to_do="make .venv/.ready")
def test_shellcheck_has_nothing_to_say() -> None:
    done = subprocess.run(
        [SHELLCHECK, "-x", *(f"scripts/{script.name}" for script in SCRIPTS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_every_script_that_is_called_is_there_and_each_is_called() -> None:
    callers = [MAKEFILE, *(script.read_text() for script in SCRIPTS)]
    called = set(re.findall(r"scripts/(\w+\.sh)", "".join(callers))) - LIBRARIES
    assert called == {script.name for script in SCRIPTS} - LIBRARIES


def test_no_error_is_told_but_by_the_rule() -> None:
    told = [s.name for s in SCRIPTS if re.search(r"(echo|printf) ['\"]error: ", s.read_text())]
    assert told == ["lib.sh"]


@pytest.mark.parametrize(
    ("clusters", "said"),
    [
        ("exit 1", "kind does not say which clusters there are"),
        ("echo mlpipeline", "there is a kind cluster `mlpipeline` already"),
    ],
)
def test_the_smoke_test_removes_no_cluster_that_it_has_not_made(
    tmp_path: Path, clusters: str, said: str
) -> None:
    calls = tmp_path / "calls"
    for program in ("kind", "make", "docker", "kubectl"):
        stub = tmp_path / program
        stub.write_text(f'#!/bin/sh\necho "{program} $*" >>{calls}\n{clusters}\n')
        stub.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts/smoke.sh"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert calls.read_text() == "kind get clusters\n"


@pytest.mark.parametrize(
    ("configuration", "parameters", "said"),
    [
        (
            "name: m\ndata: {revision: '{{workflow.name}}'}",
            [],
            "data: {revision: '{{workflow.name}}'}",
        ),
        ("name: m", ["workers=2", "model={{=1+1}}"], "the parameter `model` has double braces"),
    ],
)
def test_what_argo_would_evaluate_is_not_submitted(
    tmp_path: Path, configuration: str, parameters: list[str], said: str
) -> None:
    (tmp_path / "my.yaml").write_text(configuration)
    for program in ("argo", "kubectl"):
        stub = tmp_path / program
        stub.write_text(f'#!/bin/sh\necho "{program} $*" >>{tmp_path}/calls\n')
        stub.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts/submit.sh", "image:1", "predictor:1", tmp_path / "my.yaml", *parameters],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "to do: " in done.stderr
    assert not (tmp_path / "calls").exists()


KUBECTL = """#!/bin/bash
# Two models are served, a Service of the nodes' ports leads to the first.
echo "$*" >>$CALLS
case "$*" in
  *"get inferenceservices.serving.kserve.io"*) [[ -z $NO_MODELS ]] && printf '%s\\n' \
    "shirts   shirts-1   True" "shoes   shoes-1   True" || true ;;
  *"get service inference "*"inferenceservice}") echo -n shirts ;;
  *"get service inference "*".spec.type}") echo -n $TYPE ;;
  *"get service inference "*"nodePort}") echo -n 30080 ;;
  *"get service inference "*".ingress[0]"*) echo -n $BALANCER ;;
  *"get service inference "*"component}") echo -n predictor ;;
  *"get service shoes-address "*".spec.type}") echo -n NodePort ;;
  *"get service shoes-address "*"nodePort}") echo -n 31234 ;;
  *"get nodes"*) echo -n 172.18.0.2 ;;
  *"get inferenceservice shoes"*) echo -n uid-of-shoes ;;
  *"auth can-i create services"*) exit $STEWARD ;;
  *apply*) cat >$APPLIED ;;
  *) echo "unexpected: $*" >&2; exit 1 ;;
esac
"""


def list_models(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call `make models` on a cluster that only answers; what is applied is in a file."""
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "kubectl").chmod(0o755)
    told = {"CALLS": str(folder / "calls"), "APPLIED": str(folder / "applied.yaml")}
    return subprocess.run(
        [ROOT / "scripts/models.sh"],
        env=os.environ
        | {"PATH": f"{folder}:{os.environ['PATH']}", "TYPE": "NodePort", "NO_MODELS": ""}
        | {"BALANCER": "", "NAMESPACE": "here", "RELEASE": "ours", "STEWARD": "0"}
        | told
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_model_has_an_address_that_leads_to_it(tmp_path: Path) -> None:
    done = list_models(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["MODEL", "VERSION", "READY", "ADDRESS"],
        ["shirts", "shirts-1", "True", "http://127.0.0.1:30080"],
        ["shoes", "shoes-1", "True", "http://172.18.0.2:31234"],
    ]
    applied = yaml.safe_load((tmp_path / "applied.yaml").read_text())
    assert applied["metadata"]["name"] == "shoes-address"
    assert applied["metadata"]["labels"]["app.kubernetes.io/instance"] == "ours"
    (owner,) = applied["metadata"]["ownerReferences"]  # it goes with the model
    assert (owner["kind"], owner["name"], owner["uid"]) == (
        *("InferenceService", "shoes", "uid-of-shoes"),
    )
    assert applied["spec"]["selector"] == {
        "serving.kserve.io/inferenceservice": "shoes",
        "component": "predictor",
    }
    # The same ports as the one that a deployment brings, but for those that are one Service's.
    (service,) = yaml.safe_load_all(
        (ROOT / "manifests/components/node-port/service.yaml").read_text()
    )
    ports = [{k: v for k, v in p.items() if k != "nodePort"} for p in service["spec"]["ports"]]
    assert applied["spec"]["ports"] == ports
    assert applied["spec"]["type"] == service["spec"]["type"]


def test_who_may_not_make_an_address_is_told_of_a_tunnel(tmp_path: Path) -> None:
    done = list_models(tmp_path, STEWARD="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[2].split()[:3] == ["shoes", "shoes-1", "True"]
    assert "service/shoes-predictor" in done.stdout
    assert not (tmp_path / "applied.yaml").exists()


def test_where_addresses_are_not_free_a_model_has_a_tunnel(tmp_path: Path) -> None:
    done = list_models(tmp_path, TYPE="LoadBalancer", BALANCER="203.0.113.7")
    assert done.returncode == 0, done.stderr
    _, first, second = done.stdout.splitlines()
    assert first.endswith(" http://203.0.113.7")
    assert second.endswith("kubectl -n here port-forward service/shoes-predictor 9080:80")
    assert not (tmp_path / "applied.yaml").exists()


def test_without_a_model_it_says_so(tmp_path: Path) -> None:
    done = list_models(tmp_path, NO_MODELS="1")
    assert done.returncode == 1
    assert "no model is served in the namespace here" in done.stderr


def test_a_configuration_that_is_not_there_is_not_submitted(tmp_path: Path) -> None:
    command = [
        str(ROOT / "scripts/submit.sh"),
        "image:1",
        "predictor:1",
        str(tmp_path / "none.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"there is no file {tmp_path}/none.yaml" in done.stderr


ARGO = """#!/bin/bash
case $1 in
  submit)
    printf '%s\n' "$@" >$FOLDER/submitted
    while (($#)); do [[ $1 != --parameter-file ]] || cat "$2" >$FOLDER/parameters.yaml; shift; done
    echo mlpipeline-1 ;;
  logs) cat $FOLDER/log ;;
  wait) exit $FAILED ;;
  get) echo "✖ ingest(0)  OOMKilled (exit code 137)" ;;
esac
"""
LOG = """mlpipeline-1-plan: E0000 0 cuda.cc: All log messages before absl::InitializeLog() is called
mlpipeline-1-plan: done
mlpipeline-1-plan: time="2026-11-21T12:00:08Z" level=info msg="sub-process exited" argo=true
mlpipeline-1-plan: Error: exit status 1
"""


def run_script(
    folder: Path,
    name: str,
    *arguments: str,
    failed: bool = False,
    phase: str = "Running",
    models: str = "",
    starts_pods: bool = True,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Call a script where `argo` answers from a file, and kubectl hardly has anything to say."""
    (folder / "log").write_text(LOG)
    kubectl = f"""#!/bin/sh
case "$*" in
  *.status.phase*) echo {phase} ;;
  *"get inferenceservices"*) printf '%s' "$MODELS" ;;
  *"get inferenceservice shirts"*) echo shirts-1 ;;
  *"auth can-i create pods"*) exit $STEWARD ;;
  *"auth whoami"*) printf 'ann@example.com' ;;
  *" create "*) cat >$FOLDER/created.yaml; printf 'mlpipeline-1' ;;
  *"logs --selector workflows.argoproj.io/workflow=mlpipeline-1"*) cat $FOLDER/log ;;
esac
"""
    for program, text in {"argo": ARGO, "kubectl": kubectl}.items():
        (folder / program).write_text(text)
        (folder / program).chmod(0o755)
    return subprocess.run(
        [ROOT / "scripts" / name, *arguments],
        env=os.environ
        | {"PATH": f"{folder}:{os.environ['PATH']}", "FOLDER": str(folder)}
        | {"FAILED": str(int(failed)), "DEADLINE": "1", "MODELS": models}
        | {"STEWARD": str(int(not starts_pods))}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("kilobytes", [0, 200])
def test_a_configuration_of_any_size_arrives_as_it_is(tmp_path: Path, kilobytes: int) -> None:
    text = "name: m # “{” \\ 😀\n\n  \ndata:\n\t# x\n  - '|'\n" + "# padding\n" * (kilobytes * 100)
    (tmp_path / "my.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    done = run_script(tmp_path, "submit.sh", "image:1", "predictor:1", str(tmp_path / "my.yaml"))
    assert "mlpipeline-1 is submitted" in done.stdout, done.stderr
    parameters = yaml.safe_load((tmp_path / "parameters.yaml").read_text())
    assert parameters == {"configuration": text.rstrip("\n")}
    submitted = (tmp_path / "submitted").read_text()
    assert re.search(r"^by=\S+@\S+$", submitted, re.MULTILINE), "for the record of what is forced"


def test_a_configuration_that_no_workflow_holds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("# x\n" * 200_000)
    done = run_script(tmp_path, "submit.sh", "image:1", "predictor:1", str(tmp_path / "my.yaml"))
    assert done.returncode == 1
    assert "my.yaml has 800000 bytes\n  expected: 524288 at most" in done.stderr
    assert not (tmp_path / "parameters.yaml").exists()


def test_a_run_that_failed_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("name: m")
    done = run_script(
        tmp_path, "submit.sh", "image:1", "predictor:1", str(tmp_path / "my.yaml"), failed=True
    )
    assert done.returncode == 1
    *_, said, to_do = done.stdout.splitlines()
    assert said == "✖ ingest(0)  OOMKilled (exit code 137)"
    assert to_do.startswith("to do: raise the memory limit")


def created(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What kubectl was told to make, without its parameters; and those."""
    workflow = yaml.safe_load((folder / "created.yaml").read_text())
    parameters = workflow["spec"].pop("arguments", {}).get("parameters", ())
    return workflow, {each["name"]: each["value"] for each in parameters}


@pytest.mark.parametrize(
    "why", ['it\'s $(not) `for` coats: "\\n" #', "  two\nlines\n- name: image"]
)
def test_a_rollback_names_the_one_model_who_asks_and_why(tmp_path: Path, why: str) -> None:
    arguments = ("image:1", "predictor:1", "", "", why)
    done = run_script(tmp_path, "rollback.sh", *arguments, models="shirts")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "shirts is served by shirts-1"
    workflow, given = created(tmp_path)
    assert workflow["metadata"] == {"generateName": "rollback-"}
    assert workflow["spec"] == {"workflowTemplateRef": {"name": "rollback"}}
    assert given == {
        **{"image": "image:1", "predictor-image": "predictor:1", "model": "shirts", "version": ""},
        **{"by": "ann@example.com", "why": why, "force": ""},
    }


def test_who_may_not_start_pods_goes_back_by_the_images_of_the_deployment(tmp_path: Path) -> None:
    arguments = ("image:1", "predictor:1", "shirts")
    assert run_script(tmp_path, "rollback.sh", *arguments, starts_pods=False).returncode == 0
    _, given = created(tmp_path)
    assert given.keys() == {"model", "version", "by", "why", "force"}


def test_the_history_of_models_is_what_a_workflow_prints(tmp_path: Path) -> None:
    done = run_script(tmp_path, "models.sh", HISTORY="1")
    assert (done.returncode, done.stdout) == (0, "mlpipeline-1-plan: done\n")
    workflow, given = created(tmp_path)
    assert workflow["spec"] == {"workflowTemplateRef": {"name": "models"}}
    assert given == {}


def test_a_rollback_by_force_gives_the_reason(tmp_path: Path) -> None:
    arguments = ("image:1", "predictor:1", "shirts", "shirts-3", "it must", "1")
    assert run_script(tmp_path, "rollback.sh", *arguments).returncode == 0
    assert created(tmp_path)[1]["force"] == "it must"


@pytest.mark.parametrize(
    ("arguments", "models", "said"),
    [
        ((), "", "these models are served: none"),
        ((), "shirts shoes", "these models are served: shirts shoes"),
        (("shirts", "", "{{=1+1}}"), "shirts", "the parameter `why` has double braces"),
        (("shirts", "shirts-3", "", "1"), "shirts", "FORCE=1 without WHY="),
    ],
)
def test_a_rollback_that_is_not_clear_is_not_submitted(
    tmp_path: Path, arguments: tuple[str, ...], models: str, said: str
) -> None:
    done = run_script(tmp_path, "rollback.sh", "image:1", "predictor:1", *arguments, models=models)
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "created.yaml").exists()


def test_a_rollback_that_failed_says_why(tmp_path: Path) -> None:
    arguments = ("image:1", "predictor:1", "shirts")
    done = run_script(tmp_path, "rollback.sh", *arguments, failed=True)
    assert done.returncode == 1
    assert "mlpipeline-1 did not succeed" in done.stderr


@pytest.mark.parametrize(("dry", "said"), [((), "false"), (("true",), "true")])
def test_a_removal_says_how_many_runs_stay(tmp_path: Path, dry: tuple[str, ...], said: str) -> None:
    done = run_script(tmp_path, "gc.sh", "image:1", "20", *dry)
    assert done.returncode == 0, done.stderr
    submitted = (tmp_path / "submitted").read_text().splitlines()
    assert submitted[submitted.index("--from") + 1] == "workflowtemplate/gc"
    given = [value for option, value in pairwise(submitted) if option == "-p"]
    assert given == ["image=image:1", "keep-runs=20", f"dry-run={said}"]


@pytest.mark.parametrize("count", ["", "0", "-1", "many", "1 --dry-run"])
def test_a_removal_that_would_keep_no_run_is_not_submitted(tmp_path: Path, count: str) -> None:
    done = run_script(tmp_path, "gc.sh", "image:1", count)
    assert done.returncode == 1
    assert f"KEEP_RUNS={count}" in done.stderr
    assert not (tmp_path / "submitted").exists()


TOLD = 'hint() { printf \'%s\\n\' "$2" "$3"; }'
# Only events and the platform's state say these: a step's own errors have a remedy already.
OF_STATUS_ALONE = {
    "Insufficient |FailedScheduling",
    "Permission denied|Read-only file system",
}


def test_scripts_and_records_say_the_same_of_what_ended_a_step() -> None:
    """Each hint is told with its pattern, as `advise` calls it, whatever the text is."""
    done = subprocess.run(
        ["bash", "-c", f"source scripts/lib.sh; source scripts/advice.sh; {TOLD}; advise text"],
        cwd=ROOT,
        env=os.environ | {"NAMESPACE": "mine"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.replace("kubectl -n mine ", "kubectl ").splitlines()
    hints = dict(zip(said[::2], said[1::2], strict=True))
    assert hints.keys() > OF_STATUS_ALONE
    of_both = {pattern: to_do for pattern, to_do in hints.items() if pattern not in OF_STATUS_ALONE}
    assert of_both == {pattern: to_do for pattern, _, to_do in reasons.REMEDIES}


def test_a_run_that_nobody_begins_is_not_waited_for_without_end(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("name: m")
    done = run_script(
        tmp_path, "submit.sh", "image:1", "predictor:1", str(tmp_path / "my.yaml"), phase=""
    )
    assert done.returncode == 1
    # A second where it is asked for; on a busy machine the next look comes late.
    assert re.search(r"Argo has not begun mlpipeline-1 in \d s", done.stderr)


def test_logs_are_our_own_lines_alone(tmp_path: Path) -> None:
    done = run_script(tmp_path, "logs.sh")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        *("# the newest workflow", "mlpipeline-1-plan: done", "# the workers of training jobs"),
    ]


INSIDE = """#!/bin/bash
echo "$*" >>$FOLDER/calls
case "$*" in
  *create*) cat >$FOLDER/pod.yaml; echo pod/inside-1 ;;
  *"wait pod"*) exit $NOT_READY ;;
  *"get pod/inside-1"*) echo "ErrImagePull: no such image" ;;
  *"test -r /workspace/runs/gone/"*) exit 1 ;;
  *"ls -t /workspace/runs"*) echo "a b" ;;
  *cat*) echo "<html>" ;;
  *"sh -c"*) echo "said: ${!#}" ;;
esac
"""


def go_inside(
    folder: Path, *arguments: str, ready: bool = True
) -> subprocess.CompletedProcess[str]:
    (folder / "kubectl").write_text(INSIDE)
    (folder / "kubectl").chmod(0o755)
    told = {"FOLDER": str(folder), "NOT_READY": str(int(not ready))}
    done = subprocess.run(
        [ROOT / "scripts/inside.sh", "image:1", *arguments],
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"} | told,
        capture_output=True,
        text=True,
        check=False,
    )
    *_, last = (folder / "calls").read_text().splitlines()
    assert "delete pod/inside-1" in last
    return done


def test_a_command_sees_the_workspace_and_cannot_write_to_it(tmp_path: Path) -> None:
    done = go_inside(tmp_path, "run", "ls '/work space'")
    assert done.stdout == "said: ls '/work space'\n"
    spec = yaml.safe_load((tmp_path / "pod.yaml").read_text())["spec"]
    (container,) = spec["containers"]
    assert container["image"] == "image:1"
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert mounts["/workspace"]["readOnly"] is True
    assert spec["automountServiceAccountToken"] is False


def test_a_report_that_is_not_there_is_an_error_that_names_those_that_are(tmp_path: Path) -> None:
    done = go_inside(tmp_path, "fetch", "gone")
    assert done.returncode == 1
    assert "there is no runs/gone/report.html in the workspace" in done.stderr
    assert "one of these runs, the newest first: a b" in done.stderr


def test_a_pod_that_does_not_start_says_why_and_goes(tmp_path: Path) -> None:
    done = go_inside(tmp_path, "fetch", "mlpipeline-1", ready=False)
    assert done.returncode == 1
    assert "pod/inside-1 did not start: ErrImagePull" in done.stderr
