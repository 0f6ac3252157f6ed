"""Whose code a configuration may name, and that nothing of another's is imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlpipeline.backends.local import commands, inbox
from mlpipeline.errors import ConfigurationError
from mlpipeline.learning.plugins import resolve
from mlpipeline.plan import config, permissions, pipeline
from mlpipeline.store.layout import Workspace

ROOT = Path(__file__).parents[2]
SHELL = {"model": "pydoc:pipepager", "options": {"cmd": "id > owned.txt"}}


@pytest.fixture(autouse=True)
def _nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(permissions.VARIABLE, raising=False)
    monkeypatch.delenv(permissions.OF_CLUSTER, raising=False)
    permissions._declared.cache_clear()


def configuration(**candidate: Any) -> config.Config:
    raw = {"name": "m", "data": {"dataset": "synthetic"}, "candidates": {"a": candidate}}
    return config.parse(raw, origin="a test")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of one's own, and the name that it has."""
    name = "project_of_this_test"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "models.py").write_text(
        "from functools import partial\nfrom subprocess import call\n\n\n"
        "def wide(inputs, width=1):\n    return width\n\n\nwider = partial(wide, width=2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


def test_on_ones_own_machine_everything_may_be_named(project: str) -> None:
    pipeline.plan(configuration(model=f"{project}.models:wide"))
    assert resolve(f"{project}.models:wide", {}, kind="model")(None) == 1


@pytest.mark.parametrize("variable", [permissions.VARIABLE, permissions.OF_CLUSTER])
def test_where_a_variable_is_set_only_what_it_names_may_be(
    monkeypatch: pytest.MonkeyPatch, project: str, variable: str
) -> None:
    monkeypatch.setenv(variable, "")
    reference = f"{project}.models:wide"
    with pytest.raises(ConfigurationError, match="may not be named here") as raised:
        pipeline.plan(configuration(model=reference))
    assert reference in raised.value.got
    assert "allowed: none is" in raised.value.expected
    with pytest.raises(ConfigurationError, match="may not be named here"):
        resolve(reference, {}, kind="model")
    assert f"{project}.models" not in sys.modules, "it must not be imported: that runs it"

    monkeypatch.setenv(variable, f"another {project}")
    pipeline.plan(configuration(model=reference))
    assert resolve(reference, {}, kind="model")(None) == 1
    with pytest.raises(ConfigurationError) as raised:
        pipeline.plan(configuration(**SHELL))
    assert f"another, {project}" in raised.value.expected


def test_the_lists_of_an_image_and_of_a_cluster_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(permissions.VARIABLE, "one")
    monkeypatch.setenv(permissions.OF_CLUSTER, "two,three")
    permissions.check(["one:f", "one.deep:f", "two:f", "three:f", "cnn"])
    for other in ("ones:f", "on:f", "One:f"):
        with pytest.raises(ConfigurationError):
            permissions.check([other])


def test_what_an_installed_package_declares_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: str
) -> None:
    installed = tmp_path / f"{project}-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[mlpipeline.plugins]\nmine = {project}\n")
    importlib.invalidate_caches()
    permissions._declared.cache_clear()
    monkeypatch.setenv(permissions.OF_CLUSTER, "")
    pipeline.plan(configuration(model=f"{project}.models:wide"))


def test_the_pipelines_own_functions_may_be_named_by_their_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(permissions.OF_CLUSTER, "")
    pipeline.plan(configuration(model="mlpipeline.learning.model.models:cnn"))
    resolve("mlpipeline.learning.data.datasets:synthetic", {}, kind="data set")
    for other in ("mlpipeline.backends.local.processes:run", "mlpipeline.store.files:write_text"):
        with pytest.raises(ConfigurationError):
            permissions.check([other])


def test_a_name_that_a_module_has_only_imported_is_not_its_own(
    monkeypatch: pytest.MonkeyPatch, project: str
) -> None:
    monkeypatch.setenv(permissions.OF_CLUSTER, project)
    with pytest.raises(ConfigurationError, match=r"which is `subprocess`'s, may not be named"):
        resolve(f"{project}.models:call", {}, kind="model")
    assert resolve(f"{project}.models:wider", {}, kind="model")(None) == 2


@pytest.mark.parametrize("reference", ["pydoc:pipepager", "os:system", "runpy:run_path"])
def test_a_data_set_is_no_other_way_in(monkeypatch: pytest.MonkeyPatch, reference: str) -> None:
    monkeypatch.setenv(permissions.OF_CLUSTER, "")
    raw = {"name": "m", "data": {"dataset": reference}, "candidates": {"a": SHELL}}
    with pytest.raises(ConfigurationError) as raised:
        pipeline.plan(config.parse(raw, origin="a test"))
    named = dict.fromkeys((reference, "pydoc:pipepager"))  # all of them at once
    assert raised.value.got == f"{', '.join(f'`{n}`' for n in named)} may not be named here"


def test_a_search_is_no_other_way_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(permissions.OF_CLUSTER, "")
    raw = {
        "name": "m",
        "search": {
            "s": {
                "model": "pydoc:pipepager",
                "method": "grid",
                "space": {"epochs": {"values": [1, 2]}},
            }
        },
    }
    with pytest.raises(ConfigurationError, match=r"pydoc:pipepager.* may not be named"):
        pipeline.plan(config.parse(raw, origin="a test"))


def test_whoever_watches_an_inbox_allows_no_more_than_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def watch(self: inbox.Inbox) -> None:
        with pytest.raises(ConfigurationError, match="may not be named"):
            permissions.check(["pydoc:pipepager"])

    monkeypatch.setattr(inbox.Inbox, "watch", watch)
    monkeypatch.setenv(permissions.VARIABLE, "")  # so that it is as before afterwards
    monkeypatch.delenv(permissions.VARIABLE)
    commands.watch(Workspace(tmp_path))
    monkeypatch.setenv(permissions.VARIABLE, "pydoc")
    permissions.restrict()
    permissions.check(["pydoc:pipepager"])  # what the person allows holds


def test_every_pod_that_may_import_a_plugin_is_told_what_the_operator_allows() -> None:
    base = ROOT / "manifests" / "base"
    plugins = yaml.safe_load((base / "plugins.yaml").read_text())
    assert plugins["data"] == {"allowed": ""}, "none, until an operator says so"
    expected = {
        "name": permissions.OF_CLUSTER,
        "valueFrom": {"configMapKeyRef": {"name": plugins["metadata"]["name"], "key": "allowed"}},
    }
    (worker,) = yaml.safe_load((base / "templates" / "tfjob.yaml").read_text())["spec"][
        "tfReplicaSpecs"
    ]["Worker"]["template"]["spec"]["containers"]
    containers = [worker]
    for file in (
        *(ROOT / "workflows").glob("*.yaml"),
        ROOT / "manifests" / "components" / "events" / "workflow-templates.yaml",
    ):
        for document in yaml.safe_load_all(file.read_text()):
            templates = document.get("spec", {}).get("templates", ())
            containers += [t["container"] for t in templates if "container" in t]
    assert len(containers) > 10
    assert all(expected in container["env"] for container in containers)
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    assert f'{permissions.VARIABLE}=""' in dockerfile, "nor does an image by itself"
