"""The plan: which tasks there are, what they need, and which cache keys a change reaches."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.errors import ConfigurationError
from mlpipeline.plan import fingerprint, pipeline
from mlpipeline.plan.config import Config, parse
from mlpipeline.plan.pipeline import (
    CANARY,
    CANDIDATE,
    DATASET,
    INGEST,
    STEPS,
    TRAIN,
    Artifact,
    Task,
    code_of,
    needs_of,
    plan,
    producer_of,
)
from mlpipeline.store import artifacts
from mlpipeline.store.layout import Workspace

RAW: dict[str, Any] = {
    "name": "shirts",
    "candidates": {"cnn": {"model": "cnn"}, "batch_norm": {"model": "batch_norm"}},
}
ALL = {"ingest", "train-cnn", "train-batch_norm", "select"}


def _config(**changes: Any) -> Config:
    return parse(RAW | changes, origin="")


def _keys(config: Config, without: Collection[str] = ()) -> dict[str, str]:
    return {name: task.key for name, task in plan(config, without=without).items() if task.key}


def _candidates(**changes: Any) -> dict[str, Any]:
    return {"candidates": RAW["candidates"] | changes}


def test_the_tasks_are_the_steps_in_their_order_one_training_for_each_candidate() -> None:
    tasks = list(plan(_config()).values())
    assert [(task.name, task.needs) for task in tasks] == [
        ("ingest", ()),
        ("train-cnn", ("ingest",)),
        ("train-batch_norm", ("ingest",)),
        ("select", ("train-cnn", "train-batch_norm")),
        ("gate", ("select",)),
        ("serve", ("gate",)),
        ("verify", ("serve",)),
    ]
    # A trial is a task only where one is asked for.
    assert list(dict.fromkeys(task.step for task in tasks)) == [s for s in STEPS if s is not CANARY]
    assert [task.candidate for task in tasks] == [None, "cnn", "batch_norm", *[None] * 4]


def test_a_trial_comes_between_the_gate_and_service_and_is_in_no_key() -> None:
    asked = _config(rollout={"canary": {"share": 0.2}})
    tasks = plan(asked)
    assert tasks["canary"].needs == ("gate",)
    assert tasks["serve"].needs == ("canary",)
    assert {task.step for task in tasks.values()} == set(STEPS)
    assert _keys(asked) == _keys(_config())


def test_a_task_has_a_version_of_its_code_which_changes_with_a_users_own_model() -> None:
    config = _config()
    codes = {name: code_of(task, config) for name, task in plan(config).items()}
    assert len(set(codes.values())) == len(STEPS) - 1, "each step is code of its own"
    own = _config(**_candidates(cnn={"model": "own_project.networks:strided"}))
    changed = {name: code_of(task, own) for name, task in plan(own).items()}
    assert {name for name in codes if codes[name] != changed[name]} == {"train-cnn"}


def test_what_is_published_is_in_a_folder_named_by_its_key() -> None:
    tasks = plan(_config())
    keys = _keys(_config())
    assert set(keys) == ALL
    assert len(set(keys.values())) == len(ALL)
    published = {name: [str(p) for p in task.publishes] for name, task in tasks.items()}
    assert published == {
        "ingest": [f"datasets/{keys['ingest']}"],
        "train-cnn": [f"candidates/{keys['train-cnn']}"],
        "train-batch_norm": [f"candidates/{keys['train-batch_norm']}"],
        "select": [f"selections/{keys['select']}", f"models/shirts/{keys['select']}"],
        "gate": [],
        "serve": [],
        "verify": [],
    }


@pytest.mark.parametrize(
    ("change", "reached"),
    [
        ({}, set()),
        (_candidates(cnn={"model": "cnn", "epochs": 3}), {"train-cnn", "select"}),
        (_candidates(cnn={"model": "cnn", "options": {"units": 9}}), {"train-cnn", "select"}),
        (_candidates(cnn={"model": "dropout"}), {"train-cnn", "select"}),
        ({"recipe": {"flip": True}}, {"train-cnn", "train-batch_norm", "select"}),
        ({"seed": 18}, {"train-cnn", "train-batch_norm", "select"}),
        ({"name": "trousers"}, {"select"}),
        ({"data": {"seed": 18}}, ALL),
        ({"data": {"dataset": "synthetic"}}, ALL),
        ({"training": {"workers": 4, "attempts": 1, "cache": "disk"}}, set()),
        ({"training": {"strategy": "single", "workers": 1}}, set()),
        (
            {"training": {"strategy": "parameter_server"}},
            {"train-cnn", "train-batch_norm", "select"},
        ),
        ({"serving": {"replicas": 3, "port": 9000}}, set()),
        ({"serving": {"engine": "tensorflow"}}, {"select"}),
        ({"serving": {"precision": "auto"}}, {"select"}),
        # What the model's card says is in the model's artifact, and trains nothing anew.
        ({"card": {"licence": "CC0", "limits": "snow"}}, {"select"}),
        # What is written out, though it is the default, is no change.
        ({"recipe": {"epochs": 8}, "data": {"seed": 17}, "card": {"licence": ""}}, set()),
    ],
    ids=[
        *("nothing", "recipe-of-one", "options-of-one", "architecture-of-one", "recipe", "seed"),
        *(
            "name",
            "split",
            "dataset",
            "workers",
            "single",
            "parameter-server",
            "serving",
            "engine",
            "precision",
            "card",
            "defaults",
        ),
    ],
)
def test_a_change_reaches_the_keys_of_what_depends_on_it_alone(
    change: dict[str, Any], reached: set[str]
) -> None:
    before, after = _keys(_config()), _keys(_config(**change))
    assert {name for name in before if before[name] != after[name]} == reached


def test_how_images_are_prepared_is_in_the_key_only_where_it_is_said() -> None:
    default = pipeline.INGEST.identity(_config(), None).parameters
    assert default.keys() == {"dataset", "source", "shards", "seed"}
    for said in ({"size": (14, 14)}, {"channels": 1}, {"fit": "pad"}, {"unreadable": "skip"}):
        changed = pipeline.INGEST.identity(_config(data=said), None).parameters
        assert changed == {**default, **said}


def test_how_many_parameter_servers_there_are_changes_no_key() -> None:
    training = {"strategy": "parameter_server"}
    more = training | {"parameter_servers": 2, "workers": 3}
    assert _keys(_config(training=training)) == _keys(_config(training=more))


def test_another_candidate_changes_the_selection_alone() -> None:
    before = _keys(_config())
    after = _keys(_config(**_candidates(third={"model": "cnn"})))
    assert {name for name in after if before.get(name) != after[name]} == {"train-third", "select"}


def test_the_code_of_a_step_is_in_its_key_and_in_those_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = _keys(_config())
    monkeypatch.setattr(
        "mlpipeline.plan.pipeline.code_version",
        lambda *modules: (
            "changed"
            if modules == ("mlpipeline.steps.selection",)
            else fingerprint.code_version(*modules)
        ),
    )
    after = _keys(_config())
    assert {name for name in before if before[name] != after[name]} == {"select"}


def test_the_code_of_a_users_own_model_is_in_its_candidates_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "own_models_of_this_test.py"
    module.write_text("def tiny(inputs):\n    return inputs\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = _config(**_candidates(own={"model": "own_models_of_this_test:tiny"}))
    before = _keys(config)

    module.write_text("def tiny(inputs):\n    return -inputs\n")
    importlib.invalidate_caches()
    fingerprint.code_version.cache_clear()
    fingerprint._code.cache_clear()

    after = _keys(config)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"train-own", "select"}
    assert "own_models_of_this_test" not in sys.modules


@pytest.mark.parametrize("place", ["model", "dataset"])
def test_a_module_of_ones_own_that_is_not_there_is_an_error(place: str) -> None:
    change: dict[str, Any] = {"data": {"dataset": "no_such:data"}}
    if place == "model":
        change = _candidates(own={"model": "no_such:model"})
    with pytest.raises(ConfigurationError, match="no_such"):
        plan(_config(**change))


def test_a_step_for_each_candidate_reads_what_is_its_candidates_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe = replace(
        TRAIN, name="probe", reads=(DATASET, CANDIDATE), publishes=(Artifact("probes"),)
    )
    monkeypatch.setattr(pipeline, "STEPS", (INGEST, TRAIN, probe, *STEPS[2:]))
    tasks = plan(_config())
    assert tasks["probe-cnn"].reads == ("ingest", "train-cnn")
    assert tasks["probe-cnn"].needs == ("train-cnn",)
    changed = plan(_config(**_candidates(batch_norm={"model": "batch_norm", "epochs": 2})))
    assert changed["probe-cnn"].key == tasks["probe-cnn"].key
    assert changed["probe-batch_norm"].key != tasks["probe-batch_norm"].key


def test_without_a_candidate_that_failed_selection_has_another_key_and_need() -> None:
    config = _config()
    tasks = plan(config, without={"cnn"})
    assert tasks["select"].needs == ("train-batch_norm",)
    assert set(tasks) == set(plan(config))
    before, after = _keys(config), _keys(config, without={"cnn"})
    assert {name for name in before if before[name] != after[name]} == {"select"}


def test_a_command_is_the_steps_own_command_line() -> None:
    tasks = plan(_config())
    config, workspace = Path("configs/a b.yaml"), Path("/work space")
    common = ["--config", "configs/a b.yaml", "--workspace", "/work space"]
    for name in ("ingest", "select", "verify"):
        assert tasks[name].arguments(config, Workspace(workspace)) == ["step", name, *common]
    assert tasks["train-cnn"].arguments(config, Workspace(workspace)) == [
        *("step", "train", *common, "--candidate", "cnn")
    ]


def test_a_command_says_which_candidates_count_where_some_do_not() -> None:
    tasks = plan(_config(), without={"cnn"})
    for name in ("select", "serve", "verify"):
        assert "--among=batch_norm" in tasks[name].arguments("config.yaml", "workspace")
    for name in ("ingest", "train-cnn"):
        assert not [a for a in tasks[name].arguments("c", "w") if a.startswith("--among")]


def test_a_command_says_which_version_is_served_where_that_is_known() -> None:
    verify = plan(_config())["verify"]
    assert "--version=toy-1" in verify.arguments("config.yaml", "workspace", version="toy-1")
    assert not [a for a in verify.arguments("c", "w") if a.startswith("--version")]


def test_the_gates_command_says_where_it_may_be_passed_by_force() -> None:
    gate = plan(_config())["gate"]
    assert gate.arguments("c", "w", forced="forced.json")[-2:] == ["--forced", "forced.json"]


def test_a_step_reads_what_an_earlier_one_publishes_and_waits_for_no_more_than_it_must() -> None:
    assert {step.name: [each.name for each in needs_of(step)] for step in STEPS} == {
        "ingest": [],
        "train": ["ingest"],
        "select": ["train"],
        "gate": ["select"],
        "canary": ["gate"],
        "serve": ["canary"],
        "verify": ["serve"],
    }
    reads = {name: task.reads for name, task in plan(_config()).items()}
    assert reads == {
        "ingest": (),
        "train-cnn": ("ingest",),
        "train-batch_norm": ("ingest",),
        "select": ("ingest", "train-cnn", "train-batch_norm"),
        "gate": ("ingest", "select"),
        "serve": ("select",),
        "verify": ("ingest", "select"),
    }
    for place, step in enumerate(STEPS):
        assert {producer_of(artifact) for artifact in step.reads} <= set(STEPS[:place])


def _publish(task: Task, workspace: Path) -> None:
    for folder in task.publishes:
        with artifacts.publish(workspace / folder) as draft:
            (draft / "content").write_text(task.name)


def test_a_task_is_done_when_all_that_it_publishes_is_whole(tmp_path: Path) -> None:
    task = plan(_config())["select"]
    assert not task.is_done(Workspace(tmp_path))
    _publish(task, tmp_path)
    assert task.is_done(Workspace(tmp_path))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_task_with_a_damaged_or_missing_result_is_not_done(
    tmp_path: Path, which: int, damage: str
) -> None:
    task = plan(_config())["select"]
    _publish(task, tmp_path)
    content = tmp_path / task.publishes[which] / "content"
    if damage == "altered":
        content.write_text("?")
    else:
        content.unlink()
    assert not task.is_done(Workspace(tmp_path))


def test_a_task_that_publishes_nothing_is_never_done(tmp_path: Path) -> None:
    assert not plan(_config())["verify"].is_done(Workspace(tmp_path))
