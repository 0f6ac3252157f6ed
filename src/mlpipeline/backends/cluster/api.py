"""The Kubernetes API as these steps use it: plain manifests, applied by the server.

Objects are dictionaries, as in their YAML files: typed models would hide, and drop, what the
operators' own types add. Paths and plurals are the API server's own answers (discovery).
https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from urllib3 import Retry
from urllib3.exceptions import HTTPError

from mlpipeline import loading
from mlpipeline.backends.cluster import informers
from mlpipeline.errors import ClusterError, ClusterUnreachableError

# What it takes where it is installed: clouds' logins that Kubernetes 1.26 has removed, a check of
# manifests that the server does anyway.
with loading.without("adal", "google.auth", "kubernetes_validate"), loading.large_libraries():
    import kubernetes
    from kubernetes.client import ApiClient, ApiException, Configuration
    from kubernetes.dynamic import DynamicClient
    from kubernetes.dynamic.exceptions import ResourceNotFoundError
    from kubernetes.watch import Watch

Manifest = dict[str, Any]

_MANAGER = "mlpipeline"  # owns the fields that these steps set, and no others
_DEFAULT_NAMESPACE = "mlpipeline"  # outside of a pod, where nothing names one
_TIMEOUT = (5, 30)  # seconds to connect, and for an answer
_LOG_TIMEOUT = (5, 3600)  # a worker may compute for long without a word
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_PAGE = 100  # objects; a workflow may have a megabyte
# A path below a file: never there, never written. Discovery costs a few milliseconds a step, and a
# cache on the disk could be another cluster's.
_NO_CACHE = f"{os.devnull}/none"
_GROUPS = {
    "ConfigMap": "v1",
    "Event": "v1",
    "Pod": "v1",
    "ControllerRevision": "apps/v1",
    "Deployment": "apps/v1",
    "PodDisruptionBudget": "policy/v1",
    "TFJob": "kubeflow.org/v1",
    "InferenceService": "serving.kserve.io/v1beta1",
    "Workload": "kueue.x-k8s.io/v1beta1",
    "Workflow": "argoproj.io/v1alpha1",
}


_OPERATOR_IS_DOWN = (
    "start the operator again: `make status` says which is down, `make deploy` mends it"
)


class Cluster:
    """One namespace of a cluster.

    Every method raises `ClusterError` where the API server refuses, and `ClusterUnreachableError`
    where it has not answered for about a minute.
    """

    def __init__(self, client: ApiClient, namespace: str) -> None:
        """Use a connection for one namespace.

        Args:
            client: Where the API server is, and who we are for it. Nothing is asked yet.
            namespace: Namespace of all objects.
        """
        self.namespace = namespace
        self._client = client

    def get(self, kind: str, name: str) -> Manifest | None:
        """Return an object, or None where there is none."""
        resource = self.resource(kind)
        try:
            answer: Manifest = self._call("GET", resource, resource.get, name=name)
            return answer
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def find(self, kind: str, selector: str = "") -> list[Manifest]:
        """Return the objects that have certain labels.

        Args:
            kind: Their kind.
            selector: Labels and values, such as `app=x,tier=y`; empty for all objects.
        """
        return list(self.each(kind, selector))

    def each(self, kind: str, selector: str = "") -> Iterator[Manifest]:
        """Yield the objects that have certain labels; no more than a page of them is held at once.

        Args:
            kind: Their kind.
            selector: As of `find`.
        """
        resource, rest = self.resource(kind), None
        while True:
            page = self._call(
                "GET",
                resource,
                resource.get,
                label_selector=selector or None,
                limit=_PAGE,
                _continue=rest,
            )
            yield from page["items"]
            rest = page["metadata"].get("continue")
            if not rest:
                return

    def list_objects(self, kind: str, selector: str = "", *, name: str = "") -> Manifest:
        """Return the list of objects with its `resourceVersion`, where a watch can begin.

        Args:
            kind: Their kind.
            selector: Labels and values; empty for all objects.
            name: Name of the only object that counts; empty for all.
        """
        resource = self.resource(kind)
        answer: Manifest = self._call(
            "GET",
            resource,
            resource.get,
            label_selector=selector or None,
            field_selector=f"metadata.name={name}" if name else None,
        )
        return answer

    def apply(self, manifest: Manifest) -> Manifest:
        """Make an object be as the manifest says, whether it is there or not; return it."""
        resource = self.resource(manifest["kind"])
        applied: Manifest = self._call(
            "PATCH",
            resource,
            resource.server_side_apply,
            name=manifest["metadata"]["name"],
            body=manifest,
            field_manager=_MANAGER,
            force_conflicts="true",
        )
        return applied

    def patch(self, kind: str, name: str, changes: Mapping[str, Any]) -> Manifest:
        """Change some fields; null removes one (RFC 7386)."""
        resource = self.resource(kind)
        changed: Manifest = self._call(
            "PATCH",
            resource,
            resource.patch,
            name=name,
            body=dict(changes),
            content_type="application/merge-patch+json",
        )
        return changed

    def delete(self, kind: str, name: str) -> None:
        """Delete an object and what it owns; it may be gone already."""
        resource = self.resource(kind)
        body = {"propagationPolicy": "Background"}
        try:
            self._call("DELETE", resource, resource.delete, name=name, body=body)
        except ClusterError as error:
            if error.status != 404:
                raise

    def watch(
        self,
        kind: str,
        selector: str = "",
        *,
        name: str = "",
        version: str,
        seconds: int,
        opened: Callable[[Any], object],
    ) -> Iterator[Mapping[str, Any]]:
        """Yield what happens to objects, as `{"type": "ADDED", "raw_object": {…}}`, for a while.

        Args:
            kind: Their kind.
            selector: Labels and values; empty for all objects.
            name: Name of the only object that counts; empty for all.
            version: The `resourceVersion` that is known already.
            seconds: After so many the API server ends the watch.
            opened: Is given the response, which ends the watch when it is shut down.

        Raises:
            ClusterError: The watch was refused; with status 410 if the version is too old.
        """
        resource = self.resource(kind)

        def open_watch(**options: Any) -> Any:
            response = resource.get(namespace=self.namespace, serialize=False, **options)
            opened(response)
            return response

        try:
            # What DynamicClient.watch does, but with a limit for a connection that died in silence.
            yield from Watch().stream(
                open_watch,
                label_selector=selector or None,
                field_selector=f"metadata.name={name}" if name else None,
                resource_version=version,
                timeout_seconds=seconds,
                _request_timeout=(_TIMEOUT[0], seconds + _TIMEOUT[1]),
            )
        except (ApiException, HTTPError) as error:
            raise refused("GET", resource.path(namespace=self.namespace), error) from error

    def watching(self, *selections: informers.Selection) -> informers.View:
        """Return a view of some objects, for use in `with`, which the API server keeps current."""
        return informers.View(self, selections)

    def follow_log(self, pod: str) -> Iterator[str]:
        """Yield the lines of a pod's log until the pod ends."""
        response = self._log(pod, follow="true")
        rest = b""
        try:
            # Not kubernetes.watch, which drops a last line that no newline ends.
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
            response = self._log(pod, tailLines=str(count))
            lines: list[str] = response.data.decode(errors="replace").splitlines()
            return lines
        except (ClusterError, HTTPError):
            return []

    def resource(self, kind: str) -> Any:
        """Return a kind's `kubernetes.dynamic.Resource`: its path, and its verbs as methods."""
        version = _GROUPS[kind]
        prefix = "apis" if "/" in version else "api"
        try:
            return self._dynamic.resources.get(prefix=prefix, api_version=version, kind=kind)
        except ResourceNotFoundError as error:
            raise ClusterError(
                f"the cluster does not know {kind} of {version}",
                expected="a cluster with the platform on it",
                remedy="`make deploy` installs it; `make status` shows it",
                status=404,
            ) from error
        except (ApiException, HTTPError) as error:
            raise refused("GET", f"/{prefix}/{version}", error) from error

    @functools.cached_property
    def _dynamic(self) -> Any:
        return DynamicClient(self._client, cache_file=_NO_CACHE)

    def _log(self, pod: str, **query: str) -> Any:
        resource = self.resource("Pod")
        return self._call(
            "GET",
            resource.log,
            resource.log.get,
            name=pod,
            query_params=list(query.items()),
            serialize=False,
            _request_timeout=_LOG_TIMEOUT,
        )

    def _call(
        self,
        method: str,
        resource: Any,
        verb: Callable[..., Any],
        *,
        name: str = "",
        **options: Any,
    ) -> Any:
        given = {"name": name} if name else {}
        try:
            return verb(
                namespace=self.namespace,
                serializer=_as_it_is,
                **given,
                **{"_request_timeout": _TIMEOUT} | options,
            )
        except (ApiException, HTTPError) as error:
            path = resource.path(name=name or None, namespace=self.namespace)
            raise refused(method, path, error) from error


def _as_it_is(_: Any, content: Any) -> Any:
    return content


def connect() -> Cluster:
    """Connect as the pod's service account, or outside of a pod as the current kube context.

    Raises:
        ClusterError: There is no cluster to connect to.
    """
    settings = Configuration()
    settings.no_proxy = os.environ.get("no_proxy")  # the client reads it, and forgets it again
    # A busy API server or a restarted one is no reason to fail a step: about a minute of patience.
    # urllib3's own, which knows of Retry-After, rather than tenacity around every call.
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
            settings.proxy = None  # which it has from the variables; this is the pod's own cluster
            namespace = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        else:
            kubernetes.config.load_kube_config(client_configuration=settings)
            _, context = kubernetes.config.list_kube_config_contexts()
            namespace = context["context"].get("namespace") or os.environ.get(
                "NAMESPACE", _DEFAULT_NAMESPACE
            )
    except kubernetes.config.ConfigException as error:
        raise ClusterError(
            f"no cluster to connect to: {error}",
            expected="a pod with a service account, or a kube context",
            remedy="`kubectl config current-context` shows it; `make cluster` makes a local one",
        ) from error
    return Cluster(ApiClient(settings), namespace)


def refused(method: str, path: str, error: Exception) -> ClusterError:
    """Return the error for a request that failed, with the API server's reason if it gave one.

    Args:
        method: HTTP method.
        path: Path of the request.
        error: What the client raised.
    """
    status, message = getattr(error, "status", None) or 0, str(error)
    with contextlib.suppress(ValueError, KeyError, TypeError):  # not an answer of the API server
        message = json.loads(getattr(error, "body", None) or "")["message"]
    kind = ClusterUnreachableError if not status or status >= 500 else ClusterError
    return kind(
        f"{method} {path}: {message}",
        expected="that the cluster's API does it",
        remedy=_OPERATOR_IS_DOWN
        if "failed calling webhook" in message
        else "for a refusal look at manifests/base/roles.yaml; `make status` shows the platform",
        status=status,
    )
