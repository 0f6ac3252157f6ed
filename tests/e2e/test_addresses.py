"""More than one model in a cluster: each has an address that leads to it, and is listed."""

from __future__ import annotations

import httpx
import pytest

import support.workflows_on_kind as kind

pytestmark = pytest.mark.timeout(1800)


def test_a_second_model_has_an_address_of_its_own_as_long_as_it_is_there(runs: kind.Runs) -> None:
    run = runs.submit(kind.configuration({"one": kind.QUICK}))
    run.assert_succeeds()
    name = run.content["name"]

    head, *lines = kind.call(str(kind.ROOT / "scripts/models.sh")).splitlines()
    assert head.split() == ["MODEL", "VERSION", "READY", "ADDRESS"]
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    version, ready, address = rows[name]
    assert (version, ready) == (run.keys()["select"], "True")

    def answers() -> bool:  # the nodes' proxies hear of a new port within a second or so
        try:
            return httpx.get(f"{address}/v2/models/{name}", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    kind.wait_until(answers, f"an answer from {address}", 60)
    assert httpx.get(f"{address}/v2/models/{name}").json()["versions"] == [version]
    assert kind.call(str(kind.ROOT / "scripts/models.sh")).splitlines().count(head) == 1
    service = f"{name}-address"
    assert kind.get("service", service) is not None
    kind.kubectl("delete", "inferenceservice", name)
    kind.wait_until(lambda: kind.get("service", service) is None, f"{service} to go", 120)


def test_a_name_that_kserve_would_refuse_is_refused_at_once(runs: kind.Runs) -> None:
    run = runs.submit(kind.configuration({"one": kind.QUICK}) | {"name": "3d"})
    assert run.wait(120) == "Failed"
    assert "name: got '3d'" in run.step_log("plan")
    assert run.nodes("ingest-pod") == []
