"""Whatever surrounds it: variables, home, streams, signals, paths, and other runs beside it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlpipeline.store import artifacts
from support.not_tested import leave_out, needs
from support.pipelines import Pipeline, configuration, keys, states, wait_until

pytestmark = pytest.mark.timeout(900)

SECONDS_TO_STOP = 30
CANDIDATES = {"good": {"model": "cnn", "options": {"widths": [8], "units": 16}, "epochs": 1}}
_ODD = 'it\'s a "strange" $HOME, é'
# Nothing listens on this port: whoever asks this proxy gets no answer.
_DEAD = "127.0.0.1:9"
PROXIES = dict.fromkeys(("http_proxy", "HTTPS_PROXY", "grpc_proxy"), f"http://{_DEAD}")
STRANGERS = {"cluster": {"worker": [_DEAD, _DEAD]}, "task": {"type": "worker", "index": 0}}
HOSTILE = PROXIES | {
    "all_proxy": f"socks5://{_DEAD}",
    "no_proxy": "localhost",
    "TF_CONFIG": json.dumps(STRANGERS),
    "KERAS_BACKEND": "jax",
    "KERAS_MAX_EPOCHS": "1",
    "TF_USE_LEGACY_KERAS": "1",
    "WEB_CONCURRENCY": "many",
    "PYTHONIOENCODING": "latin-1:strict",
    "PYTHONOPTIMIZE": "1",
    "TMPDIR": "/nowhere",
    "LC_ALL": "C",
    "TZ": "Pacific/Kiritimati",
    "COLUMNS": "0",
}


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@contextlib.contextmanager
def _as_a_script_starts_it() -> Iterator[None]:
    """What is started here inherits that SIGINT is ignored, as what a script puts behind `&`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A finished run in ordinary surroundings."""
    pipeline = Pipeline(tmp_path_factory.mktemp("plain"), configuration(CANDIDATES))
    pipeline.content["training"]["workers"] = 1
    command = pipeline.call("run")
    assert command.process.returncode == 0, command.errors + command.output
    return pipeline


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The same in as hostile ones as can be, with two workers."""
    folder = tmp_path_factory.mktemp("hostile") / _ODD
    settings = folder / "home" / ".keras" / "keras.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        '{"floatx": "float16", "epsilon": 0.1, "backend": "jax",'
        ' "image_data_format": "channels_first"}'
    )
    content = configuration(CANDIDATES)
    if _has_ipv6():
        content["serving"]["host"] = "::1"
    pipeline = Pipeline(folder, content)
    with pipeline.started("run", environment=_hostile(pipeline)) as command:
        assert command.wait() == 0, command.errors + command.output
        assert command.members() == []
    return pipeline


def _hostile(pipeline: Pipeline) -> dict[str, str]:
    return HOSTILE | {"HOME": str(pipeline.folder / "home")}


def test_a_run_in_hostile_surroundings_does_what_it_does_in_others(
    plain: Pipeline, hostile: Pipeline
) -> None:
    record = hostile.last_run()
    assert set(states(record).values()) == {"succeeded"}
    assert keys(record) == keys(plain.last_run())
    answers = [
        np.load(each.workspace / "selections" / keys(record)["select"] / "test_probabilities.npy")
        for each in (plain, hostile)
    ]
    # Two workers add up the gradients in another order than one.
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-3)


@needs("curl", to_do="apt-get install curl")
def test_the_command_that_serve_prints_works_and_ctrl_c_ends_it(hostile: Pipeline) -> None:
    environment = _hostile(hostile)
    with (
        _as_a_script_starts_it(),
        hostile.started("serve", environment=environment) as command,
    ):
        wait_until(lambda: "curl" in _read(command.files[0]), command, seconds=120)
        (line,) = [each for each in _read(command.files[0]).splitlines() if "curl" in each]
        answer = subprocess.run(
            ["bash", "-c", line], env=os.environ | environment, capture_output=True, check=True
        )
        assert len(json.loads(answer.stdout)["predictions"]) == 1, answer.stderr
        assert "--noproxy" in shlex.split(line)
        command.process.send_signal(signal.SIGINT)
        assert command.wait(SECONDS_TO_STOP) == 0
        assert command.members() == []


def _read(file: Path) -> str:
    return file.read_text(encoding="latin-1")


def test_an_image_may_be_called_anything(hostile: Pipeline) -> None:
    image = hostile.folder / 'it\'s "a" $HOME é.png'
    Image.new("L", (28, 28), 40).save(image)
    with hostile.started("predict", str(image), environment=_hostile(hostile)) as command:
        assert command.wait() == 0, _read(command.files[1])


def test_make_passes_on_any_path(tmp_path: Path) -> None:
    """A stand-in for Python shows what it is called with."""
    root = Path(__file__).parents[2]
    for name in ("Makefile", "scripts"):
        (tmp_path / name).symlink_to(root / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    odd = _ODD
    for arguments in (["run"], ["predict", f"IMAGE={odd}"], ["edge", f"OUTPUT={odd}"], ["watch"]):
        done = subprocess.run(
            ["make", "-o", ".venv/.ready", *arguments, f"CONFIG={odd}", f"WORKSPACE={odd}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert odd in done.stdout.splitlines(), done.stdout
    kept = tmp_path / "a"
    kept.mkdir()
    (tmp_path / "a b").mkdir()
    subprocess.run(["make", "clean", "WORKSPACE=a b"], cwd=tmp_path, check=True, timeout=60)
    assert kept.exists()
    assert not (tmp_path / "a b").exists()


@pytest.mark.parametrize("stdout", ["/dev/full", "a pipe that nobody reads", "closed"])
def test_a_run_that_nobody_reads_ends_well(plain: Pipeline, stdout: str) -> None:
    arguments = [sys.executable, "-m", "mlpipeline", "run", "--config"]
    arguments += [str(plain.write_config()), "--workspace", str(plain.workspace)]
    quoted = shlex.join(arguments)
    script = {
        "/dev/full": f"{quoted} >/dev/full",
        "a pipe that nobody reads": f"{quoted} | true; exit ${{PIPESTATUS[0]}}",
        "closed": f"{quoted} >&- <&-",
    }[stdout]
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert plain.last_run()["state"] == "succeeded"


def test_two_runs_at_once_in_a_new_workspace_make_everything_once(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, configuration(CANDIDATES))
    with pipeline.started("run") as first, pipeline.started("run") as second:
        assert [first.wait(), second.wait()] == [0, 0], first.errors + second.errors
        both = first.output + second.output
    records = pipeline.runs()
    assert [record["state"] for record in records] == ["succeeded", "succeeded"], both
    for task in ("ingest", "train-good", "select"):
        made = sorted(states(record)[task] for record in records)
        assert made == ["reused", "succeeded"], both
    assert re.search(r"(ingest|train-good|select) waits for \d{8}-\d{6}-\d+ \(process \d+", both)
    assert pipeline.leftovers() == []
    assert not list(pipeline.workspace.rglob(".*.lease"))
    assert not list(pipeline.workspace.rglob(".*.work"))


def test_a_run_whose_holder_was_killed_takes_over(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, configuration(CANDIDATES))
    with pipeline.started("run") as first:
        leases = pipeline.workspace / "datasets"
        wait_until(lambda: list(leases.glob(".*.lease")), first)
        with pipeline.started("run") as second:
            wait_until(lambda: "waits for" in second.output, second, seconds=60)
            first.process.kill()
            assert second.wait() == 0, second.errors + second.output
    assert pipeline.last_run()["state"] == "succeeded"


def test_a_user_without_home_and_without_a_name_can_run_it(plain: Pipeline) -> None:
    if os.getuid():
        leave_out("root", why="another user cannot be taken", to_do="run the tests as root")
    folder = Path("/tmp") / f"mlpipeline-test-{os.getpid()}"
    shutil.copytree(plain.folder, folder)
    try:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 12345, 12345)
        shutil.rmtree(next((folder / "workspace").glob("candidates/good-*")))
        source = Path(sys.modules["mlpipeline"].__file__ or "").parents[1]
        command = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
        # The interpreter may lie in root's home, where nobody else may look.
        probe = [*command, "env", "-i", sys.executable, "-c", ""]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            may_look = "+dac_read_search"
            command += ["--inh-caps", may_look, "--ambient-caps", may_look]
        command += ["env", "-i", f"PYTHONPATH={source}", f"PATH={os.environ['PATH']}"]
        command += [sys.executable, "-m", "mlpipeline", "run"]
        command += ["--config", str(folder / "config.yaml")]
        command += ["--workspace", str(folder / "workspace")]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        assert sorted(p.name for p in folder.glob("~*")) == [], "nothing is kept in `~`"
    finally:
        shutil.rmtree(folder)
        shutil.rmtree("/tmp/mlpipeline-12345", ignore_errors=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_tests_that_are_ended_leave_nothing(tmp_path: Path, number: signal.Signals) -> None:
    tests = Path(__file__).parents[1]
    (tmp_path / "test_it.py").write_text(
        "import time\n"
        "from support.pipelines import Pipeline, configuration, wait_until\n"
        "def test_it(tmp_path):\n"
        f"    pipeline = Pipeline(tmp_path, configuration({CANDIDATES!r}))\n"
        "    with pipeline.started('run') as command:\n"
        "        wait_until(command.members, command)\n"
        f"        open({str(tmp_path / 'mark')!r}, 'w').write(command.mark)\n"
        "        time.sleep(600)\n"
    )
    mark = tmp_path / "mark"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]
    command += ["--rootdir", str(tmp_path), "-p", "conftest", str(tmp_path / "test_it.py")]
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": f"{tests}:{os.environ.get('PYTHONPATH', '')}"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        end = time.monotonic() + 120
        while not (mark.exists() and mark.read_text()):
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(number)
        process.wait(60)
        end = time.monotonic() + 60
        while left := _marked(mark.read_text()):
            assert time.monotonic() < end, left
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def _marked(mark: str) -> list[str]:
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in environ.read_bytes():
                found.append((environ.parent / "cmdline").read_text().replace("\0", " "))
    return found


def test_the_record_names_each_run_apart(plain: Pipeline) -> None:
    names = [record["run"] for record in plain.runs()]
    assert len(set(names)) == len(names)
    assert all(artifacts.read_json(plain.workspace / "runs" / n / "run.json") for n in names)
