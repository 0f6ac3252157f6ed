"""A version that is tried on real requests: whatever it does, no client is worse off for it."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from mlpipeline.backends.local.canary import try_version
from mlpipeline.errors import ServingError
from mlpipeline.plan import config
from mlpipeline.plan.config import Rollout
from mlpipeline.serving.clients import Client, GrpcClient, V1Client, V2BinaryClient, V2JsonClient
from mlpipeline.steps import canary
from mlpipeline.steps.canary import Contest
from mlpipeline.store import history
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.rollout import RolloutTable
from support.load_client import Asking
from support.model_servers import HOST, NAME, Ports, Server, publish, started_replica
from support.pipelines import Pipeline, configuration, keys, states, wait_until

pytestmark = pytest.mark.timeout(600)

IMAGES = np.random.default_rng(5).integers(0, 256, (32, 28, 28), dtype=np.uint8)
OLD, SAME, OTHER = "fashion-mnist-old", "fashion-mnist-same", "fashion-mnist-other"
SHARE = 0.3


@dataclass
class Setting:
    """Versions of a model, two replicas of one of them, and what that says."""

    workspace: Workspace
    ports: Ports
    champions: list[Server]
    probabilities: npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    root = tmp_path_factory.mktemp("tried")
    workspace = Workspace(root)
    for version, seed in ((OLD, 3), (SAME, 3), (OTHER, 8)):
        published = publish(workspace.model(NAME, version).path, IMAGES, seed=seed)
        if version == OLD:
            probabilities = published.probabilities
    history.move(workspace, NAME, OLD, "published", by="run-1")
    ports = Ports()
    with ExitStack() as stack:
        champions = [
            stack.enter_context(
                started_replica(workspace.model(NAME, OLD).path, ports, name, root / f"{name}.log")
            )
            for name in ("replica-0", "replica-1")
        ]
        for champion in champions:
            champion.wait_until_ready()
        yield Setting(workspace, ports, champions, probabilities)


class Clients:
    """Clients of every protocol that ask all the time, one image or a few at once.

    Attributes:
        versions: How many answers were of which version; V1 does not say.
        challenged: How many the challenger has given, by whatever protocol.
        answered: How many answers there were.
        failures: What was no answer.
    """

    def __init__(self, ports: Ports) -> None:
        self.versions: Counter[str] = Counter()
        self.challenged = self.answered = 0
        self.failures: list[str] = []
        self._ports = ports
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask, args=(make, number))
            for number, make in enumerate(
                (
                    lambda: V1Client(ports.url, NAME),
                    lambda: V2JsonClient(ports.url, NAME),
                    lambda: V2BinaryClient(ports.url, NAME),
                    lambda: GrpcClient(ports.address, NAME),
                )
            )
        ]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, make: Callable[[], Client], number: int) -> None:
        count = 1 + 3 * number  # up to ten images a request
        while not self._over.is_set():
            with make() as client:  # a new connection now and then meets both replicas
                for _ in range(10):
                    try:
                        said = client.predict(IMAGES[:count], 30)
                    except (ServingError, httpx.HTTPError) as error:
                        self.failures.append(repr(error))
                        continue
                    assert said.probabilities.shape == (count, 10)
                    with self._lock:
                        self.answered += 1
                        self.versions[said.version] += 1
                        self.challenged += any("challenger" in who for who in said.replicas)
                    if self._over.wait(0.01):
                        return


@contextmanager
def _challenger(setting: Setting, version: str, log: Path) -> Iterator[tuple[Server, str]]:
    ports = Ports()
    folder = setting.workspace.model(NAME, version).path
    with started_replica(folder, ports, "challenger", log) as server:
        server.wait_until_ready()
        yield server, f"{HOST}:{ports.http}"


def _conduct(setting: Setting, version: str, address: str, **asked: Any) -> RolloutTable:
    contest = Contest(setting.workspace, NAME, OLD, version, address, is_served=True)
    return canary.conduct(Rollout(timeout_seconds=0.5, **asked), contest, who="run-2")


def _is_over(setting: Setting) -> None:
    """Assert that the champion answers everything again, as it does."""
    with V2BinaryClient(setting.ports.url, NAME) as client:
        for _ in range(20):
            said = client.predict(IMAGES, 30)
            assert said.version == OLD
            np.testing.assert_allclose(said.probabilities, setting.probabilities, atol=1e-5)


def test_one_that_says_the_same_answers_its_share_and_passes(
    setting: Setting, tmp_path: Path
) -> None:
    with (
        _challenger(setting, SAME, tmp_path / "log") as (_, address),
        Clients(setting.ports) as clients,
    ):
        table = _conduct(
            setting, SAME, address, canary={"share": SHARE, "seconds": 6, "slower_by": None}
        )
    assert clients.failures == []
    assert table.verdict == "passed", table.reason
    (trial,) = table.trials
    assert trial.replicas == ("replica-0", "replica-1")
    assert trial.tried >= 20
    assert trial.tried <= SHARE * trial.requests
    assert trial.tried >= SHARE * trial.requests - 2 - 0.02 * trial.requests
    assert {check.what: check.new for check in trial.checks}["same class"] == 1.0
    assert 0 < clients.challenged <= trial.tried
    assert 0 < clients.versions[SAME] < SHARE * clients.answered
    _is_over(setting)


def test_one_that_says_something_else_is_ended_early(setting: Setting, tmp_path: Path) -> None:
    with (
        _challenger(setting, OTHER, tmp_path / "log") as (_, address),
        Clients(setting.ports) as clients,
    ):
        began = time.monotonic()
        table = _conduct(setting, OTHER, address, canary={"share": SHARE, "seconds": 300})
        assert time.monotonic() - began < 60
    assert clients.failures == []
    assert table.verdict == "kept"
    assert "same class" in table.reason
    assert table.trials[0].tried <= SHARE * table.trials[0].requests
    _is_over(setting)


def test_nobody_hears_a_shadow(setting: Setting, tmp_path: Path) -> None:
    with (
        _challenger(setting, OTHER, tmp_path / "log") as (_, address),
        Clients(setting.ports) as clients,
    ):
        table = _conduct(
            setting,
            OTHER,
            address,
            shadow={"share": 1.0, "seconds": 5, "agreement": None, "slower_by": None},
        )
    assert clients.failures == []
    assert clients.versions.keys() == {OLD, ""}  # V1 does not say
    assert clients.challenged == 0
    assert table.verdict == "passed", table.reason
    checks = {check.what: check.new for check in table.trials[0].checks}
    assert checks["same class"] < 0.9
    assert table.trials[0].images > 20


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=["hangs", "is killed"])
def test_one_that_goes_wrong_meanwhile_costs_nobody_an_answer(
    setting: Setting, tmp_path: Path, how: signal.Signals
) -> None:
    with (
        _challenger(setting, SAME, tmp_path / "log") as (server, address),
        Clients(setting.ports) as clients,
    ):
        timer = threading.Timer(3, server.process.send_signal, [how])
        timer.start()
        table = _conduct(setting, SAME, address, canary={"share": SHARE, "seconds": 300})
        timer.join()
    assert clients.failures == []
    assert table.verdict == "kept"
    assert "failures in a row" in table.reason or "failed requests" in table.reason
    _is_over(setting)


def test_one_that_is_slow_does_not_take_the_place(setting: Setting, tmp_path: Path) -> None:
    """It is: it stands still a third of a second in every second."""
    with (
        _challenger(setting, SAME, tmp_path / "log") as (server, address),
        Clients(setting.ports) as clients,
    ):
        over = threading.Event()

        def slow_down() -> None:
            while not over.wait(0.15):
                server.process.send_signal(signal.SIGSTOP)
                over.wait(0.3)
                server.process.send_signal(signal.SIGCONT)

        thread = threading.Thread(target=slow_down)
        thread.start()
        table = _conduct(setting, SAME, address, canary={"share": SHARE, "seconds": 8})
        over.set()
        thread.join()
    assert clients.failures == []
    assert table.verdict == "kept"
    assert "time with the way to it" in table.reason
    _is_over(setting)


def test_where_whoever_gave_the_order_is_gone_the_trial_ends_by_itself(
    setting: Setting, tmp_path: Path
) -> None:
    settings = _settings(setting.workspace, seconds=300)
    file = tmp_path / "config.yaml"
    config.write(settings, file)
    pipeline = Pipeline(tmp_path, configuration({"cnn": {"model": "cnn"}}))
    with (
        _challenger(setting, SAME, tmp_path / "log") as (_, address),
        Clients(setting.ports) as clients,
    ):
        program = ["-m", "mlpipeline", "step", "canary", "--config", str(file)]
        program += ["--workspace", str(setting.workspace), "--version", SAME]
        with pipeline.started_program([*program, "--challenger", address]) as command:
            wait_until(lambda: clients.challenged > 3, command)
            command.process.kill()
            command.process.wait()
        time.sleep(15)
        with V2BinaryClient(setting.ports.url, NAME) as client:
            assert {client.predict(IMAGES[:1], 30).version for _ in range(40)} == {OLD}
    assert clients.failures == []
    setting.workspace.trial_order(NAME).unlink()


def _settings(workspace: Workspace, **canary: Any) -> config.Config:
    raw = {"name": NAME, "candidates": {"cnn": {"model": "cnn"}}}
    asked = {"share": SHARE} | canary
    return config.parse(raw | {"rollout": {"canary": asked}}, origin="test")


def test_one_that_does_not_load_is_not_tried(setting: Setting, tmp_path: Path) -> None:
    broken = setting.workspace.model(NAME, "fashion-mnist-broken")
    publish(broken.path, IMAGES)
    broken.tflite.write_bytes(b"no model")

    async def conduct(_: str) -> None:
        raise AssertionError("there is nothing that could be tried")

    table = asyncio.run(
        try_version(
            _settings(setting.workspace),
            setting.workspace,
            broken.version,
            conduct=conduct,
            output=tmp_path / "rollout.json",
        )
    )
    assert table.verdict == "kept"
    assert table.reason.startswith("its replica does not start: ")
    _is_over(setting)


# --- a whole run ----------------------------------------------------------------------------------

TOY = {"model": "cnn", "options": {"widths": [8, 16], "units": 32}, "epochs": 3}
TOY |= {"learning_rate": 3e-3}


def test_a_run_tries_what_it_has_made_on_the_requests_to_what_is_served(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, configuration({"small": TOY}))
    command = pipeline.call("run")
    assert command.process.returncode == 0, command.errors
    first = pipeline.current()

    port, grpc_port = Ports().http, Ports().grpc
    pipeline.content["serving"] |= {"port": port, "grpc_port": grpc_port}
    with pipeline.started("serve") as service:
        wait_until(lambda: "curl" in service.output, service)
        pipeline.content["serving"] |= {"port": Ports().http, "grpc_port": Ports().grpc}
        trial: dict[str, Any] = {"share": 0.5, "seconds": 4, "requests": 5}
        pipeline.content["rollout"] = {"canary": trial}
        with Asking(f"http://{HOST}:{port}", "toy") as client:
            # It does not learn anything, and there is no gate.
            pipeline.content["candidates"]["small"] = TOY | {"learning_rate": 1e-9, "epochs": 1}
            command = pipeline.call("run")
            assert command.process.returncode == 0, command.errors
            assert f"succeeded, kept {first}" in command.output
            left_out = {"canary": "succeeded", "serve": "skipped", "verify": "skipped"}
            assert states(pipeline.last_run()).items() >= left_out.items()
            assert pipeline.current() == first
            held = keys(pipeline.last_run())["select"]
            known = history.held_back(Workspace(pipeline.workspace), "toy", held)
            assert known is not None
            assert "held back by the canary in run" in known.reason
            assert "same class" in known.reason

            pipeline.content["rollout"]["required"] = True
            command = pipeline.call("run")
            assert command.process.returncode == 1
            assert f"version {held} is held back: canary: " in command.errors

            pipeline.content["candidates"]["small"] = TOY
            # The same, by another engine, which takes longer.
            pipeline.content["serving"]["engine"] = "tensorflow"
            trial |= {"slower_by": None}
            command = pipeline.call("run")
            assert command.process.returncode == 0, command.errors
            second = pipeline.current()
            assert second != first
            wait_until(lambda: client.versions == [first, second], service)
        assert client.failures == []
    assert "images the same" in command.output
