"""The YAML in manifests/: nothing orphaned, nothing missing, no right and no pod that goes too far.

What needs rendering is left out, and listed, where there is no kubectl; all else reads the files.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.not_tested import needs

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
BASE = MANIFESTS / "base"
WORKFLOWS = ROOT / "workflows"
OVERLAYS = sorted(p.name for p in (MANIFESTS / "overlays").iterdir())
COMPONENTS = sorted(p.name for p in (MANIFESTS / "components").iterdir() if p.is_dir())
OPTIONAL = {
    "gateway",
    "housekeeping",
    "drift",
    "monitoring-operator",
}  # in no overlay of ours: overlays/cloud says how to take it
OF_RELEASES = ("release", "any-node-port")  # scripts/apply.sh puts them on an overlay

STORAGE = ("kind-storage", "shared-storage")
WAYS_IN = ("node-port", "load-balancer", "gateway")
EXTRAS = (
    *("network-policies", "gpu", "kueue", "events", "drift"),
    *("mlflow", "housekeeping", "monitoring"),
)
OPERATORS = "monitoring-operator"  # in place of monitoring
BROUGHT = "workspace-metrics"  # by either of the two
SHARDED = "sharded-serving"  # it changes the way in, so it comes after that

NAMESPACE = "mlpipeline"
UNNAMESPACED = {"Namespace", "PersistentVolume", "ClusterQueue"}
# They are of the whole cluster, too; kustomize does not know and writes a namespace, in vain.
DROPPED_NAMESPACE = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
WATCHING = {"prometheus", "alertmanager", "workspace-metrics"}
VOLUMES = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"}

Manifest = dict[str, Any]


def _read(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _kustomizations() -> list[Path]:
    return sorted([*MANIFESTS.rglob("kustomization.yaml"), WORKFLOWS / "kustomization.yaml"])


def _references(kustomization: Path) -> Iterator[str]:
    """Yield every path, in this repository, that a kustomization names."""
    (content,) = _read(kustomization)
    yield from content.get("resources", [])
    yield from content.get("components", [])
    yield from (patch["path"] for patch in content.get("patches", []) if "path" in patch)
    yield from (made["path"] for made in content.get("replacements", []) if "path" in made)
    for generator in content.get("configMapGenerator", []):
        yield from (file.split("=")[-1] for file in generator.get("files", []))


def _ours() -> list[tuple[Path, Manifest]]:
    """Return every object in the files of base, components, overlays and workflows."""
    files = [
        p for part in ("base", "components", "overlays") for p in (MANIFESTS / part).rglob("*")
    ]
    return [
        (path, document)
        for path in [*files, *WORKFLOWS.glob("*.yaml")]
        if path.suffix == ".yaml" and path.name != "kustomization.yaml"
        for document in _read(path)
        if isinstance(document, dict)  # and not a list of replacements
    ]


def _roles() -> list[Manifest]:
    return [document for _, document in _ours() if document.get("kind") == "Role"]


def test_every_path_that_a_kustomization_names_is_there() -> None:
    missing = [
        f"{kustomization.relative_to(ROOT)}: {reference}"
        for kustomization in _kustomizations()
        for reference in _references(kustomization)
        if not reference.startswith("https://") and not (kustomization.parent / reference).exists()
    ]
    assert missing == []


def test_every_file_is_reached_from_an_overlay_or_from_the_platform() -> None:
    roots = [
        *(MANIFESTS / "overlays").iterdir(),
        *(MANIFESTS / "platform").iterdir(),
        *(MANIFESTS / "components" / name for name in (*OPTIONAL, *OF_RELEASES)),
    ]
    reached: set[Path] = set()
    folders = [root.resolve() for root in roots]
    while folders:
        kustomization = folders.pop() / "kustomization.yaml"
        if kustomization in reached:
            continue
        reached.add(kustomization)
        for reference in _references(kustomization):
            if not reference.startswith("https://"):
                path = (kustomization.parent / reference).resolve()
                if path.is_dir():
                    folders.append(path)
                else:
                    reached.add(path)
    orphans = set(MANIFESTS.resolve().rglob("*.yaml")) - reached
    assert orphans == set()


def test_every_component_is_explained() -> None:
    page = (MANIFESTS / "components" / "README.md").read_text()
    assert set(re.findall(r"\[`[\w-]+`\]\(([\w-]+)\)", page)) == set(COMPONENTS)


def test_what_is_optional_is_in_no_overlay_and_is_mentioned_in_one() -> None:
    (cloud,) = _read(MANIFESTS / "overlays" / "cloud" / "kustomization.yaml")
    for name in OPTIONAL:
        assert not any(name in reference for reference in cloud["components"])
        assert name in (MANIFESTS / "overlays" / "cloud" / "kustomization.yaml").read_text()


@pytest.mark.parametrize("path", sorted(MANIFESTS.rglob("*.yaml")), ids=lambda p: p.name)
def test_every_file_introduces_itself(path: Path) -> None:
    assert re.match(r"# \S+ \S+ \S+", path.read_text())


def test_remote_bases_and_images_are_pinned() -> None:
    for kustomization in _kustomizations():
        (content,) = _read(kustomization)
        for reference in content.get("resources", []):
            if reference.startswith("https://"):
                assert re.search(r"\?ref=v\d+\.\d+\.\d+(&timeout=\d+s)?$", reference), reference
        for image in content.get("images", []):
            assert re.fullmatch(r"v\d+\.\d+\.\d+", image["newTag"]), image


def test_nothing_is_pulled_always_and_no_tag_is_latest() -> None:
    for path in [*MANIFESTS.rglob("*"), *WORKFLOWS.glob("*.yaml")]:
        if path.is_file():
            text = path.read_text()
            assert ":latest" not in text, path
            assert not re.search(r"imagePullPolicy: *Always", text), path


def test_roles_name_what_they_allow_and_are_of_the_namespace() -> None:
    kinds = {document.get("kind") for _, document in _ours()}
    assert not {"ClusterRole", "ClusterRoleBinding"} & kinds
    for role in _roles():
        for rule in role["rules"]:
            allowed = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert "*" not in allowed, role["metadata"]["name"]


def test_every_rule_gives_its_reason() -> None:
    files = {path for path, document in _ours() if document.get("kind") == "Role"}
    lines = [line for path in files for line in path.read_text().splitlines()]
    rules = [n for n, line in enumerate(lines) if line.startswith("  - apiGroups:")]
    assert len(rules) == sum(len(role["rules"]) for role in _roles())
    assert [lines[n] for n in rules if not lines[n - 1].startswith("  # ")] == []


def test_secrets_cannot_be_read_and_pods_cannot_be_entered() -> None:
    resources = {r for role in _roles() for rule in role["rules"] for r in rule["resources"]}
    assert not resources & {"secrets", "pods/exec", "pods/attach", "serviceaccounts/token", "roles"}
    changed = [
        rule
        for role in _roles()
        for rule in role["rules"]
        if "configmaps" in rule["resources"] and rule.get("resourceNames") != ["memo"]
    ]
    assert changed == []


def test_the_namespace_enforces_restricted() -> None:
    (namespace,) = _read(BASE / "namespace.yaml")
    labels = namespace["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"


def test_a_new_deployment_keeps_what_argo_remembers() -> None:
    (memo,) = _read(BASE / "memo.yaml")
    assert "data" not in memo
    assert memo["metadata"]["labels"]["workflows.argoproj.io/configmap-type"] == "Cache"


def _pods() -> dict[str, tuple[Manifest, list[Manifest]]]:
    """Return the specification and the containers of every pod of ours, by a name for it."""
    (job,) = _read(BASE / "templates" / "tfjob.yaml")
    (service,) = _read(BASE / "templates" / "inference-service.yaml")
    sharded = MANIFESTS / "components" / "sharded-serving" / "inference-service.patch.yaml"
    (patch,) = _read(sharded)
    components = MANIFESTS / "components"
    deployments = {
        "mlflow": components / "mlflow" / "server.yaml",
        "prometheus": components / "monitoring" / "prometheus.yaml",
        "alertmanager": components / "monitoring" / "alertmanager.yaml",
        "workspace-metrics": components / "workspace-metrics" / "exporter.yaml",
    }
    pods = {
        name: _read(file)[0]["spec"]["template"]["spec"] for name, file in deployments.items()
    } | {
        "worker": job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"],
        "predictor": service["spec"]["predictor"],
        "front": patch["spec"]["transformer"],
    }
    found = {
        name: (spec, [*spec.get("initContainers", ()), *spec["containers"]])
        for name, spec in pods.items()
    }
    for path, document in _ours():
        if document.get("kind") in ("Workflow", "WorkflowTemplate"):
            spec = document["spec"]
            containers = [t["container"] for t in spec["templates"] if "container" in t]
            assert containers
            found[path.name] = (spec, containers)
    return found


@pytest.mark.parametrize("name", _pods())
def test_every_pod_of_ours_meets_restricted(name: str) -> None:
    pod, containers = _pods()[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    # Of the pipeline, or nobody: what watches it is not to read all of the workspace.
    assert pod["securityContext"]["runAsUser"] == (65534 if name in WATCHING else 1000)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    for volume in pod.get("volumes", []):
        assert volume.keys() - {"name"} <= VOLUMES, volume
    for container in containers:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert "requests" in container["resources"]
        assert "memory" in container["resources"]["limits"]


def test_service_accounts_that_are_used_exist_and_three_have_a_token() -> None:
    accounts = {
        d["metadata"]["name"]: d.get("automountServiceAccountToken", True)
        for d in _read(BASE / "service-accounts.yaml")
        if d["kind"] == "ServiceAccount"
    }
    assert [name for name, mounted in accounts.items() if mounted] == ["pipeline", "retrain", "gc"]
    text = "\n".join(p.read_text() for p in [*BASE.rglob("*.yaml"), *WORKFLOWS.glob("*.yaml")])
    assert set(re.findall(r"serviceAccountName: (\S+)", text)) <= accounts.keys()
    bound = {
        subject["name"]
        for _, document in _ours()
        if document.get("kind") == "RoleBinding"
        for subject in document["subjects"]
    }
    # argo: the controller's own; sender: of the component `events`.
    people = {"viewer", "sender", "steward"}
    assert bound == {"executor", "pipeline", "retrain", "gc", "argo", *people}


def _policy(path: Path) -> tuple[Manifest, str]:
    """Return an admission policy, and the first of its expressions."""
    policy, binding = _read(path)
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    return policy["spec"], policy["spec"]["validations"][0]["expression"]


def test_the_steward_may_start_what_the_role_names_and_choose_a_version_and_nothing_else() -> None:
    policy, expression = _policy(BASE / "steward-policy.yaml")
    spec, templates, _, parameters = (
        re.findall(r"'(\w+)'", listed) for listed in re.findall(r" in \[([^\]]+)\]", expression)
    )
    assert set(spec) == {"workflowTemplateRef", "arguments"}
    (role,) = (role for role in _roles() if role["metadata"]["name"] == "steward")
    (submits,) = (rule for rule in role["rules"] if "submit" in rule["verbs"])
    assert set(templates) == set(submits["resourceNames"])
    for name in templates:
        (template,) = _read(WORKFLOWS / f"{name}.yaml")
        assert template["metadata"]["name"] == name
    (rollback,) = _read(WORKFLOWS / "rollback.yaml")
    takes = {parameter["name"] for parameter in rollback["spec"]["arguments"]["parameters"]}
    assert set(parameters) == takes - {"image", "predictor-image", "pending-seconds"}
    assert "by" in parameters
    first = policy["matchConditions"][0]["expression"]
    assert ".resource('workflowtemplates').name('rollback')" in first
    assert ".check('submit')" in first


@pytest.mark.parametrize(
    "path", ["base/steward-policy.yaml", "components/events/sender-policy.yaml"]
)
def test_who_may_start_templates_alone_gives_argo_no_status_to_take_them_from(path: str) -> None:
    _, expression = _policy(MANIFESTS / path)
    assert re.search(r"!has\(object\.status\)|object\.\?status\.orValue\(\{\}\)\.all\(", expression)


def test_what_deploy_fills_in_is_what_the_patch_leaves_open() -> None:
    patch = (MANIFESTS / "platform" / "kserve" / "ca-bundle.patch.yaml").read_text()
    bundles = re.findall(r"caBundle: (.*)}", patch)
    assert len(bundles) == 7
    assert set(bundles) == {'"@CA_BUNDLE@"'}
    assert "s|@CA_BUNDLE@|" in (ROOT / "scripts" / "platform.sh").read_text()


def test_no_controller_of_the_platform_can_take_all_memory_of_its_node() -> None:
    limits: dict[str, list[str]] = {}
    for path in (MANIFESTS / "platform").rglob("*.patch.yaml"):
        for document in _read(path):
            if not isinstance(document, dict) or document["kind"] != "Deployment":
                continue
            for container in document["spec"]["template"]["spec"].get("containers", ()):
                memory = container.get("resources", {}).get("limits", {}).get("memory")
                limits.setdefault(document["metadata"]["name"], []).extend([memory] * bool(memory))
    assert limits.keys() == {
        *("workflow-controller", "argo-server", "training-operator", "metrics-server"),
        *("kserve-controller-manager", "kueue-controller-manager"),
    }
    assert {name: len(memory) for name, memory in limits.items()} == dict.fromkeys(limits, 1)


def test_no_free_text_of_a_run_is_put_into_an_argument() -> None:
    """What people write is in the parameters configuration, model, candidates; and in events."""
    given = re.compile(r"\{\{workflow\.parameters\.([\w-]+)\}\}")
    for path, document in _ours():
        if document.get("kind") in ("Workflow", "WorkflowTemplate"):
            text = yaml.safe_dump(document["spec"]["templates"], width=10_000)
            assert "{{=" not in text, path
            assert set(given.findall(text)) <= {
                *("image", "predictor-image"),
                *("pending-seconds", "queue", "priority", "queue-seconds"),
                *("keep-runs", "dry-run"),  # the command takes a number, and true or false
                *("images", "false-alarms", "cool-down"),  # numbers
                "event",  # in base64: tests/unit/test_event_bindings.py
            }


# --- Queues ---


def _queues() -> dict[str, list[Manifest]]:
    """Return every object of the component kueue, and the flavors, by its kind."""
    classes = MANIFESTS / "platform" / "kueue-classes" / "flavors.yaml"
    documents = [*_read(MANIFESTS / "components" / "kueue" / "queues.yaml"), *_read(classes)]
    return {
        kind: [d for d in documents if d["kind"] == kind] for kind in {d["kind"] for d in documents}
    }


def test_every_queue_leads_somewhere_and_every_quota_is_of_a_flavor_that_there_is() -> None:
    queues = _queues()
    names = {queue["metadata"]["name"] for queue in queues["ClusterQueue"]}
    assert {local["spec"]["clusterQueue"] for local in queues["LocalQueue"]} == names
    flavors = {flavor["metadata"]["name"] for flavor in queues["ResourceFlavor"]}
    for queue in queues["ClusterQueue"]:
        for group in queue["spec"]["resourceGroups"]:
            assert {flavor["name"] for flavor in group["flavors"]} <= flavors


def test_teams_are_treated_alike_but_for_their_quotas() -> None:
    first, *others = (queue["spec"] for queue in _queues()["ClusterQueue"])
    assert others
    for other in others:
        assert first | {"resourceGroups": []} == other | {"resourceGroups": []}


def test_every_resource_that_a_worker_asks_for_has_a_quota() -> None:
    asked = set()
    templates = [BASE / "templates" / "tfjob.yaml", MANIFESTS / "components/gpu/tfjob.patch.yaml"]
    for (job,) in map(_read, templates):
        for container in job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]:
            resources = container["resources"]
            asked |= resources.get("requests", {}).keys() | resources.get("limits", {}).keys()
    for queue in _queues()["ClusterQueue"]:
        (group,) = queue["spec"]["resourceGroups"]
        assert set(group["coveredResources"]) == asked


def test_a_run_that_names_no_queue_is_in_one_that_there_is() -> None:
    (patch,) = _read(MANIFESTS / "components" / "kueue" / "tfjob.queue.patch.yaml")
    locals_ = {queue["metadata"]["name"] for queue in _queues()["LocalQueue"]}
    assert patch["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] in locals_


def test_kueue_has_the_configuration_that_it_mounts_and_minds_tfjobs_alone() -> None:
    (patch,) = _read(MANIFESTS / "platform" / "kueue" / "config.patch.yaml")
    config = yaml.safe_load(patch["data"]["controller_manager_config.yaml"])
    assert config["manageJobsWithoutQueueName"] is False
    assert config["integrations"]["frameworks"] == ["kubeflow.org/tfjob"]
    assert config["fairSharing"]["enable"] is True


# --- Rendered ---

needs_kubectl = needs("kubectl", to_do="https://kubernetes.io/docs/tasks/tools")


def _render(folder: Path) -> list[Manifest]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@functools.cache
def _identities_of_base() -> frozenset[tuple[str, str]]:
    return frozenset((d["kind"], d["metadata"]["name"]) for d in _render(BASE))


def _check_rendered(documents: list[Manifest]) -> None:
    identities = [(d["kind"], d["metadata"]["name"]) for d in documents]
    assert len(set(identities)) == len(identities)
    for document in documents:
        metadata = document["metadata"]
        assert metadata["labels"]["app.kubernetes.io/part-of"] == "mlpipeline", metadata
        expected = None if document["kind"] in UNNAMESPACED else NAMESPACE
        if document["kind"] not in DROPPED_NAMESPACE:
            assert metadata.get("namespace") == expected, metadata


def _one(documents: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name))
    return found


def _check_way_in(documents: list[Manifest], *, sharded: bool) -> None:
    """The model's address leads to its replicas, or to the front that knows where they are."""
    model = {"serving.kserve.io/inferenceservice": "fashion-mnist"}
    replicas, front = model | {"component": "predictor"}, model | {"component": "transformer"}
    inference = _one(documents, "Service", "inference")["spec"]
    assert inference["selector"] == (front if sharded else replicas)
    shards = [d["spec"] for d in documents if d["metadata"]["name"] == "shards"]
    assert [s["selector"] for s in shards] == ([replicas] if sharded else [])
    assert all(s["clusterIP"] == "None" for s in shards)
    templates = _one(documents, "ConfigMap", "templates")["data"]
    assert ("inference-service.patch.yaml" in templates) is sharded


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_renders(overlay: str) -> None:
    documents = _render(MANIFESTS / "overlays" / overlay)
    _check_rendered(documents)
    assert "set-by-the-overlay" not in yaml.safe_dump_all(documents)
    templates = _one(documents, "ConfigMap", "templates")["data"]
    assert ("tfjob.patch.yaml" in templates) is (overlay == "gpu")
    assert ("tfjob.queue.patch.yaml" in templates) is (overlay == "queued")
    _check_way_in(documents, sharded=overlay == "sharded")


@needs_kubectl
def test_the_parameters_of_a_cloud_reach_their_places() -> None:
    folder = MANIFESTS / "overlays" / "cloud"
    (parameters,) = _read(folder / "parameters.yaml")
    documents = _render(folder)
    claim = _one(documents, "PersistentVolumeClaim", "workspace")
    assert claim["spec"]["storageClassName"] == parameters["data"]["storageClass"]
    arguments = _one(documents, "WorkflowTemplate", "mlpipeline")["spec"]["arguments"]
    given = {p["name"]: p["value"] for p in arguments["parameters"]}
    assert given["image"] == parameters["data"]["image"]
    assert given["predictor-image"] == parameters["data"]["predictorImage"]
    assert ("ConfigMap", "parameters") not in {
        (d["kind"], d["metadata"]["name"]) for d in documents
    }


def _combinations() -> Iterator[tuple[str, ...]]:
    """Any two components together, and each extra without the others; all subsets are too many."""
    for storage, way_in, more in itertools.product(STORAGE, WAYS_IN, [(), EXTRAS]):
        yield (storage, way_in, *more)
    for extra in EXTRAS:
        yield (STORAGE[0], WAYS_IN[0], extra)
    for way_in in WAYS_IN:
        yield (STORAGE[0], way_in, *EXTRAS, SHARDED)
    yield (STORAGE[0], WAYS_IN[0], OPERATORS)


def test_the_combinations_below_are_of_all_components() -> None:
    combined = [*STORAGE, *WAYS_IN, *EXTRAS, SHARDED, OPERATORS]
    assert sorted([*combined, BROUGHT, *OF_RELEASES]) == COMPONENTS


@needs_kubectl
@pytest.mark.parametrize("components", _combinations(), ids="+".join)
def test_base_renders_with_components_combined(components: tuple[str, ...], tmp_path: Path) -> None:
    def relative(path: Path) -> str:  # kustomize takes no absolute ones
        return os.path.relpath(path.resolve(), tmp_path.resolve())

    kustomization = {
        "resources": [relative(BASE)],
        "components": [relative(MANIFESTS / "components" / name) for name in components],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    documents = _render(tmp_path)
    assert _identities_of_base() <= {(d["kind"], d["metadata"]["name"]) for d in documents}
    _check_way_in(documents, sharded=SHARDED in components)
    claim = _one(documents, "PersistentVolumeClaim", "workspace")["spec"]
    assert "storageClassName" in claim
    policies = [d for d in documents if d["kind"] == "NetworkPolicy"]
    assert bool(policies) is ("network-policies" in components)
    templates = _one(documents, "ConfigMap", "templates")["data"]
    assert ("tfjob.patch.yaml" in templates) is ("gpu" in components)
    assert ("tfjob.queue.patch.yaml" in templates) is ("kueue" in components)
    bindings = [d for d in documents if d["kind"] == "WorkflowEventBinding"]
    assert bool(bindings) is ("events" in components)
    cron = _one(documents, "CronWorkflow", "gc")["spec"]
    assert cron["suspend"] is ("housekeeping" not in components), "nothing is removed by default"
    assert cron["workflowSpec"]["workflowTemplateRef"] == {"name": "gc"}


def test_the_image_of_mlflows_server_is_of_the_version_that_the_steps_have() -> None:
    server, _ = _read(MANIFESTS / "components" / "mlflow" / "server.yaml")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    version = container["image"].removeprefix("mlpipeline-tracking:")
    for lock in ("requirements.lock", "docker/requirements-cpu.lock"):
        assert f"\nmlflow-skinny=={version} " in (ROOT / lock).read_text()
    tracking = (ROOT / "docker" / "requirements-tracking.lock").read_text()
    assert f"\nmlflow=={version} " in tracking, "`make lock` follows docker/tracking.in"


@needs_kubectl
def test_the_pod_that_reads_the_workspace_has_the_image_of_the_steps(tmp_path: Path) -> None:
    for folder in (MANIFESTS, WORKFLOWS):
        shutil.copytree(folder, tmp_path / folder.name)
    cloud = tmp_path / "manifests" / "overlays" / "cloud"
    (parameters,) = _read(cloud / "parameters.yaml")
    listed = (cloud / "kustomization.yaml").read_text()
    taken = listed.replace("components:\n", "components:\n  - ../../components/monitoring\n")
    (cloud / "kustomization.yaml").write_text(taken)
    pod = _one(_render(cloud), "Deployment", BROUGHT)["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == parameters["data"]["image"]


@needs_kubectl
def test_the_names_that_prometheus_looks_up_are_those_of_services() -> None:
    config = yaml.safe_load(
        (MANIFESTS / "components" / "monitoring" / "prometheus-config.yaml").read_text()
    )
    models, workspace = config["scrape_configs"]
    (discovery,) = models["dns_sd_configs"]
    documents = _render(MANIFESTS / "overlays" / "monitored")
    for name in discovery["names"]:
        service = _one(documents, "Service", name)["spec"]
        assert service["clusterIP"] == "None"
        assert service["publishNotReadyAddresses"] is True
        assert service["ports"][0]["port"] == discovery["port"]
    targets = [
        *workspace["static_configs"][0]["targets"],
        *config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"],
    ]
    for target in targets:
        name, _, port = target.partition(":")
        service = _one(documents, "Service", name)["spec"]
        assert service["ports"][0]["port"] == int(port)
        pods = _one(documents, "Deployment", name)["spec"]["template"]
        assert service["selector"].items() <= pods["metadata"]["labels"].items()
        (port_of_pod,) = pods["spec"]["containers"][0]["ports"]
        assert port_of_pod == {
            "name": service["ports"][0]["targetPort"],
            "containerPort": int(port),
        }


def test_the_operator_scrapes_the_same_jobs_by_ports_that_the_pods_have() -> None:
    components = MANIFESTS / "components"
    config = yaml.safe_load((components / "monitoring" / "prometheus-config.yaml").read_text())
    monitors = _read(components / "monitoring-operator" / "pod-monitors.yaml")
    endpoints = [endpoint for m in monitors for endpoint in m["spec"]["podMetricsEndpoints"]]
    jobs = [
        relabeling["replacement"]
        for endpoint in endpoints
        for relabeling in endpoint["relabelings"]
        if relabeling.get("targetLabel") == "job"
    ]
    assert jobs == [job["job_name"] for job in config["scrape_configs"]]
    pods = _pods()
    ports = [
        {port["name"] for container in pods[name][1] for port in container["ports"]}
        for name in ("predictor", BROUGHT)
    ]
    assert all(e["port"] in names for e, names in zip(endpoints, ports, strict=True))


@needs_kubectl
def test_base_renders_alone() -> None:
    _check_rendered(_render(BASE))
