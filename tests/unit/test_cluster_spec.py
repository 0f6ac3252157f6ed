"""Which worker this process is: what `TF_CONFIG` says, and what is said where it cannot be used."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mlpipeline.errors import ConfigurationError
from mlpipeline.learning.training.cluster_spec import (
    ClusterSpec,
    ParameterServerSpec,
    Role,
    from_environment,
    to_environment,
)

TWO = ("10.0.0.1:2222", "10.0.0.2:2222")


def _environment(cluster: Any, kind: str, index: Any) -> dict[str, str]:
    content = {"cluster": cluster, "task": {"type": kind, "index": index}}
    return {"TF_CONFIG": json.dumps(content)}


@pytest.mark.parametrize("environment", [{}, {"TF_CONFIG": ""}])
def test_without_a_cluster_a_process_trains_alone(environment: dict[str, str]) -> None:
    alone = from_environment(environment)
    assert (alone.workers, alone.size, alone.is_chief) == ((), 1, True)


@pytest.mark.parametrize("index", [0, 1])
def test_what_a_backend_sets_is_what_a_worker_reads(index: int) -> None:
    spec = from_environment(to_environment(TWO, index))
    assert spec == ClusterSpec(TWO, index)
    assert (spec.size, spec.is_chief) == (2, index == 0)


def test_a_single_worker_needs_no_cluster() -> None:
    assert to_environment(TWO[:1], 0) == {}


@pytest.mark.parametrize(
    ("kind", "index", "place"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)]
)
def test_a_chief_comes_before_the_workers(kind: str, index: int, place: int) -> None:
    cluster = {"worker": list(TWO), "chief": ["10.0.0.9:2222"], "evaluator": ["10.0.0.8:2222"]}
    spec = from_environment(_environment(cluster, kind, index))
    assert spec == ClusterSpec(("10.0.0.9:2222", *TWO), place)
    assert spec.is_chief == (kind == "chief")


def test_an_index_may_be_text_as_some_operators_write_it() -> None:
    assert from_environment(_environment({"worker": TWO}, "worker", "1")).index == 1


@pytest.mark.parametrize(
    ("role", "index"), [("chief", 0), ("ps", 0), ("ps", 1), ("worker", 0), ("worker", 1)]
)
def test_each_process_of_a_cluster_with_parameter_servers_knows_its_role(
    role: Role, index: int
) -> None:
    whole = ParameterServerSpec("10.0.0.9:2222", ("10.0.0.7:2222", "10.0.0.8:2222"), TWO)
    spec = from_environment(whole.environment_of(role, index))
    assert spec == replace(whole, role=role, index=index)
    assert (spec.size, spec.is_chief) == (2, role == "chief")


def test_the_evaluator_that_an_operator_names_is_no_part_of_the_cluster() -> None:
    cluster = {"chief": ["c:1"], "ps": ["p:1"], "worker": ["w:1"], "evaluator": ["e:1"]}
    spec = from_environment(_environment(cluster, "chief", 0))
    assert isinstance(spec, ParameterServerSpec)
    assert spec.addresses() == {"chief": ["c:1"], "ps": ["p:1"], "worker": ["w:1"]}
    with pytest.raises(ConfigurationError, match="evaluator"):
        from_environment(_environment(cluster, "evaluator", 0))


@pytest.mark.parametrize(
    "environment",
    [
        {"TF_CONFIG": "{"},
        {"TF_CONFIG": "[]"},
        {"TF_CONFIG": "null"},
        {"TF_CONFIG": "{}"},
        {"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'},
        _environment(["a:1"], "worker", 0),
        _environment({"worker": TWO}, "worker", 2),
        _environment({"worker": TWO}, "worker", "x"),
        _environment({"worker": TWO}, "worker", None),
        _environment({"worker": TWO}, "worker", -1),
        _environment({"worker": TWO}, "chief", 0),
        _environment({"worker": TWO, "ps": ["b:1"]}, "ps", 0),
        _environment({"chief": ["a:1"], "ps": ["b:1"]}, "ps", 0),
        _environment({"chief": ["a:1", "a:2"], "worker": TWO, "ps": ["b:1"]}, "ps", 0),
        _environment({"worker": 3}, "worker", 0),
        _environment({"worker": "a:1"}, "worker", 0),
    ],
    ids=[
        *("cut", "list", "null", "empty", "no-task", "no-kinds", "index", "text", "none"),
        *("negative", "no-chief", "chiefless", "workerless", "two-chiefs", "number", "no-list"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_shown(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="TF_CONFIG") as raised:
        from_environment(environment)
    assert environment["TF_CONFIG"] in raised.value.got
