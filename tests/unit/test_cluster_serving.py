"""The InferenceService of a version: its manifest, and when it counts as rolled out."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlpipeline.backends.cluster import inference_service, manifests, pods, rollout, snapshots
from mlpipeline.backends.cluster.api import Manifest
from mlpipeline.errors import (
    ClusterError,
    ClusterUnreachableError,
    ConfigurationError,
    StoppedError,
)
from support.fake_cluster import Clock, FakeCluster, pod, unschedulable, waiting
from support.operators import READY, OperatedCluster

TEMPLATES = Path(__file__).parents[2] / "manifests" / "base" / "templates"
NAME = "fashion-mnist"
LABELS = {"serving.kserve.io/inferenceservice": NAME}
OLD, NEW = "mlpipeline:1", "mlpipeline:2"
OUT_OF_MEMORY = {"lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}
CONTENT = "0123456789abcdef"
VERSION, OTHER = "fashion-mnist-0123456789abcdef", "fashion-mnist-fedcba9876543210"


def _complete(
    template: Manifest | None = None,
    replicas: int = 2,
    image: str = NEW,
    content: str = CONTENT,
    version: str = VERSION,
    code: str = "code",
    **others: Any,
) -> Manifest:
    return inference_service.complete(
        template or manifests.load(TEMPLATES, "inference-service"),
        name=NAME,
        version=version,
        content=content,
        code=code,
        image=image,
        arguments=["predictor", "--version", version],
        reads=Path("models", NAME),
        replicas=replicas,
        **others,
    )


def _container(service: Manifest, name: str = "kserve-container") -> Manifest:
    containers = service["spec"]["predictor"]["containers"]
    found: Manifest = next(c for c in containers if c["name"] == name)
    return found


# --- the manifest -----------------------------------------------------------------------------


def test_a_service_is_completed_with_what_a_run_knows() -> None:
    service = _complete()
    assert service["metadata"]["name"] == NAME
    annotations = service["metadata"]["annotations"]
    assert annotations["mlpipeline/version"] == VERSION
    assert annotations["serving.kserve.io/deploymentMode"] == "Standard"
    assert service["spec"]["predictor"]["minReplicas"] == 2
    assert _container(service)["image"] == NEW
    assert _container(service)["args"] == ["predictor", "--version", VERSION]
    assert "ownerReferences" not in service["metadata"], "it outlives the run that published it"


def test_why_litert_does_not_serve_is_written_on_the_service() -> None:
    reason = "LiteRT cannot: it has no operation Odd"
    noted = _complete(why_tensorflow=reason)["metadata"]["annotations"]
    assert noted["mlpipeline/why-tensorflow"] == reason
    assert "mlpipeline/why-tensorflow" not in _complete()["metadata"]["annotations"]


def test_a_replica_sees_the_folder_of_its_model_alone_and_cannot_change_it() -> None:
    (mount,) = (m for m in _container(_complete())["volumeMounts"] if m["name"] == "workspace")
    assert mount["mountPath"] == f"/workspace/models/{NAME}"
    assert mount["subPath"] == f"models/{NAME}"
    assert mount["readOnly"] is True


def test_a_replica_that_logs_requests_may_write_to_their_folder_and_to_nothing_else() -> None:
    service = _complete(writes=Path("requests", NAME))
    mounts = [m for m in _container(service)["volumeMounts"] if m["name"] == "workspace"]
    assert [(m["mountPath"], m["subPath"], m["readOnly"]) for m in mounts] == [
        (f"/workspace/models/{NAME}", f"models/{NAME}", True),
        (f"/workspace/requests/{NAME}", f"requests/{NAME}", False),
    ]


def test_a_template_without_a_workspace_is_an_error() -> None:
    template = manifests.load(TEMPLATES, "inference-service")
    del _container(template)["volumeMounts"]
    with pytest.raises(ConfigurationError, match="mounts no volume `workspace`"):
        _complete(template)


def test_a_workspace_that_is_a_part_of_its_volume_stays_one() -> None:
    template = manifests.load(TEMPLATES, "inference-service")
    (mount,) = (m for m in _container(template)["volumeMounts"] if m["name"] == "workspace")
    mount["subPath"] = "team-a"
    (made,) = (m for m in _container(_complete(template))["volumeMounts"] if "subPath" in m)
    assert made["subPath"] == f"team-a/models/{NAME}"


def test_what_a_variant_changes_gives_way_to_a_patch(tmp_path: Path) -> None:
    """Who has set more memory by a patch has it whatever serves a model."""

    def file(name: str, memory: str) -> None:
        spec = {"containers": [{"name": "kserve-container", "memory": memory}]}
        _write(tmp_path, name, yaml.safe_dump({"spec": {"predictor": spec}}))

    def memory(variant: str) -> str:
        service = manifests.load(tmp_path, "inference-service", variant=variant)
        return str(_container(service)["memory"])

    file("inference-service.yaml", "little")
    file("inference-service.tensorflow.yaml", "more")
    assert [memory(variant) for variant in ("litert", "tensorflow", "")] == [
        "little",
        "more",
        "little",
    ]
    file("inference-service.mine.patch.yaml", "most")
    assert [memory(variant) for variant in ("litert", "tensorflow")] == ["most", "most"]


def test_the_template_and_its_sidecars_stay_as_they_are() -> None:
    template = manifests.load(TEMPLATES, "inference-service")
    sidecar = {"name": "proxy", "image": "proxy:2"}
    template["spec"]["predictor"]["containers"].append(sidecar)
    untouched = copy.deepcopy(template)
    assert _container(_complete(template), "proxy") == sidecar
    assert template == untouched


@pytest.mark.parametrize(("limit", "replicas", "expected"), [(4, 2, 4), (4, 6, 6), (None, 3, 3)])
def test_there_may_be_more_replicas_than_configured_never_fewer(
    limit: int | None, replicas: int, expected: int
) -> None:
    template = manifests.load(TEMPLATES, "inference-service")
    del template["spec"]["predictor"]["maxReplicas"]
    if limit:
        template["spec"]["predictor"]["maxReplicas"] = limit
    predictor = _complete(template, replicas)["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (replicas, expected)


# --- the roll-out -----------------------------------------------------------------------------


def new_pod(name: str, phase: str = "Running", **status: Any) -> Manifest:
    """A pod of the roll-out of `_complete()`."""
    made = pod(name, LABELS, phase, **status)
    made["metadata"]["annotations"] = _complete()["spec"]["predictor"]["annotations"]
    return made


@dataclass
class World:
    """A cluster in which the test plays KServe and the controllers of Deployments and pods."""

    cluster: FakeCluster
    clock: Clock
    template: Manifest | None = None

    def roll_out(self, seconds: float = 500, replicas: int = 2) -> inference_service.Revision:
        return self.apply(_complete(replicas=replicas), seconds=seconds)

    def apply(
        self,
        service: Manifest,
        publication: rollout.Publication | None = None,
        *,
        seconds: float = 500,
    ) -> inference_service.Revision:
        return rollout.roll_out(
            self.cluster,
            service,
            manifests.load(TEMPLATES, "disruption-budget"),
            publication or rollout.Publication(),
            seconds=seconds,
            pending_seconds=100,
        )

    def deploy(self, image: str = NEW, replicas: int = 2, content: str = CONTENT) -> None:
        """Have KServe make or change the Deployment, which nobody has looked at yet."""
        service = _complete(self.template, image=image, content=content)
        containers = [{"name": "proxy", "image": "proxy:2"}, _container(service)]
        annotations = service["spec"]["predictor"]["annotations"]
        deployment = {
            "kind": "Deployment",
            "metadata": {"name": f"{NAME}-predictor", "generation": 3},
            "spec": {
                "replicas": replicas,
                "template": {
                    "metadata": {"annotations": annotations},
                    "spec": {"containers": containers},
                },
            },
        }
        self.cluster.put(deployment)

    def roll(self, updated: int, available: int, replicas: int, wanted: int = 2) -> None:
        """Have the Deployment's controller report how far it is."""
        self.deploy(replicas=wanted)
        self.cluster.objects["Deployment", f"{NAME}-predictor"]["status"] = {
            "observedGeneration": 3,
            "updatedReplicas": updated,
            "availableReplicas": available,
            "replicas": replicas,
        }

    def call_ready(self, ready: bool = True, message: str = "") -> None:
        condition = {"type": "Ready", "status": str(ready), "message": message}
        conditions = [{"type": "PredictorReady", "status": "True"}, condition]
        self.cluster.objects["InferenceService", NAME]["status"] = {"conditions": conditions}

    def start(self, name: str, phase: str = "Running", **status: Any) -> None:
        self.cluster.put(new_pod(name, phase, **status))

    def serves(self, at: float = 5) -> None:
        """Have all be as it should be from a certain time on."""
        self.clock.at(at, lambda: self.roll(2, 2, 2))
        self.clock.at(at, self.call_ready)
        for name in ("b", "a"):
            self.clock.at(at, functools.partial(self.start, name, conditions=READY))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> World:
    caplog.set_level(logging.INFO, "mlpipeline")
    clock = Clock()
    monkeypatch.setattr(rollout, "time", clock)
    watch = functools.partial(pods.StartWatch, clock=clock.monotonic)
    monkeypatch.setattr(rollout, "StartWatch", watch)
    return World(FakeCluster(clock), clock)


def test_each_thing_that_is_not_as_it_should_be_is_waited_for_and_said_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    steps: list[Callable[[], object]] = [
        functools.partial(world.deploy, image=OLD),
        world.deploy,
        functools.partial(world.roll, 1, 2, 3),
        functools.partial(world.roll, 2, 1, 2),
        functools.partial(world.roll, 2, 2, 3),
        functools.partial(world.roll, 2, 2, 2),
        functools.partial(world.call_ready, ready=False, message="Ingress not created"),
    ]
    for index, step in enumerate(steps):
        world.clock.at(10 + 10 * index, step)
    world.clock.at(100, world.call_ready)

    world.roll_out()

    assert world.clock.now == 100
    prefix = f"InferenceService {NAME}: "
    said = [message.removeprefix(prefix) for message in caplog.messages]
    assert said == [
        "KServe has not made its Deployment yet",
        "KServe has not changed its Deployment yet",
        "the Deployment has not been looked at yet",
        "1 of 2 replicas are new, 2 answer",
        "2 of 2 replicas are new, 1 answer",
        "2 of 2 replicas are new, 2 answer",
        "KServe does not call it ready: ",
        "KServe does not call it ready: Ingress not created",
    ]


def test_pods_that_have_loaded_another_content_of_the_version_are_not_enough(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def stay() -> None:
        world.roll(2, 2, 2)
        status = world.cluster.objects["Deployment", f"{NAME}-predictor"]["status"]
        world.deploy(content="fedcba9876543210")
        world.cluster.objects["Deployment", f"{NAME}-predictor"]["status"] = status
        world.call_ready()

    world.clock.at(5, stay)
    world.serves(at=40)
    world.roll_out()
    assert world.clock.now == 40
    assert "KServe has not changed its Deployment yet" in caplog.text


def test_the_one_replica_that_kserve_begins_with_is_not_enough(world: World) -> None:
    world.clock.at(5, lambda: world.roll(1, 1, 1, wanted=1))
    world.clock.at(5, world.call_ready)
    world.serves(at=40)
    world.roll_out()
    assert world.clock.now == 40


def test_the_replicas_that_load_has_added_are_waited_for_too(world: World) -> None:
    world.clock.at(5, lambda: world.roll(2, 2, 2, wanted=3))
    world.clock.at(5, world.call_ready)
    world.clock.at(20, lambda: world.roll(3, 3, 3, wanted=3))
    world.roll_out()
    assert world.clock.now == 20


def test_those_that_answer_are_named_in_order(world: World) -> None:
    world.serves()
    world.start("c-starting", conditions=[{"type": "Ready", "status": "False"}])
    world.start("d-leaving", conditions=READY)
    leaving = world.cluster.objects["Pod", "d-leaving"]["metadata"]
    leaving["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    world.start("of-another-model", conditions=READY)
    world.cluster.objects["Pod", "of-another-model"]["metadata"]["labels"] = {}
    assert world.roll_out().replicas == ["a", "b"]


def test_what_is_not_ready_in_time_is_an_error_with_what_is_left_to_do(world: World) -> None:
    world.clock.at(5, lambda: world.roll(1, 2, 3))
    world.start("a", conditions=READY)
    world.start("b", "Pending", conditions=unschedulable("3 Insufficient cpu."))
    with pytest.raises(ClusterError) as raised:
        world.roll_out(seconds=60)
    assert "not ready after 60 s: 1 of 2 replicas are new, 2 answer" in raised.value.got
    assert "b: Unschedulable: 3 Insufficient cpu." in raised.value.got
    assert "a: " not in raised.value.got
    assert 60 < world.clock.now < 65


def test_a_pod_that_a_quota_refuses_is_an_error_with_its_reason(world: World) -> None:
    def refuse() -> None:
        world.roll(0, 2, 2)
        deployment = world.cluster.objects["Deployment", f"{NAME}-predictor"]
        refused = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: small"}
        deployment["status"]["conditions"] = [refused]

    world.clock.at(5, refuse)
    with pytest.raises(ClusterError, match="0 of 2 replicas are new, 2 answer: exceeded quota"):
        world.roll_out(seconds=60)


def test_a_replica_that_cannot_start_is_an_error_with_its_reason(world: World) -> None:
    world.start("a", "Pending", conditions=unschedulable("3 Insufficient cpu."))
    with pytest.raises(ClusterError, match="Unschedulable: 3 Insufficient cpu"):
        world.roll_out()


def test_a_replica_that_falls_again_and_again_is_an_error_with_its_last_lines(world: World) -> None:
    world.cluster.logs["a"] = ["error: the model is damaged"]
    world.start("a", containerStatuses=waiting("CrashLoopBackOff"))
    with pytest.raises(ClusterError, match=r"CrashLoopBackOff\n.*the model is damaged"):
        world.roll_out()


def test_the_budget_covers_the_pods_of_the_service_and_goes_with_it(world: World) -> None:
    world.serves()
    world.roll_out()
    budget = world.cluster.objects["PodDisruptionBudget", f"{NAME}-predictor"]
    assert budget["spec"]["selector"] == {"matchLabels": LABELS}
    assert budget["spec"]["maxUnavailable"] == 1
    (owner,) = budget["metadata"]["ownerReferences"]
    service = world.cluster.objects["InferenceService", NAME]
    assert owner == {
        "apiVersion": service["apiVersion"],
        "kind": "InferenceService",
        "name": NAME,
        "uid": service["metadata"]["uid"],
    }


def test_the_digest_is_of_this_very_state_of_the_service(world: World) -> None:
    world.serves()
    first = world.roll_out().digest
    assert world.roll_out().digest == first, "nothing has changed"

    metadata = world.cluster.objects["InferenceService", NAME]["metadata"]
    metadata["generation"] = 2
    by_hand = world.roll_out().digest
    metadata = world.cluster.objects["InferenceService", NAME]["metadata"]
    metadata.update(generation=1, uid="that of one made anew")
    made_anew = world.roll_out().digest
    assert len({first, by_hand, made_anew}) == 3


def test_where_nothing_is_to_be_done_nothing_is_changed_and_it_says_so(world: World) -> None:
    world.serves()
    first = world.roll_out()
    assert first.rolled
    kept = [snapshot.name for snapshot in snapshots.find(world.cluster, NAME)]
    again = world.roll_out()
    assert (again.digest, again.rolled) == (first.digest, False)
    assert [snapshot.name for snapshot in snapshots.find(world.cluster, NAME)] == kept


def test_verification_by_other_code_is_of_another_revision(world: World) -> None:
    world.serves()
    digests = {
        world.apply(_complete(), rollout.Publication(code=code)).digest for code in ("1", "2")
    }
    assert len(digests) == 2


# --- what pods are made of --------------------------------------------------------------------


def _mark(service: Manifest) -> str:
    return inference_service.mark(service["spec"]["predictor"])


def test_all_that_pods_are_made_of_is_in_what_they_are_known_by() -> None:
    template = manifests.load(TEMPLATES, "inference-service")
    limits = {"name": "kserve-container", "resources": {"limits": {"memory": "90Mi"}}}
    little = manifests.merge(template, {"spec": {"predictor": {"containers": [limits]}}})
    noted = manifests.merge(template, {"metadata": {"annotations": {"of": "somebody"}}})
    marks = {
        _mark(_complete()),
        _mark(_complete(image=OLD)),
        _mark(_complete(content="another")),
        _mark(_complete(code="of an image that was built anew")),
        _mark(_complete(version=OTHER)),
        _mark(_complete(little)),
        _mark(_complete(noted)),
    }
    assert len(marks) == 7
    assert _mark(_complete(replicas=5)) == _mark(_complete()), "how many of them there are is not"
    more = manifests.merge(template, {"spec": {"predictor": {"maxReplicas": 9}}})
    assert _mark(_complete(more)) == _mark(_complete())


# --- a roll-out that fails --------------------------------------------------------------------


@pytest.fixture
def served(world: World) -> World:
    """A world in which a version is served by two pods, and KServe does its work."""
    _operate(world)
    world.apply(_complete(), rollout.Publication(good=VERSION, parameters={"image": NEW}))
    return world


def _operate(world: World, is_broken: Callable[[Manifest], bool] = lambda service: False) -> None:
    """Have what is applied rolled out at once, unless it is broken: then its pod crashes."""
    if not isinstance(world.cluster, OperatedCluster):
        world.cluster = OperatedCluster(world.clock)
    world.cluster.is_broken = is_broken


def _spec_and_version(world: World) -> tuple[Manifest, str]:
    service = world.cluster.objects["InferenceService", NAME]
    return service["spec"], inference_service.version(service)


def _is_other(service: Manifest) -> bool:
    return inference_service.version(service) == OTHER


def test_what_cannot_start_is_undone_and_the_error_says_what_is_served(served: World) -> None:
    before = _spec_and_version(served)
    _operate(served, _is_other)
    with pytest.raises(ClusterError) as raised:
        served.apply(_complete(version=OTHER), rollout.Publication(good=VERSION))
    assert "pod fashion-mnist-new does not start: CrashLoopBackOff" in raised.value.got
    assert f"it is undone, version {VERSION} is served again" in raised.value.got
    assert _spec_and_version(served) == before
    assert [s.version for s in snapshots.find(served.cluster, NAME)] == [VERSION]


def test_the_same_version_with_other_pods_that_cannot_start_is_undone_too(served: World) -> None:
    before = _spec_and_version(served)
    _operate(served, lambda service: "broken" in str(service["spec"]))
    with pytest.raises(ClusterError, match="is served again"):
        served.apply(_complete(image="broken"), rollout.Publication(good=VERSION))
    assert _spec_and_version(served) == before


def test_a_pod_that_goes_on_where_another_was_killed_still_knows_what_was_good(
    served: World,
) -> None:
    before = _spec_and_version(served)
    _operate(served, _is_other)
    served.cluster.apply(_complete(version=OTHER))  # and the step's pod was killed
    with pytest.raises(ClusterError, match=f"version {VERSION} is served again"):
        served.apply(_complete(version=OTHER), rollout.Publication(good=VERSION))
    assert _spec_and_version(served) == before


def test_what_was_rolled_out_but_never_verified_is_not_gone_back_to(served: World) -> None:
    served.apply(_complete(version=OTHER), rollout.Publication(good=VERSION))
    third = "fashion-mnist-0000000000000000"
    _operate(served, lambda service: inference_service.version(service) == third)
    with pytest.raises(ClusterError, match=f"version {VERSION} is served again"):
        served.apply(_complete(version=third), rollout.Publication(good=VERSION))


def test_a_first_version_that_cannot_start_leaves_nothing_that_crashes_for_ever(
    world: World,
) -> None:
    _operate(world, lambda service: True)
    with pytest.raises(ClusterError, match=f"{NAME} is not served, as before"):
        world.roll_out()
    assert ("InferenceService", NAME) not in world.cluster.objects


def test_what_an_older_release_has_served_is_gone_back_to(world: World) -> None:
    _operate(world)
    old = inference_service.with_mark(_complete(version=OTHER), "")
    world.cluster.apply(old)
    before = _spec_and_version(world)
    _operate(world, lambda service: not _is_other(service))
    with pytest.raises(ClusterError, match=f"version {OTHER} is served again"):
        world.apply(_complete(), rollout.Publication(good=OTHER))
    assert _spec_and_version(world) == before


def test_where_it_cannot_be_undone_the_error_says_both(served: World) -> None:
    _operate(served, lambda service: True)
    with pytest.raises(ClusterError) as raised:
        served.apply(_complete(version=OTHER), rollout.Publication(good=VERSION))
    assert "pod fashion-mnist-new does not start" in raised.value.got
    assert "it could not be undone: pod fashion-mnist-new does not start" in raised.value.got


@pytest.mark.parametrize("is_over", [True, False])
def test_a_run_that_is_stopped_in_the_middle_is_undone_a_pod_that_is_moved_is_not(
    served: World, is_over: bool
) -> None:
    before = _spec_and_version(served)
    _operate(served, _is_other)
    publication = rollout.Publication(good=VERSION, is_over=lambda: is_over)
    served.clock.at(served.clock.now + 3, publication.stop.set)
    with pytest.raises(StoppedError):
        served.apply(_complete(version=OTHER), publication)
    assert (_spec_and_version(served) == before) is is_over


def test_an_api_server_that_is_away_undoes_nothing(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise ClusterUnreachableError("no answer", expected="one", remedy="wait")

    _operate(served, _is_other)
    monkeypatch.setattr(pods.StartWatch, "check", away)
    with pytest.raises(ClusterUnreachableError):
        served.apply(_complete(version=OTHER), rollout.Publication(good=VERSION))
    assert _spec_and_version(served)[1] == OTHER, "the next attempt goes on with it"


def test_only_a_few_snapshots_are_kept(served: World) -> None:
    for number in range(9):
        served.apply(_complete(version=f"fashion-mnist-{number}"))
    kept = [snapshot.version for snapshot in snapshots.find(served.cluster, NAME)]
    assert kept == [f"fashion-mnist-{number}" for number in (8, 7, 6, 5, 4)]


# --- a version that is not verified -----------------------------------------------------------


def _undo(world: World, good: str) -> str:
    return rollout.undo(world.cluster, NAME, good, seconds=100, pending_seconds=100)


def test_a_version_that_is_not_verified_gives_way_to_the_last_that_was(served: World) -> None:
    before = _spec_and_version(served)
    served.apply(_complete(version=OTHER), rollout.Publication(good=VERSION))
    assert _undo(served, VERSION) == f"it is undone, version {VERSION} is served again"
    assert _spec_and_version(served) == before
    assert [s.version for s in snapshots.find(served.cluster, NAME)] == [VERSION]


@pytest.mark.parametrize("good", ["", VERSION, OTHER])
def test_it_stays_where_no_other_is_known_to_be_better(served: World, good: str) -> None:
    before = _spec_and_version(served)
    assert "stays" in _undo(served, good)
    assert _spec_and_version(served) == before


def test_without_a_service_there_is_nothing_to_undo(world: World) -> None:
    assert _undo(world, VERSION) == "there is no service"


# --- pods of other roll-outs ------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["of-another", ""])
def test_older_pods_may_crash_for_as_long_as_they_like(world: World, mark: str) -> None:
    old = pod("old", LABELS, containerStatuses=waiting("CrashLoopBackOff"))
    old["metadata"]["annotations"] = {"mlpipeline/pods": mark} if mark else {}
    world.cluster.put(old)
    world.serves(at=200)
    assert world.roll_out().replicas == ["a", "b"]


@pytest.mark.parametrize(
    "status",
    [
        {"containerStatuses": waiting("CrashLoopBackOff")},
        {"containerStatuses": [{"name": "m", "lastState": {"terminated": {"exitCode": 1}}}]},
    ],
    ids=["waits", "runs for a moment"],
)
def test_pods_of_the_same_service_that_crash_are_replaced_by_like_ones(
    served: World, status: dict[str, Any]
) -> None:
    served.cluster.objects["Pod", f"{NAME}-a"]["status"] = status
    before = _mark(served.cluster.objects["InferenceService", NAME])
    served.apply(_complete(), rollout.Publication(good=VERSION))
    after = _mark(served.cluster.objects["InferenceService", NAME])
    assert after != before
    assert after.startswith(f"{before}.")
    assert not served.apply(_complete(), rollout.Publication(good=VERSION)).rolled, "only once"
    assert _mark(served.cluster.objects["InferenceService", NAME]) == after


# --- a sharded service ------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path: Path) -> Manifest:
    """The template with the patch of the component."""
    patch = TEMPLATES.parents[1] / "components" / "sharded-serving" / "inference-service.patch.yaml"
    _write(tmp_path, "inference-service.yaml", (TEMPLATES / "inference-service.yaml").read_text())
    _write(tmp_path, "inference-service.patch.yaml", patch.read_text())
    return manifests.load(tmp_path, "inference-service")


def test_the_front_gets_the_image_and_keeps_its_arguments(sharded: Manifest) -> None:
    service = _complete(sharded)
    (front,) = service["spec"]["transformer"]["containers"]
    assert front["image"] == NEW
    assert front["args"] == ["step", "front", "--replicas", "shards:8080", "--host", "0.0.0.0"]
    assert _container(service) == _container(_complete()), "the replicas are as they were"


def test_the_front_is_waited_for_too_and_is_no_replica(
    world: World, sharded: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    world.template = sharded
    spec = _complete(sharded)["spec"]["transformer"]
    # As KServe makes it: with arguments of its own at the end.
    (container,) = spec["containers"]
    container = container | {"args": [*container["args"], "--model_name", NAME]}

    def front(image: str, available: int) -> None:
        made = _complete(sharded, image=image)["spec"]["transformer"]
        template = {
            "metadata": {"annotations": made["annotations"]},
            "spec": spec | {"containers": [container | {"image": image}]},
        }
        deployment = {
            "kind": "Deployment",
            "metadata": {"name": f"{NAME}-transformer", "generation": 1},
            "spec": {
                "replicas": 2,
                "template": template,
            },
            "status": {
                "observedGeneration": 1,
                "updatedReplicas": 2,
                "availableReplicas": available,
                "replicas": 2,
            },
        }
        world.cluster.put(deployment)

    world.serves(at=5)
    world.clock.at(20, lambda: front(OLD, 2))
    world.clock.at(30, lambda: front(NEW, 1))
    world.clock.at(40, lambda: front(NEW, 2))
    world.start("front", conditions=READY)
    world.cluster.objects["Pod", "front"]["metadata"]["labels"]["component"] = "transformer"

    revision = world.apply(_complete(sharded))

    assert world.clock.now == 40
    assert revision.replicas == ["a", "b"]
    said = caplog.text
    for left in ("has not made its", "has not changed its", "2 of 2 replicas are new, 1 answer"):
        assert left in said


# --- what a pod waits for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "status", "expected"),
    [
        ("Pending", {}, "Pending: it has not been started"),
        ("Pending", {"conditions": unschedulable("no node")}, "Unschedulable: no node"),
        (
            "Pending",
            {"containerStatuses": waiting("ErrImagePull", "denied")},
            "ErrImagePull: denied",
        ),
        (
            "Pending",
            {"initContainerStatuses": waiting("CreateContainerConfigError")},
            "CreateContainerConfigError",
        ),
        (
            "Pending",
            {"containerStatuses": waiting("PodInitializing")},
            "Pending: it has not been started",
        ),
        ("Running", {"containerStatuses": waiting("CrashLoopBackOff")}, "CrashLoopBackOff"),
        (
            "Running",
            {"containerStatuses": [waiting("CrashLoopBackOff", "back-off 20s")[0] | OUT_OF_MEMORY]},
            "CrashLoopBackOff: OOMKilled, status 137: back-off 20s",
        ),
        ("Running", {"containerStatuses": [{"name": "main", "state": {"running": {}}}]}, None),
        ("Succeeded", {}, None),
        ("Failed", {}, None),
    ],
)
def test_the_reason_that_a_pod_waits_for(
    phase: str, status: dict[str, Any], expected: str | None
) -> None:
    assert pods.waiting_reason(pod("a", {}, phase, **status)) == expected


def test_a_pod_that_nobody_has_looked_at_has_not_been_started() -> None:
    assert pods.waiting_reason({"metadata": {"name": "a"}}) == "Pending: it has not been started"
    assert not pods.is_ready({"metadata": {"name": "a"}})


def test_a_pod_that_crashes_again_and_again_is_given_no_more_time_for_each_start() -> None:
    clock = Clock()
    watch = pods.StartWatch(FakeCluster(), 300, clock.monotonic)
    (status,) = waiting("CrashLoopBackOff")
    waits = pod("a", {}, containerStatuses=[status | OUT_OF_MEMORY])
    runs = pod("a", {}, containerStatuses=[{"name": "main"} | OUT_OF_MEMORY])
    for seen in (waits, runs):
        seen["metadata"]["uid"] = "uid-1"
    for seen in (waits, runs, waits, runs):
        watch.check([seen])
        clock.sleep(20)
    with pytest.raises(ClusterError, match="pod a does not start: CrashLoopBackOff: OOMKilled"):
        watch.check([waits])


def test_a_pod_that_waits_once_more_is_given_all_the_time_again() -> None:
    clock = Clock()
    watch = pods.StartWatch(FakeCluster(), 100, clock.monotonic)
    waits, runs = pod("a", {}, "Pending"), pod("a", {})
    for seen in (waits, runs):
        seen["metadata"]["uid"] = "uid-1"
    for seen in (waits, runs, waits, runs):
        watch.check([seen])
        clock.sleep(60)
    watch.check([waits])
    clock.sleep(100)
    with pytest.raises(ClusterError, match="pod a does not start: Pending"):
        watch.check([waits])


# --- the templates ----------------------------------------------------------------------------


def _write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def test_a_template_is_read_with_the_patch_of_a_component(tmp_path: Path) -> None:
    _write(tmp_path, "job.yaml", "kind: TFJob\nspec: {a: 1, b: {c: 2, d: 3}}")
    assert manifests.load(tmp_path, "job")["spec"] == {"a": 1, "b": {"c": 2, "d": 3}}
    _write(tmp_path, "job.patch.yaml", "spec: {b: {c: 20, d: null}}")
    assert manifests.load(tmp_path, "job") == {"kind": "TFJob", "spec": {"a": 1, "b": {"c": 20}}}
    # Another component's patch comes on top; what is of another template does not.
    _write(tmp_path, "job.queue.patch.yaml", "spec: {e: 5}")
    _write(tmp_path, "jobs.patch.yaml", "spec: {f: 6}")
    assert manifests.load(tmp_path, "job")["spec"] == {"a": 1, "b": {"c": 20}, "e": 5}


def test_the_gpu_components_patch_fits_its_template(tmp_path: Path) -> None:
    component = TEMPLATES.parents[1] / "components" / "gpu" / "tfjob.patch.yaml"
    _write(tmp_path, "tfjob.yaml", (TEMPLATES / "tfjob.yaml").read_text())
    _write(tmp_path, "tfjob.patch.yaml", component.read_text())
    worker = manifests.load(tmp_path, "tfjob")["spec"]["tfReplicaSpecs"]["Worker"]
    (container,) = worker["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["resources"]["requests"]["memory"], "what it does not mention stays"


def test_lists_of_named_things_are_merged_by_their_names_others_are_replaced() -> None:
    base = {"containers": [{"name": "a", "image": "1"}, {"name": "b"}], "args": ["x", "y"]}
    patch = {"containers": [{"name": "c"}, {"name": "a", "env": []}], "args": ["z"]}
    assert manifests.merge(base, patch) == {
        "containers": [{"name": "a", "image": "1", "env": []}, {"name": "b"}, {"name": "c"}],
        "args": ["z"],
    }


@pytest.mark.parametrize(
    ("base", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": "foo"}, {"b": None}, {"a": "foo"}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": "b"}, {"a": {"c": None}}, {"a": {}}),
    ],
)
def test_all_else_is_merged_as_in_the_examples_of_rfc_7386(
    base: dict[str, Any], patch: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert manifests.merge(base, patch) == expected


@pytest.mark.parametrize("text", ["a: [", "- a\n- b", "", "when: 2026-02-30", "a: \x00"])
def test_what_is_no_manifest_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    _write(tmp_path, "job.yaml", text)
    with pytest.raises(ConfigurationError, match=r"job\.yaml"):
        manifests.load(tmp_path, "job")


def test_a_template_that_is_not_there_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*job\.yaml") as raised:
        manifests.load(tmp_path, "job")
    assert "make deploy" in raised.value.remedy
