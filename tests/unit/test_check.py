"""`make check` itself: what is lacking is named, a failure shown, an unknown field refused."""

from __future__ import annotations

from typing import Any

import pytest

import check
import check_manifests
from check import Check

GOOD = Check(("python", "-c", "print('fine')"))
BAD = Check(("python", "-c", "print('line 3 is wrong'); raise SystemExit(1)"))
LACKING = Check(("no-such-linter",), remedy="install it")


def _main(monkeypatch: pytest.MonkeyPatch, checks: dict[str, Check], *names: str) -> int:
    monkeypatch.setattr(check, "checks", lambda: checks)
    return check.main(names)


def test_all_good_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert _main(monkeypatch, {"good": GOOD}) == 0


def test_a_failure_is_shown_and_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(monkeypatch, {"bad": BAD, "good": GOOD}) == 1
    out = capsys.readouterr().out
    assert "line 3 is wrong" in out
    assert "error: failed: bad" in out
    assert "good        ok" in out


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_what_is_lacking_is_named_and_in_ci_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ci: str, status: int
) -> None:
    monkeypatch.setenv("CI", ci)
    assert _main(monkeypatch, {"lint": LACKING, "good": GOOD}) == status
    assert "NOT CHECKED: lint: this machine has no no-such-linter\n  to do: install it" in (
        capsys.readouterr().out
    )


def test_one_may_choose_and_a_wrong_name_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(monkeypatch, {"bad": BAD, "good": GOOD}, "good") == 0
    assert _main(monkeypatch, {"bad": BAD, "good": GOOD}, "god") == 2
    assert "expected: bad, good" in capsys.readouterr().out


def test_every_script_of_bash_is_found_whatever_it_is_called() -> None:
    found = check.shell_scripts()
    assert {".ci/run", "scripts/lib.sh", "scripts/test.sh", "scripts/deploy.sh"} <= set(found)
    assert not [path for path in found if path.endswith((".py", ".yaml"))]


# --- Definitions --------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "properties": {
                "replicas": {"type": "integer"},
                "port": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}]},
                "free": {
                    "type": "object",
                    "properties": {"a": {"type": "string"}},
                    "x-kubernetes-preserve-unknown-fields": True,
                },
            },
        },
    },
}
DEFINITION = {
    "kind": "CustomResourceDefinition",
    "spec": {
        "group": "example.com",
        "names": {"kind": "Thing"},
        "versions": [
            {"name": "v1", "served": True, "schema": {"openAPIV3Schema": SCHEMA}},
            {"name": "v0", "served": False, "schema": {"openAPIV3Schema": SCHEMA}},
        ],
    },
}


def _problems(**spec: Any) -> list[str]:
    listed = list(check_manifests.schemas_of([{"kind": "Service"}, DEFINITION]))
    schemas = {(version, kind): schema for version, kind, schema in listed}
    assert schemas.keys() == {("example.com/v1", "Thing")}
    manifest = {"apiVersion": "example.com/v1", "kind": "Thing", "spec": spec}
    return list(check_manifests.check(manifest, schemas))


def test_what_fits_its_definition_has_no_problem() -> None:
    assert _problems(replicas=2, port="http", free={"anything": 1}) == []
    assert _problems(port=80) == []


def test_an_unknown_field_and_a_wrong_type_are_named() -> None:
    assert "'replica' was unexpected" in _problems(replica=2)[0]
    assert _problems(replicas="two")[0].startswith("spec.replicas: 'two' is not")


def test_kubernetes_own_kinds_are_checked_too() -> None:
    manifest: dict[str, Any] = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}
    assert list(check_manifests.check(manifest | {"spec": {"type": "NodePort"}}, {})) == []
    (problem,) = check_manifests.check(manifest | {"spec": {"typ": "NodePort"}}, {})
    assert "'typ' was unexpected" in problem
    unknown = manifest | {"apiVersion": "example.com/v1"}
    (problem,) = check_manifests.check(unknown, {})
    assert problem == "no definition of example.com/v1 Service is known"
