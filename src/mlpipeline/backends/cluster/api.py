"""The Kubernetes API as these steps use it: plain manifests, applied by the server.

Objects are dictionaries, as in their YAML files: typed models would hide, and drop, what the
operators' own types add. https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes
from kubernetes.client import ApiClient, ApiException, Configuration
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from mlpipeline.errors import ClusterError, ClusterUnreachableError

Manifest = dict[str, Any]

_MANAGER = "mlpipeline"  # owns the fields that these steps set, and no others
_TIMEOUT = (5, 30)  # seconds to connect, and for an answer
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_FOLDERS = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Event": "/api/v1/namespaces/{}/events",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "TFJob": "/apis/kubeflow.org/v1/namespaces/{}/tfjobs",
    "InferenceService": "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices",
    "Workload": "/apis/kueue.x-k8s.io/v1beta1/namespaces/{}/workloads",
    "Workflow": "/apis/argoproj.io/v1alpha1/namespaces/{}/workflows",
}


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self._client = client

    def get(self, kind: str, name: str) -> Manifest | None:
        """Return an object, or None where there is none."""
        try:
            found: Manifest = self._call("GET", self._path(kind, name))
            return found
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def find(self, kind: str, selector: str = "") -> list[Manifest]:
        """Return the objects that have certain labels, such as `app=x,tier=y`."""
        query = [("labelSelector", selector)] if selector else []
        items: list[Manifest] = self._call("GET", self._path(kind), query=query)["items"]
        return items

    def apply(self, manifest: Manifest) -> Manifest:
        """Make an object be as the manifest says, whether it is there or not; return it."""
        path = self._path(manifest["kind"], manifest["metadata"]["name"])
        query = [("fieldManager", _MANAGER), ("force", "true")]
        applied: Manifest = self._call(
            "PATCH", path, query=query, body=manifest, content="application/apply-patch+yaml"
        )
        return applied

    def patch(self, kind: str, name: str, changes: Mapping[str, Any]) -> Manifest:
        """Change some fields; null removes one (RFC 7386)."""
        changed: Manifest = self._call(
            "PATCH", self._path(kind, name), body=changes, content="application/merge-patch+json"
        )
        return changed

    def delete(self, kind: str, name: str) -> None:
        """Delete an object and what it owns; it may be gone already."""
        try:
            self._call("DELETE", self._path(kind, name), body={"propagationPolicy": "Background"})
        except ClusterError as error:
            if error.status != 404:
                raise

    def follow_log(self, pod: str) -> Iterator[str]:
        """Yield the lines of a pod's log until the pod ends."""
        query = [("follow", "true")]
        response = self._stream("GET", self._path("Pod", f"{pod}/log"), query)
        rest = b""
        try:
            for piece in response.stream(amt=None, decode_content=False):
                *lines, rest = (rest + piece).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if rest:
                yield rest.decode(errors="replace")
        except HTTPError:  # the pod is gone, and its log with it
            return
        finally:
            response.release_conn()

    def last_lines(self, pod: str, count: int = 12) -> list[str]:
        """Return the last lines of a pod's log, as far as there is one."""
        try:
            response = self._stream(
                "GET", self._path("Pod", f"{pod}/log"), [("tailLines", str(count))]
            )
            lines: list[str] = response.data.decode(errors="replace").splitlines()
            return lines
        except (ClusterError, HTTPError):
            return []

    def _path(self, kind: str, name: str = "") -> str:
        return _FOLDERS[kind].format(self.namespace) + (f"/{name}" if name else "")

    def _stream(self, method: str, path: str, query: list[tuple[str, str]]) -> Any:
        try:
            return self._client.call_api(
                path,
                method,
                query_params=query,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=(5, 3600),
            )
        except (ApiException, HTTPError) as error:
            raise _refused(method, path, error) from error

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: list[tuple[str, str]] | None = None,
        body: Any = None,
        content: str = "application/json",
    ) -> Any:
        try:
            response = self._client.call_api(
                path,
                method,
                query_params=query or [],
                header_params={"Accept": "application/json", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=_TIMEOUT,
            )
        except (ApiException, HTTPError) as error:
            raise _refused(method, path, error) from error
        return json.loads(response.data)


def connect() -> Cluster:
    """Connect as the pod's service account, or outside of a pod as the current kube context.

    Raises:
        ClusterError: There is no cluster to connect to.
    """
    settings = Configuration()
    # A busy API server or a restarted one is no reason to fail a step: about a minute of patience.
    settings.retries = Retry(
        total=7,
        backoff_factor=0.5,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=None,  # everything here may be repeated
        raise_on_status=False,
    )
    try:
        if _NAMESPACE_FILE.exists():
            kubernetes.config.load_incluster_config(client_configuration=settings)
            namespace = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        else:
            kubernetes.config.load_kube_config(client_configuration=settings)
            _, context = kubernetes.config.list_kube_config_contexts()
            namespace = context["context"].get("namespace", "mlpipeline")
    except kubernetes.config.ConfigException as error:
        raise ClusterError(
            f"no cluster to connect to: {error}",
            expected="a pod with a service account, or a kube context",
            remedy="`kubectl config current-context` shows it; `make cluster` makes a local one",
        ) from error
    return Cluster(ApiClient(settings), namespace)


def _refused(method: str, path: str, error: Exception) -> ClusterError:
    status, message = getattr(error, "status", 0), str(error)
    with contextlib.suppress(ValueError, KeyError, TypeError):  # not an answer of the API server
        message = json.loads(getattr(error, "body", None) or "")["message"]
    kind = ClusterUnreachableError if not status or status >= 500 else ClusterError
    return kind(
        f"{method} {path}: {message}",
        expected="that the cluster's API does it",
        remedy="for a refusal look at manifests/base/roles.yaml; `make status` shows the platform",
        status=status,
    )
