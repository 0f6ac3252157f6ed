"""The step `plan`: the configuration of a run, the keys that the workflow goes by, stale memos."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlpipeline.backends.cluster import planning
from mlpipeline.backends.cluster.planning import Overrides
from mlpipeline.errors import ConfigurationError
from mlpipeline.plan import config, pipeline
from mlpipeline.plan.config import Config
from mlpipeline.plan.pipeline import Task
from mlpipeline.store import artifacts
from mlpipeline.store.layout import DatasetFolder, Workspace
from support.fake_cluster import FakeCluster
from support.stored_documents import dataset_card

ROOT = Path(__file__).parents[2]
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
            if task.step is pipeline.INGEST:
                dataset_card().save(DatasetFolder(draft).card)


def _plan(settings: Config, workspace: Path, cluster: FakeCluster) -> dict[str, str]:
    return planning.plan(settings, Workspace(workspace), cluster, cache="memo")


def _entry(**outputs: str) -> str:
    """What Argo writes into its memo."""
    parameters = [{"name": name, "value": value} for name, value in outputs.items()]
    return json.dumps(
        {
            "nodeID": "mlpipeline-7s5lt-202848400",
            "outputs": {"parameters": parameters} if outputs else None,
            "creationTimestamp": "2026-11-30T00:34:33Z",
            "lastHitTimestamp": "2026-11-30T00:34:33Z",
        }
    )


def _memo(data: dict[str, str] | None) -> dict[str, Any]:
    labels = {"workflows.argoproj.io/configmap-type": "Cache"}
    metadata = {"name": "memo", "labels": labels}
    return {"kind": "ConfigMap", "metadata": metadata, "data": data}


@pytest.fixture
def cluster() -> FakeCluster:
    """A cluster whose memo remembers every task, and what is none of ours."""
    keys = _keys(_resolve())
    data = {key: _entry(metrics="{}") for name, key in keys.items() if name.startswith("train")}
    data |= {keys["ingest"]: _entry(), keys["select"]: _entry(), "of-others": _entry()}
    made = FakeCluster()
    made.put(_memo(data))
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
    trainings = json.loads(outputs.pop("trainings"))
    assert trainings == [
        {"candidate": "dropout", "key": keys["train-dropout"]},
        {"candidate": "cnn", "key": keys["train-cnn"]},
    ]
    assert outputs == {
        "name": "shirts",
        "ingest-key": keys["ingest"],
        "ingest-memo": keys["ingest"],
        "select-key": keys["select"],
    }


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
    }


def test_what_of_the_users_own_is_as_it_was_is_said(
    tmp_path: Path,
    cluster: FakeCluster,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "own_data_of_this_test.py").write_text("def data():\n    return 'labels.csv'\n")
    (tmp_path / "labels.csv").write_text("1,2,3")
    monkeypatch.syspath_prepend(tmp_path)
    settings = _resolve()
    data = settings.data.model_copy(update={"dataset": "own_data_of_this_test:data"})
    settings = settings.model_copy(update={"data": data})
    _publish(pipeline.plan(settings)["ingest"], tmp_path)
    _plan(settings, tmp_path, cluster)
    line = next(line for line in capsys.readouterr().out.splitlines() if "ingest" in line)
    said = "done: 1 module and 1 file (0.0 MB, by content) are as they were"
    assert line.endswith(said)


def _expecting(**asked: Any) -> Config:
    return _resolve(TEXT + f"expectations: {json.dumps(asked)}\n")


def test_what_is_not_as_expected_of_data_that_is_reused_is_said(
    tmp_path: Path, cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _expecting(balance=1, against="ingest-1")
    (ingest, *_) = pipeline.plan(settings).values()
    with artifacts.publish(tmp_path / ingest.publishes[0]) as draft:
        unequal = {"train": (900, 100), "validation": (50, 50), "test": (100, 100)}
        dataset_card(per_class=unequal).save(DatasetFolder(draft).card)
    with artifacts.publish(Workspace(tmp_path).dataset("ingest-1").path) as draft:
        dataset_card().save(DatasetFolder(draft).card)
    _plan(settings, tmp_path, cluster)
    line = next(line for line in capsys.readouterr().out.splitlines() if "ingest" in line)
    assert "done: balance: images of train that are of class bright: 100 of 1,000" in line
    assert "class_drift: images of train by class: population stability index" in line


def test_limits_that_a_run_fails_by_are_part_of_what_is_remembered(
    tmp_path: Path, cluster: FakeCluster
) -> None:
    """Or a data set that another run has let pass would never be judged."""

    def memo(**asked: Any) -> str:
        outputs = _plan(_expecting(**asked), tmp_path, cluster)
        assert outputs["ingest-key"] == _keys(_resolve())["ingest"], "the artifact is the same"
        return outputs["ingest-memo"]

    plain = _keys(_resolve())["ingest"]
    assert memo(leakage=0, against="ingest-1") == plain, "it only warns"
    strict = memo(leakage=0, fail=["leakage"])
    assert strict != plain
    assert re.fullmatch("[0-9a-z-]+", strict), "or Argo does not take it"
    assert memo(leakage=0, blank=0, fail=["leakage"], against="ingest-1") == strict
    assert memo(leakage=0.5, fail=["leakage"]) not in (strict, plain)
    against = {memo(fail=["pixel_drift"], against=key) for key in ("ingest-1", "ingest-2")}
    assert len(against - {strict, plain}) == 2


def test_what_is_remembered_of_data_that_is_gone_is_forgotten_with_its_limits(
    tmp_path: Path, cluster: FakeCluster
) -> None:
    settings = _expecting(fail=["leakage"])
    (ingest, *_) = pipeline.plan(settings).values()
    _publish(ingest, tmp_path)
    remembered = _plan(settings, tmp_path, cluster)["ingest-memo"]
    cluster.objects["ConfigMap", "memo"]["data"][remembered] = _entry()
    _plan(settings, tmp_path, cluster)
    assert remembered in _remembered(cluster)
    shutil.rmtree(tmp_path / ingest.publishes[0])
    _plan(settings, tmp_path, cluster)
    assert remembered not in _remembered(cluster)


@pytest.mark.parametrize("data", [None, {}, {"of-others": _entry()}])
def test_nothing_is_changed_where_nothing_is_remembered(
    tmp_path: Path, data: dict[str, str] | None
) -> None:
    cluster = FakeCluster()
    cluster.put(_memo(data))
    _plan(_resolve(), tmp_path, cluster)
    assert cluster.changes == []


@pytest.mark.parametrize("labels", [None, {"of": "somebody"}])
def test_a_memo_that_is_gone_or_without_its_label_is_made_anew(
    tmp_path: Path, labels: dict[str, str] | None
) -> None:
    cluster = FakeCluster()
    if labels:
        metadata = {"name": "memo", "labels": labels}
        cluster.put({"kind": "ConfigMap", "metadata": metadata, "data": {"of-others": _entry()}})
    _plan(_resolve(), tmp_path, cluster)
    made = cluster.objects["ConfigMap", "memo"]
    base = yaml.safe_load((ROOT / "manifests" / "base" / "memo.yaml").read_text())
    assert made["metadata"]["labels"].items() >= base["metadata"]["labels"].items()
    assert made["metadata"]["labels"].items() >= (labels or {}).items()
    assert made.get("data") == ({"of-others": _entry()} if labels else None)


GARBAGE = [
    *("", "garbage", "null", "3", "[]", '"text"', "{", "{}", "\x00", "NaN"),
    _entry().replace("mlpipeline-7s5lt-202848400", ""),
    _entry().replace('"2026-11-30T00:34:33Z"', '"last week"', 1),
    _entry().replace('"2026-11-30T00:34:33Z"', "17"),
    _entry().replace("T00:34:33Z", "", 1),  # Go reads no date without its time
    _entry().replace("null", "[]"),
    _entry().replace("null", '{"parameters": 3}'),
    _entry().replace("null", '{"parameters": ["metrics"]}'),
    _entry().replace("null", '{"parameters": [{"name": "metrics", "value": 3}]}'),
    _entry().replace("null", '{"artifacts": "none"}'),
    *(_entry(figures="{}"), _entry(metrics="garbage"), _entry(metrics="[]")),
]


@pytest.mark.parametrize("text", GARBAGE)
def test_an_entry_that_is_none_is_forgotten_before_argo_reads_it(
    tmp_path: Path, cluster: FakeCluster, text: str
) -> None:
    settings = _resolve()
    for task in pipeline.plan(settings).values():
        _publish(task, tmp_path)
    key = _keys(settings)["train-cnn"]
    before = _remembered(cluster)
    cluster.objects["ConfigMap", "memo"]["data"][key] = text
    _plan(settings, tmp_path, cluster)
    assert before - _remembered(cluster) == {key}


@pytest.mark.parametrize("text", GARBAGE[:-3])
def test_that_goes_for_whatever_it_stands_for(
    tmp_path: Path, cluster: FakeCluster, text: str
) -> None:
    cluster.objects["ConfigMap", "memo"]["data"]["verify-0123456789abcdef"] = text
    _plan(_resolve(), tmp_path, cluster)
    assert "verify-0123456789abcdef" not in _remembered(cluster)
    assert "of-others" in _remembered(cluster)


def test_an_entry_as_argo_wrote_it_is_kept(tmp_path: Path, cluster: FakeCluster) -> None:
    """With fields that it may add one day."""
    entry = json.loads(_entry(figures="{}")) | {"version": 2}
    entry["outputs"] |= {"exitCode": "0", "artifacts": [{"name": "main-logs"}], "result": None}
    cluster.objects["ConfigMap", "memo"]["data"]["verify-0123456789abcdef"] = json.dumps(entry)
    _plan(_resolve(), tmp_path, cluster)
    assert "verify-0123456789abcdef" in _remembered(cluster)


def test_a_memo_that_is_nearly_full_forgets_what_nobody_has_asked_for_the_longest(
    tmp_path: Path, cluster: FakeCluster
) -> None:
    """A ConfigMap that is full fails every step whose result is to be remembered."""
    data = cluster.objects["ConfigMap", "memo"]["data"]
    for number in range(450):
        entry = json.loads(_entry(figures="x" * 2_000))
        entry["lastHitTimestamp"] = f"2026-11-29T{number // 60:02}:{number % 60:02}:00Z"
        data[f"verify-{number:04}"] = json.dumps(entry)
    settings = _resolve()
    for task in pipeline.plan(settings).values():
        _publish(task, tmp_path)
    _plan(settings, tmp_path, cluster)
    kept = sorted(key for key in _remembered(cluster) if key.startswith("verify-"))
    assert kept == [f"verify-{number:04}" for number in range(450 - len(kept), 450)]
    assert 100 < len(kept) < 250
    assert set(_keys(settings).values()) <= _remembered(cluster)
    before = list(cluster.changes)
    _plan(settings, tmp_path, cluster)
    assert cluster.changes == before
