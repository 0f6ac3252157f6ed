"""An API server of one kind of objects that can be listed and watched, and that a test disturbs."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes.client import ApiClient, Configuration
from urllib3 import Retry

from mlpipeline.backends.cluster.api import Cluster
from support.fake_cluster import discovery

END, BREAK = object(), object()


class WatchedServer:
    """Holds pods. A watch tells what is changed while it is open, and nothing of before."""

    def __init__(self) -> None:
        self.pods: dict[str, Any] = {}
        self.lists: list[dict[str, list[str]]] = []
        self.watches: list[dict[str, list[str]]] = []
        self.opened = threading.Semaphore(0)
        """Released when a watch has been opened."""
        self.refuse_lists: int = 0
        self.refuse_watches: int = 0
        self._version = 100
        self._events: queue.Queue[Any] = queue.Queue()

    def change(self, name: str, kind: str = "MODIFIED", **labels: str) -> None:
        """Change, add or delete a pod, and tell it to the watch that is open."""
        pod = self.change_in_silence(name, kind, **labels)
        self._events.put({"type": kind, "object": pod})

    def change_in_silence(self, name: str, kind: str = "MODIFIED", **labels: str) -> Any:
        """Change a pod while no watch tells of it."""
        self._version += 1
        pod = {"metadata": {"name": name, "labels": labels, "resourceVersion": str(self._version)}}
        if kind == "DELETED":
            self.pods.pop(name, None)
        else:
            self.pods[name] = pod
        return pod

    def expire(self) -> None:
        """Tell the watch that is open that its version is too old."""
        status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
        self._events.put({"type": "ERROR", "object": status})

    def end_watch(self) -> None:
        """End the watch that is open, as when its time is up."""
        self._events.put(END)

    def break_watch(self) -> None:
        """Have the connection of the open watch break."""
        self._events.put(BREAK)

    def events(self) -> Iterator[Any]:
        """Yield what the open watch has to tell, until it ends."""
        while (event := self._events.get()) is not END:
            yield event
            if event is BREAK or event["type"] == "ERROR":
                return

    def list(self) -> dict[str, Any]:
        """Return the list of all pods."""
        metadata = {"resourceVersion": str(self._version)}
        return {"kind": "PodList", "metadata": metadata, "items": [*self.pods.values()]}


def _handler(server: WatchedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            if (resources := discovery(url.path)) is not None:
                self._send(200, resources)
            elif "watch" in query:
                server.watches.append(query)
                if server.refuse_watches:
                    self._send(server.refuse_watches, {"message": "no watch"})
                else:
                    self._stream()
            else:
                server.lists.append(query)
                if server.refuse_lists:
                    self._send(server.refuse_lists, {"message": "no list"})
                else:
                    self._send(200, server.list())

        def _send(self, status: int, content: Any) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.close_connection = True
            server.opened.release()
            for event in server.events():
                if event is BREAK:
                    return
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def serving() -> Iterator[tuple[WatchedServer, Cluster]]:
    """Yield a server, and a cluster whose client gives up at once where it is refused."""
    server = WatchedServer()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    settings = Configuration(host=f"http://127.0.0.1:{http.server_port}")
    settings.proxy = None
    settings.retries = Retry(total=1, backoff_factor=0, raise_on_status=False)
    client = ApiClient(settings)
    try:
        yield server, Cluster(client, "shirts")
    finally:
        for _ in range(8):  # whatever still streams
            server.end_watch()
        client.rest_client.pool_manager.clear()
        http.shutdown()
        thread.join()
        http.server_close()
