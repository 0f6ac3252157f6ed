"""What a process inherits from whoever started it, put right by `main` before anything else.

Variables that libraries read when they are imported, a home, signals, streams: a result depends on
none of them that is part of no key, and what we start ourselves is reached directly.
"""

from __future__ import annotations

import getpass
import os
import platform
import signal
import sys
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator, MutableMapping
from pathlib import Path

_DEFAULTS = {
    # TensorFlow reports at every step, as an error, that it cannot tell how often some buffers are
    # referred to; what matters comes as an exception.
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # The first process on a GPU would take all of its memory, and leave none to a second one.
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    # What is measured is what is served, wherever: TF32 is not float32, and answers that depend on
    # the size of their batch were 0.002 off on an H100, 0.000002 without it.
    "NVIDIA_TF32_OVERRIDE": "0",
    # MLflow: nobody is told of its use, and a server that is away is not asked for minutes.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
# Whatever the user has there for other programs: ours work with these alone.
_FIXED = {"KERAS_BACKEND": "tensorflow", "TF_USE_LEGACY_KERAS": "0", "KERAS_NNX_ENABLED": "false"}
_OTHERS = (
    *("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH"),  # of Keras's own loop, for debugging
    "WEB_CONCURRENCY",  # uvicorn takes it for its own number of processes
)
_CLUSTER = "TF_CONFIG"
# No process that we start gets it, but the step that signs: the others may run a user's code.
_PRIVATE = "MLPIPELINE_SIGNING_KEY"
# However this process ends, and be it by SIGKILL, the kernel then asks what it started to end, too:
# prctl(2), PR_SET_PDEATHSIG. `setpriv` does the same, but not every system has it, nor does each
# one know this. What Python ignores for itself alone would be ignored by the command as well. Of
# a parent that ended before it was asked the kernel says nothing: there is another one by then.
_BECOME = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM):
    number = ctypes.get_errno()
    raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}; expected that the "
        "kernel ends a command with its parent: run it on a Linux, or in a sandbox, that can")
if os.getppid() != int(parent):
    os._exit(128 + signal.SIGTERM)
os.execvp(command[0], command)
"""
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def prepare() -> None:
    """Put variables, signals and streams right; call it before TensorFlow or MLflow is imported.

    What the user or the pod sets holds, unless results would depend on it, or nothing would work.
    """
    _set_variables(os.environ)
    _be_at_home(os.environ)
    _hear_signals()
    _open_streams()


def of_children() -> dict[str, str]:
    """Return the variables of a process that this one starts.

    A `TF_CONFIG` that was left over here would have it wait for strangers. It writes UTF-8,
    whatever the terminal does: we read it. A key to sign with is for none but who signs.
    """
    kept = {n: value for n, value in os.environ.items() if n not in (_CLUSTER, _PRIVATE)}
    return kept | {"PYTHONIOENCODING": "utf-8"}


def ends_with_us() -> tuple[str, ...]:
    """Return what a command begins with that this very process starts and that is to end with it.

    Where the system is not Linux, nothing.
    """
    if sys.platform != "linux":
        return ()
    return (sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()))


def user() -> str:
    """Return who has started this process, and where, for a record."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user that has a number only
        name = str(os.getuid())
    return f"{name}@{platform.node()}"


def has_proxy() -> bool:
    """Whether the user wants a proxy for the outside world."""
    return any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES)


def _set_variables(variables: MutableMapping[str, str]) -> None:
    for name, value in _DEFAULTS.items():
        variables.setdefault(name, value)
    variables.update(_FIXED)
    for name in _OTHERS:
        variables.pop(name, None)
    # A proxy is the user's wish for the outside world. Workers, replicas, fronts and the cluster's
    # own services are none of that, and most proxies cannot reach them.
    without = variables.get("no_proxy") or variables.get("NO_PROXY") or ""
    for name, value in (("no_proxy", without), ("NO_PROXY", without)):
        variables[name] = _joined(value, _own_hosts(variables))
    if before := variables.get("no_grpc_proxy"):  # gRPC reads this one in place of the other
        variables["no_grpc_proxy"] = _joined(before, _own_hosts(variables))


def _own_hosts(variables: MutableMapping[str, str]) -> Iterator[str]:
    """Hosts that no proxy is asked for: this machine, and a cluster's services."""
    yield from ("localhost", "127.0.0.1", "::1", ".svc", ".cluster.local")
    if api := variables.get("KUBERNETES_SERVICE_HOST"):
        yield api
    try:
        tracking = urllib.parse.urlsplit(variables.get("MLFLOW_TRACKING_URI", "")).hostname or ""
    except ValueError:  # MLflow will say so
        return
    if tracking and "." not in tracking:  # a service of this namespace
        yield tracking


def _joined(listed: str, more: Iterable[str]) -> str:
    hosts = [host.strip() for host in listed.split(",") if host.strip()]
    if "*" in hosts:
        return listed
    return ",".join(dict.fromkeys([*hosts, *more]))


def _be_at_home(variables: MutableMapping[str, str]) -> None:
    """Give a user without a home one in the temporary folder: libraries keep what they fetch there.

    Containers are started with any number as user, which then has no entry in /etc/passwd.
    """
    try:
        has_home = Path.home().is_dir()
    except RuntimeError:  # nothing says where it is
        has_home = False
    if not has_home:
        folder = Path(tempfile.gettempdir(), f"mlpipeline-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():  # somebody else's
            folder = Path(tempfile.mkdtemp(prefix="mlpipeline-"))
        variables["HOME"] = str(folder)
    try:
        getpass.getuser()
    except (ImportError, KeyError, OSError):
        variables["LOGNAME"] = f"uid-{os.getuid()}"


def _hear_signals() -> None:
    """Take signals, whatever was inherited.

    A shell has what a script puts into the background ignore SIGINT; others leave SIGTERM ignored,
    or SIGCHLD, without which no process can be waited for. SIGHUP stays as it is, for `nohup`.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        if signal.getsignal(number) == signal.SIG_IGN:
            is_ctrl_c = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_ctrl_c else signal.SIG_DFL)


def _open_streams() -> None:
    """Let all be written: an encoding that has no `…` gets a `?`, a closed stream nothing."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # or the next file that is opened would get its number
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
