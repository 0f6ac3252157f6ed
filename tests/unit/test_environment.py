"""What a process inherits: what holds, what does not, and what its own children get of it."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from mlpipeline import environment


def _prepared(**variables: str) -> dict[str, str]:
    environment._set_variables(variables)
    return variables


def test_what_the_user_sets_holds_unless_results_would_depend_on_it() -> None:
    prepared = _prepared(NVIDIA_TF32_OVERRIDE="1", KERAS_BACKEND="jax", KERAS_MAX_EPOCHS="1")
    assert prepared["NVIDIA_TF32_OVERRIDE"] == "1"
    assert prepared["KERAS_BACKEND"] == "tensorflow"
    assert "KERAS_MAX_EPOCHS" not in prepared


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "localhost,127.0.0.1,::1,.svc,.cluster.local"),
        ({"no_proxy": "a.com, b.com"}, "a.com,b.com,localhost,127.0.0.1,::1,.svc,.cluster.local"),
        ({"NO_PROXY": "localhost"}, "localhost,127.0.0.1,::1,.svc,.cluster.local"),
        ({"no_proxy": "*"}, "*"),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "MLFLOW_TRACKING_URI": "http://mlflow:5000"},
            "localhost,127.0.0.1,::1,.svc,.cluster.local,10.0.0.1,mlflow",
        ),
        (
            {"MLFLOW_TRACKING_URI": "https://mlflow.example.com"},
            "localhost,127.0.0.1,::1,.svc,.cluster.local",
        ),
        ({"MLFLOW_TRACKING_URI": "http://[::1"}, "localhost,127.0.0.1,::1,.svc,.cluster.local"),
    ],
)
def test_what_the_pipeline_addresses_itself_is_no_business_of_a_proxy(
    variables: dict[str, str], expected: str
) -> None:
    prepared = _prepared(**variables)
    assert prepared["no_proxy"] == prepared["NO_PROXY"] == expected
    assert _prepared(**prepared) == prepared, "a child adds nothing to it"
    assert "no_grpc_proxy" not in prepared


def test_grpc_has_a_list_of_its_own_where_the_user_set_one() -> None:
    assert _prepared(no_grpc_proxy="x")["no_grpc_proxy"].startswith("x,localhost,127.0.0.1")


def test_libraries_take_that_list_as_it_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _prepared(http_proxy="http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    for host in ("127.0.0.1:80", "localhost", "x.ns.svc", "x.ns.svc.cluster.local"):
        assert urllib.request.proxy_bypass(host), host
    assert not urllib.request.proxy_bypass("example.com")
    with httpx.Client() as client:
        proxied = client._transport_for_url(httpx.URL("http://example.com"))
        for url in ("http://127.0.0.1:80", "http://[::1]:80", "http://x.ns.svc:80"):
            assert client._transport_for_url(httpx.URL(url)) is not proxied, url


def test_children_get_no_cluster_that_was_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", "{}")
    monkeypatch.setenv("OWN", "kept")
    children = environment.of_children()
    assert "TF_CONFIG" not in children
    assert (children["OWN"], children["PYTHONIOENCODING"]) == ("kept", "utf-8")


@pytest.mark.parametrize("home", [None, "/nowhere/at/all"])
def test_who_has_no_home_gets_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    def nobody(*_: object) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    if home:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    variables = os.environ
    environment._be_at_home(variables)
    given = Path.home()
    assert given.parent == tmp_path
    assert given.stat().st_mode & 0o777 == 0o700
    assert getpass.getuser() == f"uid-{os.getuid()}"
    environment._be_at_home(variables)
    assert Path.home() == given, "and the same the next time"


def test_a_home_and_a_name_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOGNAME", "me")
    before = dict(os.environ)
    environment._be_at_home(os.environ)
    assert dict(os.environ) == before


def test_a_home_that_somebody_else_has_laid_out_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"mlpipeline-{os.getuid()}").symlink_to(tmp_path)
    monkeypatch.setenv("HOME", "/nowhere/at/all")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environment._be_at_home(os.environ)
    assert not Path.home().is_symlink()
    assert Path.home().parent == tmp_path


_SHOW = """
import signal, sys
from mlpipeline import environment
environment.prepare()
handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
assert signal.SIG_IGN not in handlers, handlers
assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
print("… é 字"); print("… é 字", file=sys.stderr)
"""


def _ignore_all() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("script", ['"$@"', '"$@" >&-', '"$@" 2>&-', '"$@" >&- 2>&- <&-'])
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8:strict"])
def test_signals_are_heard_and_everything_can_be_printed(script: str, encoding: str) -> None:
    done = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-c", _SHOW],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=60,
        preexec_fn=_ignore_all,  # no thread here
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


def test_what_is_started_so_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "child"
    child = ["bash", "-c", f"echo $$ >{file}.draft; mv {file}.draft {file}; exec sleep 60"]
    code = (
        "import subprocess, time\n"
        "from mlpipeline.environment import ends_with_us\n"
        f"subprocess.Popen([*ends_with_us(), *{child!r}])\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        _wait_until(file.exists)
        place = Path("/proc", file.read_text().strip())
        assert place.exists()
    finally:
        parent.kill()
        parent.wait()
    _wait_until(lambda: _has_ended(place))


def test_what_is_started_so_is_not_begun_if_its_parent_ends_before_it_asks(tmp_path: Path) -> None:
    """The kernel tells of the end of a parent only to whom it is still the parent."""
    file, done = tmp_path / "child", tmp_path / "done"
    code = (
        "import os, subprocess, time\n"
        "from pathlib import Path\n"
        "from mlpipeline.environment import ends_with_us\n"
        "parent = os.getpid()\n"
        "def until_the_parent_has_ended():\n"
        f"    Path({str(file)!r} + '.draft').write_text(str(os.getpid()))\n"
        f"    os.rename({str(file)!r} + '.draft', {str(file)!r})\n"
        "    while os.getppid() == parent:\n"
        "        time.sleep(0.02)\n"
        f"command = [*ends_with_us(), 'touch', {str(done)!r}]\n"
        "subprocess.Popen(command, preexec_fn=until_the_parent_has_ended)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        _wait_until(file.exists)
        place = Path("/proc", file.read_text())
        assert not _has_ended(place)
    finally:
        parent.kill()
        parent.wait()
    _wait_until(lambda: _has_ended(place))
    assert not done.exists()


def test_what_the_kernel_cannot_end_with_us_is_not_begun() -> None:
    *python, code, parent = environment.ends_with_us()
    no_signal = code.replace("prctl(1, signal.SIGTERM)", "prctl(1, 1_000)")
    assert no_signal != code
    done = subprocess.run(
        [*python, no_signal, parent, "echo", "begun"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "prctl(PR_SET_PDEATHSIG): Invalid argument; expected that" in done.stderr


def _has_ended(process: Path) -> bool:
    try:
        return ") Z " in (process / "stat").read_text()  # nobody may have asked how it ended
    except OSError:
        return True


def _wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("command", [["printenv", "A"], ["bash", "-c", "echo $A"]])
def test_what_is_started_so_is_the_command_itself(command: list[str]) -> None:
    done = subprocess.run(
        [*environment.ends_with_us(), *command],
        env=os.environ | {"A": "b c", "PYTHONPATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "b c\n", "")


def test_what_is_started_so_ignores_no_signal_that_python_does() -> None:
    command = [*environment.ends_with_us(), "grep", "SigIgn", "/proc/self/status"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ignored = int(done.stdout.split()[1], 16)
    assert [n for n in (signal.SIGPIPE, signal.SIGXFSZ) if ignored >> (n - 1) & 1] == []
