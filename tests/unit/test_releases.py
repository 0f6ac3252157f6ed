"""Two releases in one cluster: what is rendered for them meets nowhere, nor names the other."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = sorted(p.name for p in (ROOT / "manifests" / "overlays").iterdir())
CLUSTER_WIDE = {
    *("Namespace", "PersistentVolume", "ClusterQueue"),
    *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
}
DEFAULT = {"NAMESPACE": "mlpipeline", "RELEASE": "mlpipeline"}
OTHER = {"NAMESPACE": "other-space", "RELEASE": "test-second"}

Manifest = dict[str, Any]

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None,
    reason="NOT TESTED: kubectl is not installed, so no release was rendered; install kubectl",
)


def _bash(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"source scripts/lib.sh; {script}"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@functools.cache
def _rendered(overlay: str, namespace: str, release: str) -> str:
    script = f"source scripts/apply.sh; render_release overlays/{overlay}"
    done = _bash(script, NAMESPACE=namespace, RELEASE=release)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def _objects(overlay: str, release: dict[str, str]) -> list[Manifest]:
    text = _rendered(overlay, release["NAMESPACE"], release["RELEASE"])
    return [document for document in yaml.safe_load_all(text) if document]


def _identity(document: Manifest) -> tuple[str, str, str]:
    metadata = document["metadata"]
    is_wide = document["kind"] in CLUSTER_WIDE  # kustomize writes a namespace on some, in vain
    return document["kind"], "" if is_wide else metadata["namespace"], metadata["name"]


def _node_ports(documents: list[Manifest]) -> set[int]:
    services = (d for d in documents if d["kind"] == "Service")
    return {p["nodePort"] for s in services for p in s["spec"]["ports"] if "nodePort" in p}


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_two_releases_have_no_object_and_no_port_in_common(overlay: str) -> None:
    first, second = _objects(overlay, DEFAULT), _objects(overlay, OTHER)
    assert len(first) == len(second)
    assert not {_identity(d) for d in first} & {_identity(d) for d in second}
    assert not _node_ports(first) & _node_ports(second)
    volumes = [
        d["spec"]["hostPath"]["path"] for d in first + second if d["kind"] == "PersistentVolume"
    ]
    assert len(set(volumes)) == len(volumes)


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_object_bears_the_name_of_its_release(overlay: str) -> None:
    for release in (DEFAULT, OTHER):
        for document in _objects(overlay, release):
            labels = document["metadata"]["labels"]
            assert labels["app.kubernetes.io/instance"] == release["RELEASE"], document


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_reference_leads_into_the_namespace_of_the_other(overlay: str) -> None:
    for document in _objects(overlay, OTHER):
        if document["kind"] == "ConfigMap":
            continue  # of templates, with their comments
        text = yaml.safe_dump(document)
        for mention in ("namespace: mlpipeline", "serviceaccount:mlpipeline", "name: mlpipeline-"):
            assert mention not in text, text
        for subject in document.get("subjects", ()):
            assert subject["namespace"] == OTHER["NAMESPACE"]
        if document["kind"] == "PersistentVolume":
            assert document["spec"]["claimRef"]["namespace"] == OTHER["NAMESPACE"]
        if "braces" in document["metadata"]["name"] and "spec" in document:
            constraints = document["spec"].get("matchConstraints")
            if constraints:  # and not the binding
                (namespace,) = constraints["namespaceSelector"]["matchLabels"].values()
                assert namespace == OTHER["NAMESPACE"]
        if document["kind"] == "ClusterQueue":
            (namespace,) = document["spec"]["namespaceSelector"]["matchLabels"].values()
            assert namespace == OTHER["NAMESPACE"]
            assert document["spec"]["cohort"] == OTHER["RELEASE"]


@needs_kubectl
def test_queues_of_a_namespace_lead_to_those_of_its_release() -> None:
    documents = _objects("queued", OTHER)
    of_cluster = {d["metadata"]["name"] for d in documents if d["kind"] == "ClusterQueue"}
    assert of_cluster == {"test-second-team-a", "test-second-team-b"}
    led_to = {d["spec"]["clusterQueue"] for d in documents if d["kind"] == "LocalQueue"}
    assert led_to == of_cluster


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_default_release_is_the_overlay_with_its_name_on_it(overlay: str) -> None:
    plain = subprocess.run(
        ["kubectl", "kustomize", f"manifests/overlays/{overlay}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    released = _objects(overlay, DEFAULT)
    for document in released:
        del document["metadata"]["labels"]["app.kubernetes.io/instance"]
        if document["kind"] == "ClusterQueue":  # kustomize does not know that it has none
            del document["metadata"]["namespace"]

    def by_identity(documents: list[Manifest]) -> dict[tuple[str, str, str], Manifest]:
        return {_identity(document): document for document in documents}

    assert by_identity(released) == by_identity(list(yaml.safe_load_all(plain.stdout)))


@pytest.mark.parametrize("name", ["Upper", "a_b", "-a", "a-", "a.b", "x" * 41])
def test_a_name_that_no_object_can_have_is_refused(name: str) -> None:
    done = _bash("true", NAMESPACE="mlpipeline", RELEASE=name)
    assert done.returncode == 1
    assert name in done.stderr
    assert "to do: " in done.stderr


def test_the_release_is_named_after_its_namespace_unless_told_otherwise() -> None:
    assert _bash('echo "$NAMESPACE $RELEASE"', NAMESPACE="a", RELEASE="").stdout == "a a\n"
    assert _bash('echo "$NAMESPACE $RELEASE"', NAMESPACE="", RELEASE="").stdout == (
        "mlpipeline mlpipeline\n"
    )
