"""The step `plan`: the configuration of a run, the keys that the workflow goes by, stale memos."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlpipeline.backends.cluster import inference_service, planning
from mlpipeline.backends.cluster.planning import Overrides
from mlpipeline.errors import ConfigurationError
from mlpipeline.plan import config, pipeline
from mlpipeline.plan.config import Config
from mlpipeline.plan.pipeline import Task
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace
from support.fake_cluster import FakeCluster

TEMPLATES = Path(__file__).parents[2] / "manifests" / "base" / "templates"
TEXT = """
name: shirts
data: {dataset: synthetic}
candidates:
  cnn: {model: cnn}
  batch_norm: {model: batch_norm, epochs: 3}
  dropout: {model: dropout}
training: {workers: 2, attempts: 5}
serving: {host: 127.0.0.1, port: 9000, grpc_port: 9001, ready_timeout_seconds: 60}
"""


def _resolve(text: str = TEXT, **overrides: str) -> Config:
    return planning.resolve(text, Overrides(**overrides))


def _problems(text: str = TEXT, **overrides: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        planning.resolve(text, Overrides(**overrides))
    return str(raised.value)


# --- the configuration ------------------------------------------------------------------------


def test_without_overrides_it_is_as_configured_but_for_the_pods_addresses() -> None:
    as_written = config.parse(yaml.safe_load(TEXT), origin="")
    serving = as_written.serving.model_copy(
        update={"host": "0.0.0.0", "port": 8080, "grpc_port": 8081}
    )
    assert _resolve() == as_written.model_copy(update={"serving": serving})


def test_every_override_goes_where_it_belongs_and_changes_nothing_else() -> None:
    before = _resolve()
    after = _resolve(name="trousers", candidates="dropout, cnn", workers="4", replicas="3")
    assert after.name == "trousers"
    assert list(after.candidates) == ["dropout", "cnn"]
    assert after.candidates["cnn"] == before.candidates["cnn"]
    assert after.training == before.training.model_copy(update={"workers": 4})
    assert after.serving == before.serving.model_copy(update={"replicas": 3})
    assert after.data == before.data


@pytest.mark.parametrize("nothing", ["", "training:", "training: {}"])
def test_an_override_needs_no_section_to_go_to(nothing: str) -> None:
    text = "name: shirts\ncandidates: {cnn: {model: cnn}}\n" + nothing
    resolved = _resolve(text, workers="4", replicas="3")
    assert (resolved.training.workers, resolved.serving.replicas) == (4, 3)


def test_all_problems_are_named_at_once() -> None:
    text = TEXT.replace("epochs", "epoch").replace("attempts", "attemps")
    said = _problems(text, name="Two Shirts", workers="many", replicas="0")
    assert "the parameter `configuration` has 5 problems" in said
    for problem in (
        "name: got 'Two Shirts'",
        "candidates.batch_norm.epoch: unknown key; did you mean `epochs`?",
        "training.attemps: unknown key; did you mean `attempts`?",
        "training.workers: got 'many'",
        "serving.replicas: got 0",
    ):
        assert problem in said


def test_a_candidate_that_nobody_knows_is_named_beside_those_that_there_are() -> None:
    said = _problems(candidates="cnn,cn,dropuot")
    assert "the parameter `candidates` names cn, dropuot" in said
    assert "cnn, batch_norm, dropout" in said


@pytest.mark.parametrize("text", ["name: [", "name: 017", "name: \x00", "name: a\nname: b"])
def test_what_is_not_yaml_is_an_error_that_names_the_parameter(text: str) -> None:
    assert "the parameter `configuration` is not YAML" in _problems(text)


@pytest.mark.parametrize("text", ["", "- a\n- b", "configs/default.yaml", "17"])
def test_what_is_no_mapping_is_an_error_that_names_the_parameter(text: str) -> None:
    assert "the parameter `configuration` has 1 problem" in _problems(text)


@pytest.mark.parametrize("content", ["3", "[a, b]", "some text"])
@pytest.mark.parametrize("section", ["training", "serving", "candidates"])
def test_a_section_that_is_no_mapping_is_a_problem_like_any_other(
    section: str, content: str
) -> None:
    text = yaml.safe_dump(yaml.safe_load(TEXT) | {section: yaml.safe_load(content)})
    assert f"  - {section}: got " in _problems(text, workers="3", replicas="3")


def test_the_configuration_that_is_written_is_the_one_that_steps_load(tmp_path: Path) -> None:
    settings = _resolve(candidates="dropout,cnn", workers="4")
    file = tmp_path / "runs" / "mlpipeline-x" / "config.yaml"
    config.write(settings, file)
    assert config.load(file) == settings
    assert list(config.load(file).candidates) == ["dropout", "cnn"]


# --- the plan ---------------------------------------------------------------------------------


def _keys(settings: Config) -> dict[str, str]:
    return {name: task.key for name, task in pipeline.plan(settings).items() if task.key}


def _publish(task: Task, workspace: Path) -> None:
    for folder in task.publishes:
        with artifacts.publish(workspace / folder) as draft:
            (draft / "content").write_text(task.name)


def _plan(
    settings: Config,
    workspace: Path,
    cluster: FakeCluster,
    *,
    image: str = "mlpipeline:1",
    templates: Path = TEMPLATES,
) -> dict[str, str]:
    return planning.plan(
        settings, Workspace(workspace), cluster, memo="memo", image=image, templates=templates
    )


@pytest.fixture
def cluster() -> FakeCluster:
    """A cluster whose memo remembers every task, and what is none of ours."""
    data = dict.fromkeys([*_keys(_resolve()).values(), "verify-0123456789abcdef"], "{}")
    made = FakeCluster()
    made.put({"kind": "ConfigMap", "metadata": {"name": "memo"}, "data": data})
    return made


def _remembered(cluster: FakeCluster) -> set[str]:
    return set(cluster.objects["ConfigMap", "memo"]["data"])


def test_the_keys_are_those_of_a_local_run_of_the_same_configuration() -> None:
    local = config.parse(yaml.safe_load(TEXT), origin="")
    assert _keys(_resolve()) == _keys(local)
    assert _keys(_resolve(workers="8", replicas="5")) == _keys(local)
    assert _keys(_resolve(candidates="cnn"))["train-cnn"] == _keys(local)["train-cnn"]
    assert _keys(_resolve(name="trousers"))["select"] != _keys(local)["select"]


def test_the_outputs_are_what_the_workflow_hands_on(tmp_path: Path, cluster: FakeCluster) -> None:
    settings = _resolve(candidates="dropout,cnn")
    keys = _keys(settings)
    outputs = _plan(settings, tmp_path, cluster)
    assert outputs.pop("serve-key").startswith("serve-")
    trainings = json.loads(outputs.pop("trainings"))
    assert trainings == [
        {"candidate": "dropout", "key": keys["train-dropout"]},
        {"candidate": "cnn", "key": keys["train-cnn"]},
    ]
    expected = {"name": "shirts", "ingest-key": keys["ingest"], "select-key": keys["select"]}
    assert outputs == expected


def test_nothing_is_forgotten_where_all_is_whole(tmp_path: Path, cluster: FakeCluster) -> None:
    settings = _resolve()
    for task in pipeline.plan(settings).values():
        _publish(task, tmp_path)
    _plan(settings, tmp_path, cluster)
    assert cluster.changes == []


def test_what_is_gone_or_damaged_is_forgotten_and_nothing_else(
    tmp_path: Path, cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _resolve()
    tasks = pipeline.plan(settings)
    for name in ("ingest", "train-cnn", "train-dropout", "select"):  # one was never published
        _publish(tasks[name], tmp_path)
    (tmp_path / tasks["train-dropout"].publishes[0] / "content").write_text("damaged")
    (tmp_path / tasks["select"].publishes[1] / "content").unlink()  # of the model, not the choice
    before = _remembered(cluster)

    _plan(settings, tmp_path, cluster)

    stale = {tasks[name].key for name in ("train-batch_norm", "train-dropout", "select")}
    assert before - _remembered(cluster) == stale
    assert cluster.changes == ["patch ConfigMap memo"]
    states = {
        line.split()[0]: line.split(maxsplit=2)[2]
        for line in capsys.readouterr().out.splitlines()
        if line.split()[0] in tasks
    }
    assert states == {
        "ingest": "done",
        "train-cnn": "done",
        "train-batch_norm": "to do",
        "train-dropout": "to do",
        "select": "to do",
        "serve": "to do",
    }


@pytest.mark.parametrize("memo", [None, {}, {"data": None}, {"data": {"of-others": "{}"}}])
def test_nothing_is_changed_where_nothing_is_remembered(
    tmp_path: Path, memo: dict[str, Any] | None
) -> None:
    cluster = FakeCluster()
    if memo is not None:
        cluster.put({"kind": "ConfigMap", "metadata": {"name": "memo"}} | memo)
    _plan(_resolve(), tmp_path, cluster)
    assert cluster.changes == []


# --- the memo of the roll-out -----------------------------------------------------------------


@dataclass
class Served:
    """A cluster whose memo remembers a roll-out, and which serves what was rolled out."""

    settings: Config
    workspace: Path
    cluster: FakeCluster

    def plan(self, **how: Any) -> str:
        """Plan once more, and return the key of the roll-out."""
        return _plan(self.settings, self.workspace, self.cluster, **how)["serve-key"]

    @property
    def model(self) -> Path:
        return self.workspace / pipeline.plan(self.settings)["select"].publishes[1]

    def roll_out(self) -> None:
        content = inference_service.digest_of(self.model)
        container = {"name": "kserve-container", "image": "mlpipeline:1", "args": ["predictor"]}
        predictor = {
            "annotations": {"mlpipeline/content": content},
            "containers": [container],
            "minReplicas": 2,
        }
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        self.cluster.put(
            {
                "kind": "InferenceService",
                "metadata": {"name": "shirts", "generation": 1},
                "spec": {"predictor": predictor},
                "status": ready,
            }
        )
        template = {"metadata": predictor, "spec": {"containers": [container]}}
        self.cluster.put(
            {
                "kind": "Deployment",
                "metadata": {"name": "shirts-predictor", "generation": 1},
                "spec": {"replicas": 2, "template": template},
                "status": {
                    "observedGeneration": 1,
                    **dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), 2),
                },
            }
        )

    def remember(self) -> None:
        content = inference_service.digest_of(self.model)
        revision = inference_service.current(self.cluster, "shirts", content)
        assert revision is not None
        outputs = {"parameters": [{"name": "revision", "value": revision.digest}]}
        entry = json.dumps({"nodeID": "mlpipeline-x-1", "outputs": outputs})
        self.cluster.patch("ConfigMap", "memo", {"data": {self.plan(): entry}})

    def change(self, kind: str, path: str, value: Any) -> None:
        """Change one field of the service or its Deployment; `path` as in `spec.replicas`."""
        (found,) = (o for (its_kind, _), o in self.cluster.objects.items() if its_kind == kind)
        *parents, last = path.split(".")
        for parent in parents:
            found = found[parent]
        found[last] = value


@pytest.fixture
def served(tmp_path: Path) -> Served:
    settings = _resolve()
    for task in pipeline.plan(settings).values():
        _publish(task, tmp_path)
    cluster = FakeCluster()
    cluster.put({"kind": "ConfigMap", "metadata": {"name": "memo"}, "data": {"of-others": "{}"}})
    made = Served(settings, tmp_path, cluster)
    made.roll_out()
    made.remember()
    return made


def test_a_roll_out_is_remembered_while_what_it_made_is_what_is_served(served: Served) -> None:
    before = _remembered(served.cluster)
    assert served.plan() in before
    assert _remembered(served.cluster) == before


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("InferenceService", "metadata.generation", 2),  # another run, or a person, changed it
        ("InferenceService", "metadata.uid", "of one made anew"),
        ("InferenceService", "status.conditions", []),
        ("InferenceService", "spec.predictor.annotations", {"mlpipeline/content": "another"}),
        ("Deployment", "status.availableReplicas", 1),
        ("Deployment", "metadata.generation", 2),
    ],
)
def test_a_roll_out_is_forgotten_when_the_service_is_another_or_does_not_answer(
    served: Served, kind: str, path: str, value: Any
) -> None:
    served.change(kind, path, value)
    served.plan()
    assert _remembered(served.cluster) == {"of-others"}


@pytest.mark.parametrize("kind", ["InferenceService", "Deployment"])
def test_a_roll_out_is_forgotten_when_the_service_is_gone(served: Served, kind: str) -> None:
    for its_kind, name in list(served.cluster.objects):
        if its_kind == kind:
            served.cluster.remove(kind, name)
    served.plan()
    assert _remembered(served.cluster) == {"of-others"}


def test_a_roll_out_is_forgotten_when_its_model_is_damaged(served: Served) -> None:
    (served.model / "content").write_text("damaged")
    served.plan()
    assert _remembered(served.cluster) == {"of-others"}


def test_what_the_service_is_completed_from_is_part_of_the_key(
    served: Served, tmp_path: Path
) -> None:
    changed = tmp_path / "templates"
    shutil.copytree(TEMPLATES, changed)
    (changed / "inference-service.patch.yaml").write_text("spec: {predictor: {maxReplicas: 9}}")
    keys = {
        served.plan(),
        served.plan(image="mlpipeline:2"),
        served.plan(templates=changed),
        *(
            _plan(_resolve(**other), served.workspace, served.cluster)["serve-key"]
            for other in ({"replicas": "3"}, {"name": "trousers"}, {"candidates": "cnn"})
        ),
    }
    assert len(keys) == 6
    fewer = served.settings.model_copy(update={"verify": config.Verify(images=100)})
    keys.add(_plan(fewer, served.workspace, served.cluster)["serve-key"])
    assert len(keys) == 7, "how much is sent to it is handed on to its verification"
    assert keys & _remembered(served.cluster) == {served.plan()}, "others stay remembered"
