"""Objects of the cluster, kept current by watches: what a wait looks at instead of asking again.

    list ──► watch ──► ADDED, MODIFIED, DELETED … ──► the watch ends ──► list …

A watch ends when its time is up, its version is too old (410 Gone), the connection breaks or the
API server restarts. Whatever it was, the objects are listed anew: so no event is missed for longer
than one watch takes. Who waits is woken by every change, and looks at the clock once a second.
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from mlpipeline.errors import ClusterError, ClusterUnreachableError

if TYPE_CHECKING:
    from mlpipeline.backends.cluster.api import Cluster, Manifest

_log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""Longest wait between two looks at the clock; it costs the API server nothing."""

_WATCH_SECONDS = 300
_PAUSE_SECONDS = 1.0  # between two lists, where each watch ends at once
_GONE = 410


class Reader(Protocol):
    """What can be asked for objects: the API server itself, or a view of it."""

    def get(self, kind: str, name: str) -> Manifest | None:
        """Return an object, or None where there is none."""

    def find(self, kind: str, selector: str = "") -> list[Manifest]:
        """Return the objects that have certain labels, such as `app=x,tier=y`."""


@dataclass(frozen=True)
class Selection:
    """The objects that are watched.

    Attributes:
        kind: Their kind.
        labels: Labels and values that they have; empty for all objects.
        name: Name of the only one; empty for all.
    """

    kind: str
    labels: str = ""
    name: str = ""


class View:
    """Some objects of a cluster as they are now, from the beginning of `with` to its end."""

    def __init__(self, cluster: Cluster, selections: Sequence[Selection]) -> None:
        """Prepare a view; nothing is asked yet.

        Args:
            cluster: Where the objects are.
            selections: Which objects; each kind at most once.
        """
        self._changed = threading.Event()
        self._informers = {s.kind: _Informer(cluster, s, self._changed) for s in selections}

    def __enter__(self) -> View:
        """List the objects, and begin to watch them.

        Raises:
            ClusterError: The API server refuses, or cannot be reached.
        """
        for informer in self._informers.values():
            informer.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """End the watches."""
        for informer in self._informers.values():
            informer.stop()

    def get(self, kind: str, name: str) -> Manifest | None:
        """Return an object, or None where there is none.

        Raises:
            ClusterError: It cannot be watched any more.
        """
        return self._informers[kind].objects().get(name)

    def find(self, kind: str, selector: str = "") -> list[Manifest]:
        """Return the objects that have certain labels, in the order of their names.

        Raises:
            ClusterError: They cannot be watched any more.
        """
        wanted = dict(pair.split("=", 1) for pair in selector.split(",") if pair).items()
        objects = sorted(self._informers[kind].objects().items())
        return [o for _, o in objects if wanted <= (o["metadata"].get("labels") or {}).items()]

    def wait(self, seconds: float = TICK_SECONDS) -> None:
        """Wait until something has changed, at most for some seconds."""
        self._changed.wait(seconds)
        self._changed.clear()


class _Informer:
    """Keeps the objects of one selection current, in a thread of its own."""

    def __init__(self, cluster: Cluster, selection: Selection, changed: threading.Event) -> None:
        self._cluster = cluster
        self._selection = selection
        self._changed = changed
        self._objects: Mapping[str, Manifest] = {}
        self._error: ClusterError | None = None
        self._stopped = threading.Event()
        self._response: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._version = self._list()
        self._thread.start()

    def stop(self) -> None:
        """End the watch, also in the middle of its waiting."""
        self._stopped.set()
        if self._thread.ident is None:
            return  # not started: the list of another kind was refused
        if self._response is not None:
            with contextlib.suppress(OSError, ValueError):  # it has just ended by itself
                self._response.shutdown()
        self._thread.join(TICK_SECONDS)  # it is a daemon: one that is slow ends with the process

    def objects(self) -> Mapping[str, Manifest]:
        """Return the objects by their names; raise what ended the watching."""
        if self._error is not None:
            raise self._error
        return self._objects

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                began = time.monotonic()
                self._watch()
                pause = _PAUSE_SECONDS - (time.monotonic() - began)
                if not self._stopped.wait(max(0.0, pause)):
                    self._version = self._list()
        except ClusterError as error:  # who waits raises it, and does what it did before
            self._error = error
        except Exception as error:  # a bug of ours must not leave anybody waiting
            _log.exception("the watch of %s ended", self._selection.kind)
            self._error = ClusterError(
                f"the watch of {self._selection.kind} ended: {error!r}",
                expected="that it goes on for as long as it is needed",
                remedy="report it, with the lines above",
            )
        finally:
            self._changed.set()

    def _list(self) -> str:
        """List the objects; return the version that a watch can begin at."""
        selection = self._selection
        found = self._cluster.list_objects(selection.kind, selection.labels, name=selection.name)
        self._objects = {item["metadata"]["name"]: item for item in found["items"]}
        self._changed.set()
        return str(found["metadata"]["resourceVersion"])

    def _watch(self) -> None:
        """Follow what happens until the watch ends; raise only what asking again cannot mend."""
        selection = self._selection
        try:
            for event in self._cluster.watch(
                selection.kind,
                selection.labels,
                name=selection.name,
                version=self._version,
                seconds=_WATCH_SECONDS,
                opened=self._keep,
            ):
                self._take(event["type"], event["raw_object"])
        except ClusterUnreachableError as error:  # the list that follows has a minute's patience
            _log.debug("watch of %s: %s", selection.kind, error.got)
        except ClusterError as error:
            if error.status != _GONE:
                raise

    def _keep(self, response: Any) -> None:
        self._response = response
        if self._stopped.is_set():
            response.shutdown()

    def _take(self, kind: str, item: Manifest) -> None:
        name = item["metadata"]["name"]
        objects = dict(self._objects)
        if kind == "DELETED":
            objects.pop(name, None)
        else:
            objects[name] = item
        self._objects = objects
        self._changed.set()
