"""What Argo would evaluate is found wherever it stands, and however it is spelt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mlpipeline.backends.cluster import planning
from mlpipeline.backends.cluster.planning import Overrides
from mlpipeline.errors import ConfigurationError
from mlpipeline.plan import braces

BASE = Path(__file__).parents[2] / "manifests" / "base"
TEXT = (
    "name: m\ndata: {{dataset: synthetic, revision: {revision}}}\ncandidates: {{a: {{model: cnn}}}}"
)


@pytest.mark.parametrize(
    ("content", "places"),
    [
        ({"a": 1, "b": [None, True, "{ {", "}}"], "c": {"d": "{"}}, []),
        ({"a": {"b": ["x", "x {{y}}"]}, "c": "{{="}, ["a.b.1", "c"]),
        ({"a": {"{{b": 1}}, ["a key of a"]),
        ({"{{": {}}, ["a key"]),
        (["{{"], ["0"]),
        ("{{", ["it"]),
        ("{", []),
    ],
)
def test_double_braces_are_found_in_values_and_in_keys(content: Any, places: list[str]) -> None:
    assert braces.places(content) == places


@pytest.mark.parametrize(
    "revision", ["'{{workflow.name}}'", r'"\x7b\x7b=1+1}}"', r'"{\u007b=sprig.upper(1)}}"']
)
def test_a_configuration_that_has_them_cannot_be_run_in_a_cluster(revision: str) -> None:
    text = TEXT.format(revision=revision)
    with pytest.raises(ConfigurationError) as raised:
        planning.resolve(text, Overrides())
    assert "in the configuration's data.revision" in raised.value.got


def test_a_single_brace_is_only_a_brace() -> None:
    assert planning.resolve(TEXT.format(revision="'{ {a}}'"), Overrides()).data.revision == "{ {a}}"


def test_the_policy_looks_at_the_parameters_of_new_and_of_changed_workflows_here_alone() -> None:
    policy, binding = yaml.safe_load_all((BASE / "braces-policy.yaml").read_text())
    constraints = policy["spec"]["matchConstraints"]
    (rule,) = constraints["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["workflows"], ["CREATE", "UPDATE"])
    assert constraints["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "mlpipeline"
    }
    (validation,) = policy["spec"]["validations"]
    assert f"contains('{braces.OPEN}')" in validation["expression"]
    assert policy["spec"]["failurePolicy"] == "Fail"
    assert binding["spec"] == {
        "policyName": policy["metadata"]["name"],
        "validationActions": ["Deny"],
    }
